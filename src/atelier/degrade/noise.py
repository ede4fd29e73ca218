"""Additive white Gaussian noise, the classical denoising setting."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from atelier.degrade.base import Degradation, DegradationOptions, Pixels, check_range, to_float
from atelier.degrade.bicubic import Bicubic
from atelier.randomness import Streams

NoiseOrder = Literal["rgb", "bgr"]
Field64 = np.ndarray[Any, np.dtype[np.float64]]


class GaussianNoise(Degradation):
    """``lq = reduce(gt) + N(0, (sigma / 255)^2)``, independent per value; not clipped, not rounded.

    That is the training noise of DnCNN (Zhang et al., TIP 2017) as KAIR implements it. Above scale 1 the
    picture is reduced first (unrounded bicubic), so the noise is white in the network's input.

    With ``noise_seed`` it is the field's test protocol instead: see :func:`protocol_noise`.

    Args:
        scale: 1 for denoising.
        sigma: ``(low, high)`` in units of 0..255; drawn evenly per sample, fixed when both are equal.
        noise_seed: None draws the field from the sample's streams.
        noise_order: order of the channels in which the field of ``noise_seed`` is drawn.
    """

    def __init__(
        self,
        scale: int,
        sigma: tuple[float, float],
        noise_seed: int | None = None,
        noise_order: NoiseOrder = "rgb",
    ) -> None:
        self.scale = scale
        self.sigma, self.noise_seed, self.noise_order = sigma, noise_seed, noise_order
        self._reduce = Bicubic(scale, lq_round=False) if scale > 1 else None
        self.context = self._reduce.context if self._reduce else 0

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """``{"sigma": s}``, the standard deviation of this sample in units of 0..255."""
        low, high = self.sigma
        return {"sigma": low if low == high else float(streams("sigma").uniform(low, high))}

    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """Float32 ``H/scale x W/scale x C`` around [0, 1]; values may leave that range."""
        clean = self._reduce.apply(gt, {}, streams) if self._reduce else to_float(gt)
        sigma = parameters["sigma"]
        if self.noise_seed is not None:
            # The sum is taken in float64, as the test scripts do, and rounded once.
            noisy: Pixels = clean + protocol_noise(clean.shape, sigma, self.noise_seed, self.noise_order)
            return noisy.astype(np.float32)
        field = streams("noise").standard_normal(clean.shape, dtype=np.float32)
        return clean + field * np.float32(sigma / 255)


def protocol_noise(shape: tuple[int, ...], sigma: float, seed: int, order: NoiseOrder = "rgb") -> Field64:
    """The noise field that published denoising numbers were measured with.

    NumPy's legacy generator, seeded afresh for every picture, ``normal(0, sigma / 255, (H, W, C))``. The official
    script of SwinIR draws it on channels in BGR order, KAIR on RGB; on colour pictures the fields differ.

    Args:
        shape: ``(H, W, C)``.
        sigma: standard deviation in units of 0..255.
        seed: 0 in both programs.
        order: of the channels while drawing; the result is in RGB order.

    Returns:
        float64 ``H x W x C`` with 1.0 as white.
    """
    field: Field64 = np.random.RandomState(seed).normal(0, sigma / 255, shape)
    return field[:, :, ::-1] if order == "bgr" else field


class GaussianNoiseOptions(DegradationOptions):
    """``degradation: {type: gaussian_noise, sigma: 25}`` or ``sigma: [0, 50]``."""

    type: Literal["gaussian_noise"] = "gaussian_noise"
    sigma: float | tuple[float, float] = Field(
        25.0, description="standard deviation in units of 0..255, or [low, high] to draw it per sample"
    )
    noise_seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="for validation sets: the same noise on every picture, drawn as the field's test scripts do "
        "with this seed (they use 0); null: noise of the run's own seed",
    )
    noise_order: NoiseOrder = Field(
        "rgb",
        description="bgr: noise_seed draws colour noise in BGR order, as SwinIR's test script; rgb: as KAIR",
    )

    @field_validator("sigma")
    @classmethod
    def _in_order(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        check_range("sigma", value, 0, 255)
        return value

    @model_validator(mode="after")
    def _order_needs_seed(self) -> Self:
        if self.noise_order != "rgb" and self.noise_seed is None:
            raise ValueError("noise_order does nothing without noise_seed")
        return self

    def build(self, scale: int) -> GaussianNoise:
        """The operator for pictures ``scale`` times larger than the network's input."""
        low, high = self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)
        return GaussianNoise(scale, (low, high), self.noise_seed, self.noise_order)
