"""Additive white Gaussian noise, the classical denoising setting."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from atelier.degrade.base import Degradation, DegradationOptions, Pixels, to_float
from atelier.degrade.bicubic import Bicubic
from atelier.randomness import Streams


class GaussianNoise(Degradation):
    """``lq = reduce(gt) + N(0, (sigma / 255)^2)``, independent per value; not clipped, not rounded.

    That is the training noise of DnCNN (Zhang et al., TIP 2017) as KAIR implements it. Above scale 1 the
    picture is reduced first (unrounded bicubic), so the noise is white in the network's input.

    Args:
        scale: 1 for denoising.
        sigma: ``(low, high)`` in units of 0..255; drawn evenly per sample, fixed when both are equal.
    """

    def __init__(self, scale: int, sigma: tuple[float, float]) -> None:
        self.scale = scale
        self.sigma = sigma
        self._reduce = Bicubic(scale, lq_round=False) if scale > 1 else None
        self.context = self._reduce.context if self._reduce else 0

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """``{"sigma": s}``, the standard deviation of this sample in units of 0..255."""
        low, high = self.sigma
        return {"sigma": low if low == high else float(streams("sigma").uniform(low, high))}

    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """Float32 ``H/scale x W/scale x C`` around [0, 1]; values may leave that range."""
        clean = self._reduce.apply(gt, {}, streams) if self._reduce else to_float(gt)
        field = streams("noise").standard_normal(clean.shape, dtype=np.float32)
        return clean + field * np.float32(parameters["sigma"] / 255)


class GaussianNoiseOptions(DegradationOptions):
    """``degradation: {type: gaussian_noise, sigma: 25}`` or ``sigma: [0, 50]``."""

    type: Literal["gaussian_noise"] = "gaussian_noise"
    sigma: float | tuple[float, float] = Field(
        25.0, description="standard deviation in units of 0..255, or [low, high] to draw it per sample"
    )

    @field_validator("sigma")
    @classmethod
    def _in_order(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        low, high = value if isinstance(value, tuple) else (value, value)
        if not 0 <= low <= high <= 255:
            raise ValueError("sigma must be within 0..255, and a range must be [low, high]")
        return value

    def build(self, scale: int) -> GaussianNoise:
        """The operator for pictures ``scale`` times larger than the network's input."""
        low, high = self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)
        return GaussianNoise(scale, (low, high))
