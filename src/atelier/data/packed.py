"""Clean crops on their way to a degradation that runs on the training device.

Crops and what their steps need differ in size from sample to sample, so each kind travels as one flat tensor: two
copies to the device for a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atelier.degrade.base import Degradation, Pixels, to_float


@dataclass(frozen=True)
class Clean:
    """A sample before its degradation.

    Attributes:
        pixels: the crop with its surroundings, ``H x W x C``.
        margins: lq pixels of surroundings at the top, left, bottom and right.
        parameters: what was drawn.
        numbers: of :meth:`Degradation.device_numbers`.
        name: ``file @ y,x``.
    """

    pixels: Pixels
    margins: tuple[int, int, int, int]
    parameters: dict[str, Any]
    numbers: Sequence[Pixels]
    name: str


@dataclass(frozen=True)
class Job:
    """What is known of a sample beside its pixels and numbers; ``white`` is its largest level, None for floats."""

    shape: tuple[int, int, int]
    white: int | None
    margins: tuple[int, int, int, int]
    parameters: dict[str, Any]
    number_shapes: list[tuple[int, ...]]


class Packed(NamedTuple):
    """One rank's share of a step as it travels between processes.

    Attributes:
        pixels: all crops one after another, uint8 where every picture is, else float32 with 1.0 as white.
        numbers: all numbers, float32.
        jobs: one a sample.
        samples: one ``file @ y,x`` each.
    """

    pixels: Tensor
    numbers: Tensor
    jobs: list[Job]
    samples: list[str]


def pack(samples: Sequence[Clean]) -> Packed:
    """Lay samples one after another."""
    crops = [sample.pixels for sample in samples]
    if any(crop.dtype != np.uint8 for crop in crops):
        crops = [to_float(crop) for crop in crops]
    numbers = [each.ravel() for sample in samples for each in sample.numbers]
    return Packed(
        pixels=torch.from_numpy(np.concatenate([crop.ravel() for crop in crops])),
        numbers=torch.from_numpy(np.concatenate([np.empty(0, np.float32), *numbers])),
        jobs=[_job(sample) for sample in samples],
        samples=[sample.name for sample in samples],
    )


def _job(sample: Clean) -> Job:
    height, width, channels = sample.pixels.shape
    return Job(
        shape=(height, width, channels),
        white=None if sample.pixels.dtype.kind == "f" else int(np.iinfo(sample.pixels.dtype).max),
        margins=sample.margins,
        parameters=sample.parameters,
        number_shapes=[each.shape for each in sample.numbers],
    )


@torch.no_grad()
def degrade_packed(
    packed: Packed, degradation: Degradation, white: Tensor, together: int | None = None
) -> tuple[Tensor, Tensor]:
    """``(lq, gt)``, ``N x C x h x w`` and ``N x C x H x W`` float32, where ``packed`` lies.

    Args:
        packed: its tensors on the device.
        degradation: has a form for the device.
        white: 255 as a tensor there.
        together: see :meth:`Degradation.apply_on_device`.
    """
    pixels, jobs = packed.pixels, packed.jobs
    # One operator for all pixels; the samples are views of its result.
    levels = pixels / white if pixels.dtype == torch.uint8 else pixels
    clean = [
        crop.permute(2, 0, 1)[None].contiguous() for crop in _pieces(levels, [job.shape for job in jobs])
    ]
    numbers = _pieces(packed.numbers, [shape for job in jobs for shape in job.number_shapes])
    pairs = degradation.apply_on_device(
        clean,
        [job.parameters for job in jobs],
        [[next(numbers) for _ in job.number_shapes] for job in jobs],
        [job.white for job in jobs],
        together,
    )
    lqs, gts = zip(*pairs, strict=True)
    margins = [job.margins for job in jobs]
    return (
        torch.cat([_trimmed(lq, each, 1) for lq, each in zip(lqs, margins, strict=True)]),
        torch.cat([_trimmed(gt, each, degradation.scale) for gt, each in zip(gts, margins, strict=True)]),
    )


def _pieces(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> Iterator[Tensor]:
    """``flat`` cut into views of ``shapes``."""
    start = 0
    for shape in shapes:
        count = int(np.prod(shape))
        yield flat[start : start + count].view(shape)
        start += count


def _trimmed(pictures: Tensor, margins: tuple[int, int, int, int], unit: int) -> Tensor:
    """Without the surroundings; ``unit`` is the side of an lq pixel."""
    top, left, bottom, right = (unit * each for each in margins)
    height, width = pictures.shape[-2:]
    return pictures[..., top : height - bottom, left : width - right]
