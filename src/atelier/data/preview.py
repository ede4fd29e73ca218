"""``atelier data preview``: a contact sheet of training pairs exactly as the network will see them."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from atelier.data.batch import Batch
from atelier.data.loader import TrainingData
from atelier.data.stream import SampleStream
from atelier.degrade.base import Pixels, to_uint8
from atelier.files import atomic_write

_GAP, _LINE = 8, 14
_TILE, _LABEL_LINES = 256, 4


def preview_sheet(
    data: TrainingData, path: Path, *, steps: Sequence[int] = (1,), limit: int = 64, stages: int = 1
) -> int:
    """Write a PNG with one tile per sample of the given steps: lq (enlarged by pixel repetition) left, gt right.

    Below each stands its number ``step.sample``, its file and the corner of its crop. Values outside of [0, 1]
    (noise) are clipped for showing only.

    Beside it, where lq is made by a degradation, ``NAME_steps.png`` shows how the first samples are made, step by step
    with everything drawn, and ``NAME_steps.json`` holds the same numbers in full.

    Args:
        data: whose batches are shown.
        path: the sheet.
        steps: which training steps.
        limit: at most so many samples.
        stages: how many samples of the first step are shown step by step.

    Returns:
        How many samples are shown.
    """
    shown = sheet_of(data, path, steps, limit, _tiles)
    if stages and data.assembler.degradation is not None:
        count = min(stages, len(data.assembler.share))
        write_stages(data, stages_path(path), step=steps[0], samples=range(count))
    return shown


def sheet_of(
    data: SampleStream,
    path: Path,
    steps: Sequence[int],
    limit: int,
    tiles: Callable[[Any, int], Iterable[tuple[Pixels, str]]],
) -> int:
    """Write the first ``limit`` samples of ``steps`` on one sheet.

    Args:
        data: whose batches are shown.
        path: the sheet.
        steps: which training steps.
        limit: at most so many samples.
        tiles: the pictures, all of one size, and labels of a batch and its step.

    Returns:
        How many samples are shown.
    """
    drawn = (each for step in steps for batch in data.batches(step, step) for each in tiles(batch, step))
    shown = list(itertools.islice(drawn, limit))
    write_sheet(path, [tile for tile, _ in shown], [label for _, label in shown])
    return len(shown)


def stages_path(sheet: Path) -> Path:
    """The picture of the steps beside a sheet of :func:`preview_sheet`; ``.json`` of that name holds the numbers."""
    return sheet.with_name(f"{sheet.stem}_steps.png")


def write_stages(data: TrainingData, path: Path, *, step: int, samples: Sequence[int]) -> None:
    """A picture with one row per sample of ``step``: the clean crop with its surroundings, then after every step.

    Each picture is enlarged by whole pixels as far as it fits its place; sizes are named. The numbers are written
    beside it as JSON: ``[{"step", "sample", "parameters"}]``.
    """
    rows: list[list[tuple[str, Pixels]]] = []
    records = []
    for sample in samples:
        parameters, clean, stages = data.assembler.stages(step, sample)
        rows.append([(clean_caption(data, step, sample, parameters), clean), *stages])
        records.append({"step": step, "sample": sample, "parameters": parameters})
    atomic_write(path.with_suffix(".json"), json.dumps(records, indent=1) + "\n")
    _draw_rows(path, rows)


def clean_caption(data: TrainingData, step: int, sample: int, parameters: dict[str, Any]) -> str:
    """The first picture's caption: which sample it is, and what the pictures after it cannot show."""
    parts, degradation = [f"step {step}, sample {sample}: clean"], data.assembler.degradation
    if degradation is not None:
        parts += degradation.remarks(parameters)
        if degradation.on_device:
            parts.append("run_on: device, but the steps shown are the processor's")
    return "; ".join(parts)


def _draw_rows(path: Path, rows: Sequence[Sequence[tuple[str, Pixels]]]) -> None:
    from PIL import Image, ImageDraw

    from atelier.images import write_image

    height, width = _TILE + _LINE * _LABEL_LINES + _GAP, _TILE + _GAP
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * width + _GAP, len(rows) * height + _GAP), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for down, row in enumerate(rows):
        for across, (label, pixels) in enumerate(row):
            corner = (_GAP + across * width, _GAP + down * height)
            picture = Image.fromarray(_rgb8(pixels))
            times = _TILE / max(picture.size)
            if times >= 1:
                times = int(times)
            size = (max(1, int(picture.width * times)), max(1, int(picture.height * times)))
            sheet.paste(
                picture.resize(size, Image.Resampling.NEAREST if times >= 1 else Image.Resampling.BOX), corner
            )
            text = f"{across}. {label} ({pixels.shape[0]}x{pixels.shape[1]})"
            lines = textwrap.wrap(text, width=_TILE // 6)[:_LABEL_LINES]
            draw.text((corner[0], corner[1] + _TILE + 1), "\n".join(lines), fill=(230, 230, 230))
    write_image(path, np.asarray(sheet))


def _rgb8(pixels: Pixels) -> Pixels:
    levels = to_uint8(pixels)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels[:, :, :3]


def _tiles(batch: Batch, step: int) -> Iterator[tuple[Pixels, str]]:
    scale = batch.gt.shape[-1] // batch.lq.shape[-1]
    for k, (lq, gt, sample) in enumerate(zip(batch.lq, batch.gt, batch.samples, strict=True)):
        enlarged = np.kron(_pixels(lq), np.ones((scale, scale, 1), np.uint8))
        place, _, corner = sample.rpartition(" @ ")
        yield (
            np.concatenate([enlarged, _pixels(gt)], axis=1),
            f"{step}.{k} {Path(place).name} @ {corner}",
        )


def _pixels(tensor: Tensor) -> Pixels:
    """One sample as RGB uint8."""
    array = tensor.detach().cpu().permute(1, 2, 0).numpy()
    pixels: Pixels = np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, :3]


def write_sheet(path: Path, tiles: Sequence[Pixels], labels: Sequence[str]) -> None:
    """Arrange equal RGB tiles in a near-square grid with a label under each."""
    from PIL import Image, ImageDraw

    from atelier.images import write_image

    height, width = tiles[0].shape[:2]
    cell_height, cell_width = height + _LINE + _GAP, width + _GAP
    columns = max(1, min(len(tiles), round((len(tiles) * cell_height / cell_width) ** 0.5)))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * cell_width + _GAP, rows * cell_height + _GAP), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for number, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x = _GAP + number % columns * cell_width
        y = _GAP + number // columns * cell_height
        sheet.paste(Image.fromarray(tile), (x, y))
        while len(label) > 4 and draw.textlength(label) > width:
            label = label[:-2].rstrip("…") + "…"
        draw.text((x, y + height + 1), label, fill=(230, 230, 230))
    write_image(path, np.asarray(sheet))
