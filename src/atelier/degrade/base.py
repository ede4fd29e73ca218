"""What a degradation is: the operator that makes the network's input out of a clean picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from atelier.options.base import Component, Registry
from atelier.randomness import Streams

if TYPE_CHECKING:
    from torch import Tensor

Pixels = np.ndarray[Any, np.dtype[Any]]
"""A picture ``H x W x C``: uint8, uint16, or float32 in [0, 1]."""


class Degradation(ABC):
    """Makes ``lq`` out of ``gt``.

    ``draw`` decides everything random that can be written; ``apply`` is a pure function of the picture, those
    parameters and the sample's streams (needed where a whole field of numbers is random, such as noise).

    Attributes:
        scale: how many times larger ``gt`` is than ``lq``.
        context: how many ``lq`` pixels around an output pixel it depends on. Crops are degraded with that
            much of their surroundings, so that a crop's ``lq`` is the crop of the whole picture's ``lq``. Operators
            that draw per sample (noise, JPEG, the random pipelines) state what they need beyond that themselves.
        pool: 0, or from how many samples before its step a training sample is taken (see
            :class:`atelier.data.plan.SamplePlan`).
        on_device: training makes lq with :meth:`apply_on_device`; everything else always uses :meth:`apply`.
    """

    scale: int
    context: int = 0
    pool: int = 0
    on_device: bool = False

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

        The result holds whole levels in the dtype of ``gt`` (or uint8) where the operator rounds, else float32
        with 1.0 as white.
        """

    def target(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """What the network shall give back: ``gt`` itself unless the operator trains on a sharpened picture.

        A pure function of its arguments, of the shape and dtype of ``gt``. ``apply`` gets the unchanged ``gt``.
        """
        return gt

    def stages(
        self, gt: Pixels, parameters: dict[str, Any], streams: Streams
    ) -> Iterator[tuple[str, Pixels]]:
        """What was drawn for each step, in words, and the picture after it; the last one is that of ``apply``."""
        yield (
            ", ".join(f"{key} {value}" for key, value in parameters.items()),
            self.apply(gt, parameters, streams),
        )

    def remarks(self, parameters: dict[str, Any]) -> list[str]:
        """What :meth:`stages` has no picture of, each in a few words: a stage that was not drawn."""
        return []

    def device_numbers(
        self, parameters: dict[str, Any], shape: tuple[int, int, int], streams: Streams
    ) -> list[Pixels]:
        """Float32 arrays that :meth:`apply_on_device` needs beside ``parameters``: noise fields, kernels.

        Made by a loader process; only an operator whose ``on_device`` can be true has them.

        Args:
            parameters: of ``draw``.
            shape: of the clean picture, as ``draw`` got it.
            streams: the sample's.
        """
        raise NotImplementedError(f"{type(self).__name__} has no form for the device")

    def apply_on_device(
        self,
        gts: Sequence[Tensor],
        parameters: Sequence[dict[str, Any]],
        numbers: Sequence[Sequence[Tensor]],
        whites: Sequence[int | None],
        together: int | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """``(lq, target)`` of every sample of a batch as tensor arithmetic on its device, without waiting for it.

        A sample's result must not depend on who is beside it.

        Args:
            gts: ``1 x C x H x W`` float32 in [0, 1], each of its size; not changed.
            parameters: of ``draw``, for each.
            numbers: of :meth:`device_numbers`, on that device, for each.
            whites: the largest level of each picture's integers; None for floats.
            together: at most this many samples in one computation; None: as suits the device.

        Returns:
            ``1 x C x H/scale x W/scale`` and ``1 x C x H x W``, float32, on whole levels where :meth:`apply` and
            :meth:`target` round.
        """
        raise NotImplementedError(f"{type(self).__name__} has no form for the device")

    def for_whole_pictures(self) -> Degradation:
        """The operator that validation uses on whole pictures; differs where training imitates a crop's place."""
        return self


class DegradationOptions(Component):
    """Options of one degradation.

    ``has_device_form`` is true where the operator has ``apply_on_device``.
    """

    has_device_form: ClassVar[bool] = False

    run_on: Literal["workers", "device"] = Field(
        "workers",
        description="where training makes lq: in the loader's processes, or on the device that trains (realesrgan)",
    )

    @model_validator(mode="after")
    def _can_run_there(self) -> Self:
        if self.run_on == "device" and not self.has_device_form:
            kind = getattr(self, "type", type(self).__name__)
            raise ValueError(
                f"run_on: device is not possible with type {kind}, which runs in the loader's processes only; leave "
                "run_on out (type realesrgan can run on the device)"
            )
        return self

    def build(self, scale: int) -> Degradation:
        """The operator for pictures ``scale`` times larger than the network's input."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What the user should know about these values although they are allowed; a sentence each."""
        return []


DEGRADATIONS: Registry[DegradationOptions] = Registry(
    "degradation",
    {
        "bicubic": "atelier.degrade.bicubic:BicubicOptions",
        "bsrgan": "atelier.degrade.bsrgan:BSRGANOptions",
        "gaussian_noise": "atelier.degrade.noise:GaussianNoiseOptions",
        "infrared": "atelier.degrade.infrared:InfraredOptions",
        "jpeg": "atelier.degrade.jpeg:JPEGOptions",
        "realesrgan": "atelier.degrade.realesrgan_options:RealESRGANOptions",
    },
)


def check_range(name: str, value: float | tuple[float, float], least: float, most: float) -> None:
    """A number within ``least``..``most``, or two such in order; raises ValueError with what is wrong."""
    low, high = value if isinstance(value, tuple) else (value, value)
    if not (least <= low <= most and least <= high <= most):
        raise ValueError(f"{name} must be within {least:g}..{most:g}")
    if low > high:
        raise ValueError(f"{name} is a range [low, high]; [{low:g}, {high:g}] is the wrong way round")


def to_float(pixels: Pixels) -> Pixels:
    """Pixels as float32 with 1.0 as white: integers divided by their largest value, floats unchanged."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def to_uint8(pixels: Pixels) -> Pixels:
    """Pixels as uint8: clipped to [0, 1] and rounded half to even; uint8 is returned as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(np.clip(to_float(pixels), 0, 1) * np.float32(255)).astype(np.uint8)
