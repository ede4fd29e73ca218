"""Steps of :mod:`atelier.degrade.steps` as tensor arithmetic on any device, from the same records.

Every sample is a tensor of its own here: sizes differ from sample to sample at almost every step, and a kernel that
sees one sample at a time cannot let its neighbours, the batch's size or the ranks change a bit. Nothing is drawn and
nothing waits for the device, so the calls for a whole batch queue up there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.degrade.jpeg_torch import jpeg_round_trip_torch
from atelier.degrade.poisson_torch import poisson_counts
from atelier.degrade.steps import Step
from atelier.degrade.usm import mirrored, usm_sharp

Operator = Callable[[Tensor, Step, Iterator[Tensor]], Tensor]


def carry_out_on_device(picture: Tensor, steps: Sequence[Step], numbers: Sequence[Tensor]) -> Tensor:
    """Apply ``steps`` in order.

    Args:
        picture: ``1 x C x H x W`` float32 in [0, 1], C = 1 or 3; not changed.
        steps: records; the operators are those that Real-ESRGAN's pipeline draws.
        numbers: of :func:`atelier.degrade.device_numbers.numbers_of` for the same steps, on the picture's device.
    """
    left = iter(numbers)
    for step in steps:
        picture = _OPERATORS[step["op"]](picture, step, left)
    return picture


def mirror_before(picture: Tensor, top: int, left: int) -> Tensor:
    """``... x H x W`` with ``top`` rows and ``left`` columns mirrored before it, the edge repeated."""
    for axis, count in ((-2, top), (-1, left)):
        if count:
            length = picture.shape[axis]
            place = torch.arange(-count, length, device=picture.device) % (2 * length)
            picture = picture.index_select(axis, torch.minimum(place, 2 * length - 1 - place))
    return picture


def whole_levels(picture: Tensor, white: int) -> Tensor:
    """Clipped to [0, 1] and rounded half to even to multiples of 1/``white``."""
    # A tensor made there, because dividing a GPU tensor by a number multiplies by its rounded inverse.
    return torch.round(picture.clamp(0, 1) * white) / torch.full((), float(white), device=picture.device)


def _sharpen(picture: Tensor, step: Step, numbers: Iterator[Tensor]) -> Tensor:
    return usm_sharp(picture).clamp(0, 1)


def _filter(picture: Tensor, step: Step, numbers: Iterator[Tensor]) -> Tensor:
    kernel = next(numbers)
    if kernel.ndim == 2:
        return _correlated(picture, kernel)
    return _correlated(_correlated(picture, kernel[None, :]), kernel[:, None])


def _correlated(picture: Tensor, kernel: Tensor) -> Tensor:
    """Every channel correlated with ``kernel``; the border is mirrored without repeating the edge."""
    channels, height, width = picture.shape[1:]
    rows, columns = kernel.shape
    if rows > 1:
        picture = picture.index_select(2, mirrored(height, rows // 2, picture.device))
    if columns > 1:
        picture = picture.index_select(3, mirrored(width, columns // 2, picture.device))
    # Depthwise: an ordinary convolution may round to TF32 on a GPU.
    return F.conv2d(picture, kernel.expand(channels, 1, rows, columns).contiguous(), groups=channels)


def _interpolate(picture: Tensor, step: Step, numbers: Iterator[Tensor]) -> Tensor:
    size, factor = (step["size"][0], step["size"][1]), step.get("factor")
    if size == picture.shape[2:] and factor in (None, 1):
        return picture
    if step["mode"] == "area":
        return F.interpolate(picture, size=size, mode="area")
    if factor is None:
        return F.interpolate(picture, size=size, mode=step["mode"], align_corners=False)
    return F.interpolate(picture, scale_factor=factor, mode=step["mode"], align_corners=False)


def _gaussian(picture: Tensor, step: Step, numbers: Iterator[Tensor]) -> Tensor:
    return (picture + next(numbers).permute(2, 0, 1)).clamp(0, 1)


def _level_poisson(picture: Tensor, step: Step, numbers: Iterator[Tensor]) -> Tensor:
    """:func:`atelier.degrade.noises.level_poisson_noise`, the counts by the inverse of their distribution."""
    even = next(numbers).permute(2, 0, 1)[None]
    of = picture
    if step["grey"] and picture.shape[1] == 3:
        of = 0.299 * picture[:, :1] + 0.587 * picture[:, 1:2] + 0.114 * picture[:, 2:]
    levels = torch.round(of.clamp(0, 1) * 255).long()
    counts, white = poisson_counts(levels, even)
    noise = counts / white - levels / 255
    return torch.clamp(picture + noise * step["scale"], 0, 1)


def _jpeg(picture: Tensor, step: Step, numbers: Iterator[Tensor]) -> Tensor:
    return jpeg_round_trip_torch(picture, next(numbers))


def _jpeg_reference(picture: Tensor, step: Step, numbers: Iterator[Tensor]) -> Tensor:
    return jpeg_round_trip_torch(picture, next(numbers), arithmetic="reference")


_OPERATORS: dict[str, Operator] = {
    "sharpen": _sharpen,
    "filter": _filter,
    "interpolate": _interpolate,
    "gaussian": _gaussian,
    "level_poisson": _level_poisson,
    "jpeg": _jpeg,
    "jpeg_reference": _jpeg_reference,
}
