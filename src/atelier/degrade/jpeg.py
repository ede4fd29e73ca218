"""JPEG compression: the artefact removal setting of ARCNN, DnCNN and SwinIR."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from atelier.degrade.base import Degradation, DegradationOptions, Pixels, check_range
from atelier.degrade.bicubic import Bicubic
from atelier.degrade.codec import jpeg_round_trip
from atelier.randomness import Streams

BLOCK = 8
"""Side of JPEG's blocks in pixels."""


class JPEG(Degradation):
    """``lq = decode(encode(reduce(gt), quality))``.

    In a training crop the grid of 8x8 blocks starts at the crop's corner with probability ``aligned_prob``, otherwise
    at one of the 64 places (KAIR's recipe), so that the network meets pictures that were cut after compression. For
    that the crop is mirrored ``offset`` pixels beyond its top and left, encoded, and cut again; only the outermost
    blocks see mirrored instead of true neighbours. Above scale 1 the picture is reduced first (rounded bicubic).

    Args:
        scale: 1 for artefact removal.
        quality: ``(low, high)``, whole numbers, drawn evenly and inclusively per sample.
        aligned_prob: probability of a grid that starts at the corner.
    """

    def __init__(self, scale: int, quality: tuple[int, int], aligned_prob: float = 0.5) -> None:
        self.scale = scale
        self.quality, self.aligned_prob = quality, aligned_prob
        self._reduce = Bicubic(scale) if scale > 1 else None
        self.context = self._reduce.context if self._reduce else 0

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """``{"quality": q, "offset": [y, x]}``: rows and columns of the first blocks that lie outside the crop."""
        low, high = self.quality
        quality = low if low == high else int(streams("jpeg quality").integers(low, high, endpoint=True))
        moved, down, right = streams("jpeg grid").random(3).tolist()
        aligned = moved < self.aligned_prob
        return {"quality": quality, "offset": [0, 0] if aligned else [int(BLOCK * down), int(BLOCK * right)]}

    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """uint8 ``H/scale x W/scale x C``."""
        clean = self._reduce.apply(gt, {}, streams) if self._reduce else gt
        top, left = parameters["offset"]
        if top or left:
            clean = np.pad(clean, ((top, 0), (left, 0), (0, 0)), mode="symmetric")
        return np.ascontiguousarray(jpeg_round_trip(clean, parameters["quality"])[top:, left:])

    def for_whole_pictures(self) -> JPEG:
        """The same with the grid at the picture's corner, where every encoder puts it."""
        return JPEG(self.scale, self.quality, aligned_prob=1.0)


class JPEGOptions(DegradationOptions):
    """``degradation: {type: jpeg, quality: 40}`` or ``quality: [10, 95]``."""

    type: Literal["jpeg"] = "jpeg"
    quality: int | tuple[int, int] = Field(
        40, description="libjpeg's quality 1..100, or [low, high] to draw it per sample"
    )
    aligned_prob: float = Field(
        0.5,
        ge=0,
        le=1,
        description="training: probability that the 8x8 grid starts at the crop's corner instead of anywhere",
    )

    @field_validator("quality")
    @classmethod
    def _in_order(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        check_range("quality", value, 1, 100)
        return value

    def build(self, scale: int) -> JPEG:
        """The operator for pictures ``scale`` times larger than the network's input."""
        low, high = self.quality if isinstance(self.quality, tuple) else (self.quality, self.quality)
        return JPEG(scale, (low, high), self.aligned_prob)
