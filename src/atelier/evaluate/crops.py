"""Places of pictures that are worth a closer look: where versions differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atelier.evaluate.embedding import Layer
from atelier.evaluate.results import Pixels, as_dtype

#: Side of a crop in gt pixels.
CROP_SIDE = 64
#: Top, left, height, width in gt pixels.
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """One place of one picture in every version, to be shown enlarged."""

    image: str
    layers: list[Layer]
    width: int
    height: int
    left: int
    top: int
    values: dict[str, str]


def largest_difference(first: Pixels, second: Pixels, side: int, scale: int) -> Window:
    """Top, left, height, width of the square of ``side`` pixels in which two pictures differ most (squared error).

    The square is aligned to whole lq pixels and lies inside the picture; smaller pictures give themselves.
    """
    difference: npt.NDArray[np.float64] = as_dtype(first, np.float64) - as_dtype(second, np.float64)
    return strongest_window((difference * difference).sum(axis=2), side, scale)


def largest_disagreement(versions: list[Pixels], side: int, scale: int) -> Window:
    """The same for any number of pictures: where their squared deviations from their mean are largest."""
    stack: npt.NDArray[np.float64] = np.stack([as_dtype(version, np.float64) for version in versions])
    return strongest_window(((stack - stack.mean(axis=0)) ** 2).sum(axis=(0, 3)), side, scale)


def strongest_window(energy: npt.NDArray[np.float64], side: int, scale: int) -> Window:
    """The square of ``side`` pixels with the largest sum of ``energy`` (H×W), aligned to whole lq pixels.

    Of equals the first one, row by row; a picture smaller than ``side`` gives itself.
    """
    height, width = (max(scale, min(length, side) // scale * scale) for length in energy.shape)
    total = np.zeros((energy.shape[0] + 1, energy.shape[1] + 1))
    total[1:, 1:] = energy.cumsum(axis=0).cumsum(axis=1)
    boxes = (
        total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    )
    places = boxes[::scale, ::scale]
    row, column = divmod(int(places.argmax()), places.shape[1])
    return row * scale, column * scale, height, width
