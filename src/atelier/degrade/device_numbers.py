"""What a sample's loader process works out for steps that are carried out on the training device.

Everything random and every kernel is made here, from the sample's own streams; :mod:`atelier.degrade.device_steps`
only computes with it. So a sample's numbers do not depend on who is beside it in the batch, nor on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from atelier.degrade.base import Pixels
from atelier.degrade.kernels import gaussian_kernel
from atelier.degrade.noises import gaussian_field
from atelier.degrade.steps import Step, kernel_of
from atelier.randomness import Streams

Shape = tuple[int, int, int]


def numbers_of(steps: Sequence[Step], shape: Shape, streams: Streams) -> list[Pixels]:
    """One float32 array for every step that needs one, in order.

    ``filter``: the kernel ``k x k``, or the ``k`` taps of an isotropic Gaussian; ``gaussian``: the field
    ``h x w x (1 or C)``, the same numbers that the loader processes add; ``level_poisson``: as many even numbers in
    [0, 1), for the Poisson distribution's inverse; ``jpeg``: the quality.

    Args:
        steps: records of :mod:`atelier.degrade.steps`.
        shape: ``(H, W, C)`` of what the first step gets.
        streams: the sample's.
    """
    numbers: list[Pixels] = []
    for step in steps:
        if step["op"] == "interpolate":
            shape = (step["size"][0], step["size"][1], shape[2])
        elif step["op"] in _MAKERS:
            numbers.append(_MAKERS[step["op"]](step, shape, streams))
    return numbers


def _kernel(step: Step, shape: Shape, streams: Streams) -> Pixels:
    if step["shape"] != "iso":
        return kernel_of(step).astype(np.float32)
    variance = step["sigma"][0] ** 2
    taps = gaussian_kernel(step["size"], (variance, variance))[step["size"] // 2]
    weights: Pixels = (taps / taps.sum()).astype(np.float32)
    return weights


def _gaussian(step: Step, shape: Shape, streams: Streams) -> Pixels:
    return gaussian_field(shape, step["sigma"], streams(step["field"]), grey=step["kind"] == "grey")


def _even(step: Step, shape: Shape, streams: Streams) -> Pixels:
    height, width, channels = shape
    size = (height, width, 1 if step["grey"] else channels)
    return streams(step["field"]).random(size, dtype=np.float32)


def _quality(step: Step, shape: Shape, streams: Streams) -> Pixels:
    return np.array([step["quality"]], dtype=np.float32)


_MAKERS: dict[str, Callable[[Step, Shape, Streams], Pixels]] = {
    "filter": _kernel,
    "gaussian": _gaussian,
    "level_poisson": _even,
    "jpeg": _quality,
    "jpeg_reference": _quality,
}
NUMBERED = frozenset(_MAKERS)
"""The operators that need an array."""
