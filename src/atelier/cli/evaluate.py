"""``atelier evaluate``: one model on pictures, or a colorizer on films."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

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
from atelier.cli.restore import LAUNCHER
from atelier.errors import UserError, did_you_mean

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Texts = Optional[list[str]]  # noqa: UP045
_Paths = Optional[list[Path]]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045
_Text = Optional[str]  # noqa: UP045
_FILMS = "With --task colorize: "
_TASKS = ("restore", "colorize")


def evaluate(
    gt: GT,
    model: Annotated[
        _Path,
        typer.Option(
            "-m",
            "--model",
            help="Weights (.pth, .safetensors) or an exported model. Colorizers also work without.",
        ),
    ] = None,
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
    launcher: LAUNCHER = "none",
    task: Annotated[
        str, typer.Option("--task", help="restore: pictures; colorize: true films, coloured in every mode.")
    ] = "restore",
    reference: Annotated[
        _Texts,
        typer.Option(
            "--reference", help=_FILMS + "as atelier colorize; default: each film's own first frame."
        ),
    ] = None,
    anchor: Annotated[_Texts, typer.Option("--anchor", help=_FILMS + "FRAME=PICTURE.")] = None,
    first_frame: Annotated[
        _Text,
        typer.Option(
            "--first-frame", help=_FILMS + "without --reference that frame is exemplar (default) or anchor."
        ),
    ] = None,
    result: Annotated[
        _Paths,
        typer.Option(
            "--result", help=_FILMS + "films that were coloured already, in place of a model; repeat it."
        ),
    ] = None,
    short_side: Annotated[
        _Int, typer.Option("--short-side", help=_FILMS + "of the frames that networks see; default 256.")
    ] = None,
    scene_cut: Annotated[
        _Text,
        typer.Option(
            "--scene-cut", help=_FILMS + "auto (default), content, off, or a file, as atelier colorize."
        ),
    ] = None,
    memflow: Annotated[_Path, typer.Option("--memflow-ckpt", help=_FILMS + "MemFlow's weights.")] = None,
    swintexco: Annotated[_Path, typer.Option("--swintexco-ckpt", help=_FILMS + "SwinTExCo's folder.")] = None,
    fusion: Annotated[_Path, typer.Option("--fusion-ckpt", help=_FILMS + "a fusion network.")] = None,
    backbone: Annotated[
        _Path, typer.Option("--backbone-weights", help=_FILMS + "weights of SwinTExCo's Swin transformer.")
    ] = None,
) -> None:
    """Measure a model: PSNR, SSIM, LPIPS, colour shift, size and time, beside nearest and bicubic.

    With --task colorize: a colorizer on true films, grey, exemplar, flow, average and fused in one table.

    Exit code 1 when single pictures could not be measured, 2 when nothing could be done.
    """
    parts: dict[str, Any] = {
        "--memflow-ckpt": memflow,
        "--swintexco-ckpt": swintexco,
        "--fusion-ckpt": fusion,
    }
    films = parts | {"--backbone-weights": backbone, "--reference": reference, "--anchor": anchor}
    films |= {
        "--first-frame": first_frame,
        "--result": result,
        "--short-side": short_side,
        "--scene-cut": scene_cut,
    }
    if task == "colorize":
        pictures: dict[str, Any] = {
            "--lq": lq,
            "--filename-tmpl": template,
            "--crop-border": crop_border,
            "--tile": tile,
        }
        pictures |= {
            "--plugin": plugin,
            "--launcher": None if launcher == "none" else launcher,
            "--size": None if size == "128x128" else size,
            "--no-latency": None if latency else "",
            "--precision": None if precision == "fp32" else precision,
        }
        refuse(pictures, "is for pictures, not for --task colorize")
        from atelier.cli.evaluate_films import FilmsToEvaluate, evaluate_films
        from atelier.colorize.opening import WeightFiles

        weights = WeightFiles(model, memflow, swintexco, backbone, fusion)
        evaluate_films(
            FilmsToEvaluate(
                gt,
                result or (),
                weights,
                reference or (),
                anchor or (),
                "exemplar" if first_frame is None else first_frame,
                256 if short_side is None else short_side,
                scene_cut or "auto",
                output,
                device,
            )
        )
        return
    if task != "restore":
        raise UserError(f"--task {task}: allowed are restore and colorize{did_you_mean(task, _TASKS)}")
    refuse(films, "is for --task colorize")
    if model is None:
        raise UserError("-m names the model to measure; only --task colorize works without one")
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
        launcher=launcher,
    )
    finish(measured)


def refuse(given: dict[str, Any], why: str) -> None:
    """Raise :class:`~atelier.errors.UserError` for options that have a value and mean nothing here."""
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise UserError(f"{named[0]} {why}")
