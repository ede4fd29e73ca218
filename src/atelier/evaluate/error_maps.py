"""Differences of pictures as pictures: two colours around a neutral grey, on a scale that several maps share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atelier.evaluate.results import Pixels, as_dtype
from atelier.images import rgb_to_y

Values = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

#: Nothing differs.
NEUTRAL: Colour = (245, 245, 245)
#: Share of the values that the common scale holds; the few beyond it are drawn as its ends.
HELD = 0.995
#: Ends a scale may have, in levels of 8 bit.
STEPS = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 255)


@dataclass(frozen=True)
class Scale:
    """What the colours of a group of maps mean.

    Attributes:
        limit: levels of 8 bit at which a colour is full; larger values look the same.
        below, above: colours of ``-limit`` and ``+limit``.
    """

    limit: int
    below: Colour
    above: Colour

    @property
    def gradient(self) -> str:
        """The scale from left to right as CSS; both it and the maps mix colours linearly."""
        return (
            "linear-gradient(to right, "
            + ", ".join(f"rgb{colour}".replace(", ", ",") for colour in (self.below, NEUTRAL, self.above))
            + ")"
        )

    def paint(self, values: Values) -> Pixels:
        """Levels (H×W) as uint8 RGB (H×W×3)."""
        share = np.clip(values / self.limit, -1.0, 1.0)[:, :, None]
        ends = np.where(share < 0, np.array(self.below, float), np.array(self.above, float))
        mixed = np.array(NEUTRAL, float) * (1 - np.abs(share)) + ends * np.abs(share)
        painted: Pixels = np.rint(mixed).astype(np.uint8)
        return painted


def signed_error(restored: Pixels, gt: Pixels) -> Values:
    """Restored minus gt in luma (BT.601; grey pictures as they are), H×W, in levels of 8 bit."""
    return _brightness(restored) - _brightness(gt)


def common_scale(maps: Iterable[Values], below: Colour, above: Colour) -> Scale:
    """The smallest scale of :data:`STEPS` that holds 99.5 % of all values of ``maps`` together."""
    sizes = np.concatenate([np.abs(each).ravel() for each in maps])
    wanted = float(np.quantile(sizes, HELD))
    return Scale(next((step for step in STEPS if step >= wanted), STEPS[-1]), below, above)


def _brightness(pixels: Pixels) -> Values:
    unit: Values = as_dtype(pixels, np.float64)
    return 255 * (unit if unit.shape[2] == 1 else rgb_to_y(unit))[:, :, 0]
