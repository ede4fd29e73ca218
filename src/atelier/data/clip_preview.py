"""``atelier data preview`` of a colouring run: training clips exactly as the network will see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atelier.data.preview import sheet_of

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.data.clip_batch import ClipBatch
    from atelier.data.clip_data import ClipData
    from atelier.degrade.base import Pixels

_BETWEEN = 4


def clip_sheet(data: ClipData, path: Path, *, steps: Sequence[int] = (1,), limit: int = 16) -> int:
    """Write a PNG with one tile per clip of the given steps: its references, then its frames in true colours.

    Below the frames stands what the network is given of them, their lightness. Each tile has its number ``step.clip``
    and the sample's name: film, frames, reference.

    Args:
        data: whose batches are shown.
        path: the sheet.
        steps: which training steps.
        limit: at most so many clips.

    Returns:
        How many clips are shown.
    """
    return sheet_of(data, path, steps, limit, _tiles)


def _tiles(batch: ClipBatch, step: int) -> Iterator[tuple[Pixels, str]]:
    for place, name in enumerate(batch.samples):
        yield _tile(batch, place), f"{step}.{place} {name}"


def _tile(batch: ClipBatch, place: int) -> Pixels:
    """References and frames of one clip side by side, lightness below: RGB uint8."""
    shown, frames = _pictures(batch.reference[place]), _pictures(batch.lab[place])
    grey = batch.lab[place].clone()
    grey[:, 1:] = 0
    under = [*(np.zeros_like(each) for each in shown), *_pictures(grey)]
    return np.concatenate([_row([*shown, *frames], len(shown)), _row(under, len(shown))], axis=0)


def _row(pictures: Sequence[Pixels], references: int) -> Pixels:
    """Pictures side by side, with a gap after the references."""
    gap = np.zeros((pictures[0].shape[0], _BETWEEN, 3), np.uint8)
    return np.concatenate([*pictures[:references], gap, *pictures[references:]], axis=1)


def _pictures(lab: Tensor) -> list[Pixels]:
    """Unit LAB ``[N, 3, h, w]`` as pictures ``h×w×3`` uint8."""
    from atelier.images.lab import LabScale, lab_to_rgb
    from atelier.images.tensors import from_tensor

    return [from_tensor(each) for each in lab_to_rgb(LabScale.UNIT.restore(lab.cpu()))]
