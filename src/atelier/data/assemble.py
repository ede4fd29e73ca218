"""From a step's number to its pixels: cut, flip, degrade, stack. Runs in loader processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from atelier.data.channels import Grey, fit_channels
from atelier.data.packed import Clean, Packed, pack
from atelier.data.plan import SampleDraw, SamplePlan
from atelier.data.shards import Reader
from atelier.data.sources import Shape
from atelier.data.stepping import Failure
from atelier.degrade.base import Degradation, Pixels, to_float
from atelier.errors import UserError
from atelier.randomness import Streams


class Assembled(NamedTuple):
    """One rank's share of a step as it travels between processes.

    Attributes:
        gt, lq: ``N x H x W x C``; uint8 where every picture is (a quarter of the bytes), else float32.
        samples: one ``file @ y,x`` each (top left corner in gt pixels).
    """

    gt: torch.Tensor
    lq: torch.Tensor
    samples: list[str]


@dataclass(frozen=True)
class Cut:
    """A crop with its surroundings: ``pixels`` and how many lq pixels of context lie before and after the crop."""

    pixels: Pixels
    top: int
    left: int
    bottom: int
    right: int


class Assembler:
    """``assembler[step]`` is this rank's share of that step.

    Args:
        plan: decides pictures, crops and flips.
        gt, lq: readers of the pictures; ``lq`` None makes it by ``degradation``.
        lq_shapes: ``(h, w, C)`` of every whole lq picture.
        degradation: makes lq of clean crops.
        scale: gt side / lq side.
        in_channels: channels of both tensors.
        share: which samples of the global batch.
        grey_from: how RGB becomes grey for one channel; ``mixed`` draws luma or Y per sample.
    """

    def __init__(
        self,
        plan: SamplePlan,
        *,
        gt: Reader,
        lq: Reader | None,
        lq_shapes: Sequence[Shape],
        degradation: Degradation | None,
        scale: int,
        in_channels: int,
        share: range,
        grey_from: Literal["luma", "y", "mixed"] = "luma",
    ) -> None:
        self.plan, self.gt, self.lq, self.degradation = plan, gt, lq, degradation
        self.scale, self.in_channels, self.share = scale, in_channels, share
        self.grey_from = grey_from
        self._lq_shapes = list(lq_shapes)

    def __getitem__(self, step: int) -> Assembled | Packed | Failure:
        """The share of step ``step``, packed where the degradation runs on the device; a user's error comes back as
        :class:`Failure`, for it must cross processes."""
        try:
            if self.degradation is not None and self.degradation.on_device:
                return pack([self.clean(step, k) for k in self.share])
            pairs = [self.sample(step, k) for k in self.share]
        except UserError as error:
            return Failure(str(error))
        return Assembled(
            gt=stack([gt for gt, _, _ in pairs]),
            lq=stack([lq for _, lq, _ in pairs]),
            samples=[s for _, _, s in pairs],
        )

    def sample(self, step: int, k: int) -> tuple[Pixels, Pixels, str]:
        """``(gt, lq, name)`` of sample ``k`` of step ``step``, HWC."""
        step, k = self.plan.origin(step, k)
        draw = self.plan.draw(step, k)
        streams = Streams(self.plan.seed, step, k)
        name = self._name(draw)
        if self.lq is not None:
            grey = self._grey(streams)
            gt = self._cut(self.gt.picture(draw.picture), draw, self.scale, 0, grey)
            lq = self._cut(self.lq.picture(draw.picture), draw, 1, 0, grey)
            return turn(gt.pixels, draw), turn(lq.pixels, draw), name
        cut, parameters = self._to_degrade(draw, streams)
        assert self.degradation is not None
        lq_pixels = self.degradation.apply(cut.pixels, parameters, streams)
        gt_pixels = self.degradation.target(cut.pixels, parameters, streams)
        return trim(gt_pixels, cut, self.scale), trim(lq_pixels, cut, 1), name

    def clean(self, step: int, k: int) -> Clean:
        """Sample ``k`` of step ``step`` for a degradation that runs on the device."""
        step, k = self.plan.origin(step, k)
        draw = self.plan.draw(step, k)
        streams = Streams(self.plan.seed, step, k)
        cut, parameters = self._to_degrade(draw, streams)
        assert self.degradation is not None
        height, width, channels = cut.pixels.shape
        numbers = self.degradation.device_numbers(parameters, (height, width, channels), streams)
        margins = (cut.top, cut.left, cut.bottom, cut.right)
        return Clean(cut.pixels, margins, parameters, numbers, self._name(draw))

    def stages(self, step: int, k: int) -> tuple[dict[str, Any], Pixels, list[tuple[str, Pixels]]]:
        """How sample ``k`` of step ``step`` is degraded: what was drawn, the clean crop with its surroundings, and
        every step in words with the picture after it. The data set must have no lq of its own."""
        step, k = self.plan.origin(step, k)
        streams = Streams(self.plan.seed, step, k)
        cut, parameters = self._to_degrade(self.plan.draw(step, k), streams)
        assert self.degradation is not None
        return parameters, cut.pixels, list(self.degradation.stages(cut.pixels, parameters, streams))

    def _name(self, draw: SampleDraw) -> str:
        return f"{self.gt.places[draw.picture]} @ {draw.y * self.scale},{draw.x * self.scale}"

    def _to_degrade(self, draw: SampleDraw, streams: Streams) -> tuple[Cut, dict[str, Any]]:
        """The clean crop with its surroundings, turned, and the drawn parameters."""
        assert self.degradation is not None
        grey = self._grey(streams)
        cut = self._cut(self.gt.picture(draw.picture), draw, self.scale, self.degradation.context, grey)
        cut = turn_cut(cut, draw)
        height, width, channels = cut.pixels.shape
        return cut, self.degradation.draw(streams, (height, width, channels))

    def _grey(self, streams: Streams) -> Grey:
        if self.grey_from != "mixed":
            return self.grey_from
        return "y" if streams("grey").random() < 0.5 else "luma"

    def _cut(self, picture: Pixels, draw: SampleDraw, unit: int, context: int, grey: Grey) -> Cut:
        """The crop with up to ``context`` lq pixels around it, padded where the picture is too small.

        ``unit`` is the side of an lq pixel in this picture: the scale for gt, 1 for lq.
        """
        side = self.plan.lq_size
        height, width, _ = self._lq_shapes[draw.picture]
        top, left = min(context, draw.y), min(context, draw.x)
        bottom = min(context, max(0, height - draw.y - side))
        right = min(context, max(0, width - draw.x - side))
        y0, x0 = draw.y - top, draw.x - left
        y1, x1 = min(height, draw.y + side + bottom), min(width, draw.x + side + right)
        pixels = np.ascontiguousarray(picture[y0 * unit : y1 * unit, x0 * unit : x1 * unit])
        missing = ((top + side + bottom) - (y1 - y0), (left + side + right) - (x1 - x0))
        if any(missing):
            # Mirrored with the edge repeated: the only mirroring under which lq and gt still show the same place.
            pixels = np.pad(
                pixels, ((0, missing[0] * unit), (0, missing[1] * unit), (0, 0)), mode="symmetric"
            )
        return Cut(fit_channels(pixels, self.in_channels, grey), top, left, bottom, right)


def turn(pixels: Pixels, draw: SampleDraw) -> Pixels:
    """Apply the flips of a draw; contiguous."""
    if not (draw.hflip or draw.vflip or draw.transpose):
        return pixels
    import cv2

    shape = pixels.shape
    if draw.hflip or draw.vflip:
        pixels = cv2.flip(pixels, 1 if not draw.vflip else 0 if not draw.hflip else -1)
    if draw.transpose:
        pixels = cv2.transpose(pixels)
        shape = (shape[1], shape[0], shape[2])
    return pixels.reshape(shape)  # OpenCV drops the axis of a single channel


def turn_cut(cut: Cut, draw: SampleDraw) -> Cut:
    """Flip a crop together with its surroundings."""
    top, left, bottom, right = cut.top, cut.left, cut.bottom, cut.right
    if draw.hflip:
        left, right = right, left
    if draw.vflip:
        top, bottom = bottom, top
    if draw.transpose:
        top, left, bottom, right = left, top, right, bottom
    return Cut(turn(cut.pixels, draw), top, left, bottom, right)


def trim(pixels: Pixels, cut: Cut, unit: int) -> Pixels:
    """Take the surroundings off again."""
    height, width = pixels.shape[:2]
    return pixels[cut.top * unit : height - cut.bottom * unit, cut.left * unit : width - cut.right * unit]


def stack(pictures: Sequence[Pixels]) -> torch.Tensor:
    """``N x H x W x C``: uint8 when all pictures are, else float32 in which 1.0 is white."""
    if any(pixels.dtype != np.uint8 for pixels in pictures):
        pictures = [to_float(pixels) for pixels in pictures]
    return torch.from_numpy(np.stack(pictures))
