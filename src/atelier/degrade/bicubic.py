"""MATLAB's antialiased bicubic reduction, the field's classical super-resolution setting."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from atelier.degrade.base import Degradation, DegradationOptions, Pixels, to_float
from atelier.errors import UserError
from atelier.randomness import Streams


class Bicubic(Degradation):
    """``imresize(gt, 1/scale)``.

    The cubic kernel (Keys 1981, a = -0.5) stretched by ``scale`` reaches two ``lq`` pixels to each side,
    hence ``context = 2``.

    Args:
        scale: integer reduction, at least 2.
        lq_round: True rounds to the levels of the file format, as released LR files are; False keeps the
            unrounded, unclipped float result, as KAIR trains.
    """

    context = 2

    def __init__(self, scale: int, lq_round: bool = True) -> None:
        self.scale = scale
        self.lq_round = lq_round

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """Nothing is random."""
        return {}

    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """Reduce; integers stay integers when rounding, float pictures are rounded to 8-bit levels then."""
        from atelier.images import imresize

        small: Pixels = imresize(gt if self.lq_round else to_float(gt), scale=1 / self.scale)
        if self.lq_round and small.dtype.kind == "f":
            small = np.rint(np.clip(small, 0, 1) * np.float32(255)) / np.float32(255)
        return small


class BicubicOptions(DegradationOptions):
    """``degradation: {type: bicubic}``: the low-resolution picture is MATLAB's bicubic reduction."""

    type: Literal["bicubic"] = "bicubic"
    lq_round: bool = Field(
        True, description="round lq to whole levels as released files are; false: KAIR's float lq"
    )

    def build(self, scale: int) -> Bicubic:
        """The operator; raises :class:`UserError` at scale 1, where it would change nothing."""
        if scale < 2:
            raise UserError(
                "degradation bicubic needs a scale of 2 or more; at scale 1 use gaussian_noise or pairs"
            )
        return Bicubic(scale, self.lq_round)
