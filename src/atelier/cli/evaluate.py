"""``atelier evaluate``: one model on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atelier.cli.compare import (
    CROP,
    DEVICE,
    GT,
    LATENCY,
    LQ,
    PLUGIN,
    PRECISION,
    SIZE,
    TEMPLATE,
    TILE,
    _Path,
    finish,
    measure,
)


def evaluate(
    model: Annotated[Path, typer.Option("-m", "--model", help="Weights: .pth, .safetensors.")],
    gt: GT,
    lq: LQ = None,
    output: Annotated[
        _Path, typer.Option("-o", "--output", help="Folder of the report; default: none.")
    ] = None,
    template: TEMPLATE = None,
    crop_border: CROP = None,
    size: SIZE = "128x128",
    latency: LATENCY = True,
    tile: TILE = None,
    precision: PRECISION = "fp32",
    device: DEVICE = "auto",
    plugin: PLUGIN = None,
) -> None:
    """Measure a model: PSNR, SSIM, LPIPS, colour shift, size and time, beside nearest and bicubic.

    Exit code 1 when single pictures could not be measured, 2 when nothing could be done.
    """
    measured = measure(
        [model],
        gt,
        lq,
        judge=False,
        criteria=None,
        run=None,
        figures=None,
        output=output,
        template=template,
        precision=precision,
        device=device,
        plugin=plugin,
        size=size,
        crop_border=crop_border,
        timed=latency,
        tile=tile,
    )
    finish(measured)
