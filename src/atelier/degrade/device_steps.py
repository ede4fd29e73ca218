"""Steps of :mod:`atelier.degrade.steps` as tensor arithmetic on any device, from the same records.

The samples of a batch walk through their lists together: who comes to a step that pays when it is shared (filters,
sharpening, Poisson noise, JPEG: many small operators) waits there for the others, and they take it on one canvas
(:mod:`atelier.degrade.ragged`). Sizes differ almost always (the grid's place and the drawn factors), so resizing and
adding a field, one or two operators each, stay with the sample.

Who shares a canvas changes no bit of a sample on the CPU: every operator either works on single values, on blocks of
eight or on a sorted line of one picture, or adds up a pixel's products in a fixed order. On other devices that rests on
their libraries; the tests ask the CPU's. Nothing is drawn and nothing waits for the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.degrade.device_numbers import NUMBERED
from atelier.degrade.jpeg_torch import Arithmetic, jpeg_round_trip_torch, whole_blocks
from atelier.degrade.poisson_torch import poisson_counts
from atelier.degrade.ragged import bordered, by_groups, correlated, size_of, stacked, unstacked
from atelier.degrade.steps import Step
from atelier.degrade.usm import usm_sharp_each

Operator = Callable[[Sequence[Tensor], Sequence[Step], Sequence[Tensor]], list[Tensor]]
"""Pictures ``1 x C x h x w``, their steps of one kind, and the steps' numbers (none for a step without)."""


def carry_out_on_device(
    pictures: Sequence[Tensor],
    steps: Sequence[Sequence[Step]],
    numbers: Sequence[Sequence[Tensor]],
    together: int | None = None,
) -> list[Tensor]:
    """Apply to each picture its ``steps`` in order.

    Args:
        pictures: ``1 x C x H x W`` float32 in [0, 1], C = 1 or 3, each of its size; not changed.
        steps: a list of records for each; the operators are those that Real-ESRGAN's pipeline draws.
        numbers: of :func:`atelier.degrade.device_numbers.numbers_of` for each picture's steps, on its device.
        together: see :func:`at_once`; the result is the same with all values.
    """
    if not pictures:
        return []
    together = at_once(pictures[0], together)
    done, left = list(pictures), [list(each) for each in numbers]
    waiting = [list(each) for each in steps]
    while any(waiting):
        kinds = {k: _kind(each[0], left[k]) for k, each in enumerate(waiting) if each}
        counts = Counter(kinds.values())
        kind = min(counts, key=lambda each: (_ORDER.index(each[0]), -counts[each]))
        members = [k for k in kinds if kinds[k] == kind]
        taken = [waiting[k].pop(0) for k in members]
        own = [left[k].pop(0) for k in members] if kind[0] in NUMBERED else []
        results = _in_groups(_OPERATORS[kind[0]], [done[k] for k in members], taken, own, together)
        for k, picture in zip(members, results, strict=True):
            done[k] = picture
    return done


def _in_groups(
    operator: Operator,
    pictures: Sequence[Tensor],
    steps: Sequence[Step],
    numbers: Sequence[Tensor],
    together: int | None,
) -> list[Tensor]:
    def compute(group: list[int]) -> list[Tensor]:
        own = [numbers[k] for k in group] if numbers else []
        return operator([pictures[k] for k in group], [steps[k] for k in group], own)

    return by_groups(compute, [size_of(picture) for picture in pictures], together)


def at_once(picture: Tensor, together: int | None = None) -> int | None:
    """How many samples like ``picture`` share a canvas: ``together`` where it is given.

    Else on the CPU as fill the eight channels that its depthwise filters work on at a time, for a larger canvas leaves
    the cache and wastes what lies beyond the smaller pictures; elsewhere as many as memory allows (None).
    """
    if together is not None or picture.device.type != "cpu":
        return together
    return 8 // picture.shape[1]


def sharpened_on_device(pictures: Sequence[Tensor], together: int | None = None) -> list[Tensor]:
    """:func:`atelier.degrade.usm.usm_sharp` of pictures ``1 x C x h x w``."""
    if not pictures:
        return []
    together = at_once(pictures[0], together)
    return by_groups(
        lambda group: usm_sharp_each([pictures[index] for index in group]),
        [size_of(picture) for picture in pictures],
        together,
    )


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


def _kind(step: Step, numbers: Sequence[Tensor]) -> tuple[str, bool]:
    """What must be equal for two steps to be carried out together."""
    op = step["op"]
    if op == "filter":
        return op, numbers[0].ndim == 2
    return op, op == "level_poisson" and bool(step["grey"])


def _sharpen(pictures: Sequence[Tensor], steps: Sequence[Step], numbers: Sequence[Tensor]) -> list[Tensor]:
    return [sharp.clamp(0, 1) for sharp in usm_sharp_each(pictures)]


def _filter(pictures: Sequence[Tensor], steps: Sequence[Step], numbers: Sequence[Tensor]) -> list[Tensor]:
    """Correlated with kernels ``k x k``, or one way and the other with ``k`` taps; smaller ones get zeros around."""
    sizes, most = [size_of(picture) for picture in pictures], max(len(kernel) for kernel in numbers)
    kernels = torch.stack([_padded(kernel, (most - len(kernel)) // 2) for kernel in numbers])
    canvas = stacked([bordered(picture, (most // 2,) * 2) for picture in pictures])
    if kernels.ndim == 3:
        return unstacked(correlated(canvas, kernels), sizes)
    return unstacked(correlated(correlated(canvas, kernels[:, None, :]), kernels[:, :, None]), sizes)


def _padded(kernel: Tensor, margin: int) -> Tensor:
    return F.pad(kernel, (margin,) * 2 * kernel.ndim) if margin else kernel


def _interpolate(
    pictures: Sequence[Tensor], steps: Sequence[Step], numbers: Sequence[Tensor]
) -> list[Tensor]:
    return [_interpolated(picture, step) for picture, step in zip(pictures, steps, strict=True)]


def _interpolated(picture: Tensor, step: Step) -> Tensor:
    size, factor = (step["size"][0], step["size"][1]), step.get("factor")
    if size == size_of(picture) and factor in (None, 1):
        return picture
    if step["mode"] == "area":
        return F.interpolate(picture, size=size, mode="area")
    if factor is None:
        return F.interpolate(picture, size=size, mode=step["mode"], align_corners=False)
    return F.interpolate(picture, scale_factor=factor, mode=step["mode"], align_corners=False)


def _gaussian(pictures: Sequence[Tensor], steps: Sequence[Step], numbers: Sequence[Tensor]) -> list[Tensor]:
    return [
        (picture + field.permute(2, 0, 1)).clamp(0, 1)
        for picture, field in zip(pictures, numbers, strict=True)
    ]


def _level_poisson(
    pictures: Sequence[Tensor], steps: Sequence[Step], numbers: Sequence[Tensor]
) -> list[Tensor]:
    """:func:`atelier.degrade.noises.level_poisson_noise`, the counts by the inverse of their distribution."""
    canvas = stacked(pictures)
    even = stacked([each.permute(2, 0, 1)[None] for each in numbers], fill=-1.0)
    of = canvas
    if steps[0]["grey"] and canvas.shape[1] == 3:
        of = 0.299 * canvas[:, :1] + 0.587 * canvas[:, 1:2] + 0.114 * canvas[:, 2:]
    levels = torch.round(of.clamp(0, 1) * 255).long()
    counts, white = poisson_counts(levels.flatten(1), even.flatten(1))
    noise = counts.view_as(levels) / white[:, :, None, None] - levels / 255
    each_noise = unstacked(noise, [size_of(picture) for picture in pictures])
    return [
        torch.clamp(picture + own * step["scale"], 0, 1)
        for picture, own, step in zip(pictures, each_noise, steps, strict=True)
    ]


def _jpeg(pictures: Sequence[Tensor], steps: Sequence[Step], numbers: Sequence[Tensor]) -> list[Tensor]:
    return _compressed(pictures, numbers, "libjpeg")


def _jpeg_reference(
    pictures: Sequence[Tensor], steps: Sequence[Step], numbers: Sequence[Tensor]
) -> list[Tensor]:
    return _compressed(pictures, numbers, "reference")


def _compressed(
    pictures: Sequence[Tensor], quality: Sequence[Tensor], arithmetic: Arithmetic
) -> list[Tensor]:
    sizes = [size_of(picture) for picture in pictures]
    canvas = stacked([whole_blocks(picture, arithmetic) for picture in pictures])
    return unstacked(
        jpeg_round_trip_torch(canvas, torch.cat(list(quality)), arithmetic=arithmetic, sizes=sizes), sizes
    )


_OPERATORS: dict[str, Operator] = {
    "interpolate": _interpolate,
    "gaussian": _gaussian,
    "filter": _filter,
    "sharpen": _sharpen,
    "level_poisson": _level_poisson,
    "jpeg": _jpeg,
    "jpeg_reference": _jpeg_reference,
}
_ORDER = tuple(_OPERATORS)
"""Which step goes first where samples stand before different ones: what gains most by company waits longest."""
