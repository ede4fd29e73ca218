"""``atelier data preview``: a contact sheet of training pairs exactly as the network will see them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from atelier.data.batch import Batch
from atelier.data.loader import TrainingData
from atelier.degrade.base import Pixels

_GAP, _LINE = 8, 14


def preview_sheet(data: TrainingData, path: Path, *, steps: Sequence[int] = (1,), limit: int = 64) -> int:
    """Write a PNG with one tile per sample of the given steps: lq (enlarged by pixel repetition) left, gt right.

    Below each stands its number ``step.sample``, its file and the corner of its crop. Values outside of [0, 1]
    (noise) are clipped for showing only.

    Args:
        data: whose batches are shown.
        path: the sheet.
        steps: which training steps.
        limit: at most so many samples.

    Returns:
        How many samples are shown.
    """
    tiles: list[Pixels] = []
    labels: list[str] = []
    for step in steps:
        for batch in data.batches(step, step):
            new_tiles, new_labels = _tiles(batch, step)
            tiles += new_tiles
            labels += new_labels
        if len(tiles) >= limit:
            break
    write_sheet(path, tiles[:limit], labels[:limit])
    return len(tiles[:limit])


def _tiles(batch: Batch, step: int) -> tuple[list[Pixels], list[str]]:
    scale = batch.gt.shape[-1] // batch.lq.shape[-1]
    pairs = [
        np.concatenate([np.kron(_pixels(lq), np.ones((scale, scale, 1), np.uint8)), _pixels(gt)], axis=1)
        for lq, gt in zip(batch.lq, batch.gt, strict=True)
    ]
    labels = []
    for k, sample in enumerate(batch.samples):
        place, _, corner = sample.rpartition(" @ ")
        labels.append(f"{step}.{k} {Path(place).name} @ {corner}")
    return pairs, labels


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
