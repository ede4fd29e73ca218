"""What a degradation is: the operator that makes the network's input out of a clean picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from atelier.options.base import Component, Registry
from atelier.randomness import Streams

Pixels = np.ndarray[Any, np.dtype[Any]]
"""A picture ``H x W x C``: uint8, uint16, or float32 in [0, 1]."""


class Degradation(ABC):
    """Makes ``lq`` out of ``gt``.

    ``draw`` decides everything random that can be written; ``apply`` is a pure function of the picture, those
    parameters and the sample's streams (needed where a whole field of numbers is random, such as noise).

    Attributes:
        scale: how many times larger ``gt`` is than ``lq``.
        context: how many ``lq`` pixels around an output pixel it depends on. Crops are degraded with that
            much of their surroundings, so that a crop's ``lq`` is the crop of the whole picture's ``lq``.
    """

    scale: int
    context: int = 0

    @abstractmethod
    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """Every parameter of this sample, JSON-able; ``{}`` when nothing is random.

        Args:
            streams: the sample's random streams.
            shape: ``(H, W, C)`` of the clean picture.
        """

    @abstractmethod
    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """Spoil ``gt`` (``H x W x C``; H and W multiples of ``scale``) to ``H/scale x W/scale x C``.

        The result has the dtype of ``gt`` where the operator rounds, else float32 with 1.0 as white.
        """


class DegradationOptions(Component):
    """Options of one degradation."""

    def build(self, scale: int) -> Degradation:
        """The operator for pictures ``scale`` times larger than the network's input."""
        raise NotImplementedError


DEGRADATIONS: Registry[DegradationOptions] = Registry(
    "degradation",
    {
        "bicubic": "atelier.degrade.bicubic:BicubicOptions",
        "gaussian_noise": "atelier.degrade.noise:GaussianNoiseOptions",
    },
)


def to_float(pixels: Pixels) -> Pixels:
    """Pixels as float32 with 1.0 as white: integers divided by their largest value, floats unchanged."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
