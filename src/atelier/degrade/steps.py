"""Random pipelines as lists of steps: each step is a JSON record, and carrying one out is a pure function of it.

A pipeline's ``draw`` writes the list; ``carry_out`` follows it. Sizes stand in the records, so nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from atelier.degrade.base import Pixels, to_float
from atelier.degrade.codec import jpeg_round_trip
from atelier.degrade.kernels import blur, gaussian_kernel
from atelier.degrade.noises import correlated_field, gaussian_field, poisson_noise
from atelier.degrade.resizing import resize
from atelier.randomness import Streams

Step = dict[str, Any]


def carry_out(picture: Pixels, steps: Sequence[Step], streams: Streams) -> Pixels:
    """Apply ``steps`` in order to a float32 picture ``H x W x C`` in [0, 1].

    Args:
        picture: not changed.
        steps: records with ``op`` and what that operator needs; see the functions of this module.
        streams: the sample's; a step with a random field names its own stream under ``field``.
    """
    for step in steps:
        picture = _OPERATORS[step["op"]](picture, step, streams)
    return picture


def _clip(picture: Pixels) -> Pixels:
    return np.clip(picture, np.float32(0), np.float32(1))


def _blur(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """``size``, ``variances`` and ``theta`` of a Gaussian."""
    return blur(picture, gaussian_kernel(step["size"], step["variances"], step["theta"]))


def _resize(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """To ``size`` ``[h, w]`` with interpolation ``mode``."""
    return _clip(resize(picture, tuple(step["size"]), step["mode"]))


def _imresize(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """MATLAB's antialiased bicubic reduction by ``factor``."""
    from atelier.images import imresize

    return _clip(imresize(picture, scale=step["factor"]))


def _blur_and_pick(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """Gaussian of ``sigma`` and every ``stride``-th pixel.

    The kernel is centred between the pixels that one output pixel stands for, (stride - 1) / 2 right and below, so
    that the result lies where an interpolating reduction would put it.
    """
    variance, middle = step["sigma"] ** 2, (step["stride"] - 1) / 2
    kernel = gaussian_kernel(25, (variance, variance), centre=(middle, middle))
    return _clip(np.ascontiguousarray(blur(picture, kernel)[:: step["stride"], :: step["stride"]]))


def _field(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """``kind`` colour or grey with ``sigma``, or correlated with ``covariance``."""
    height, width, channels = picture.shape
    generator = streams(step["field"])
    if step["kind"] == "correlated":
        return correlated_field((height, width, channels), step["covariance"], generator)
    return gaussian_field((height, width, channels), step["sigma"], generator, grey=step["kind"] == "grey")


def _gaussian(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    return _clip(picture + _field(picture, step, streams))


def _speckle(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    picture = _clip(picture)
    return _clip(picture + picture * _field(picture, step, streams))


def _poisson(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    return _clip(poisson_noise(picture, step["photons"], streams(step["field"]), grey=step["grey"]))


def _jpeg(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    return to_float(jpeg_round_trip(picture, step["quality"]))


_OPERATORS: dict[str, Callable[[Pixels, Step, Streams], Pixels]] = {
    "blur": _blur,
    "resize": _resize,
    "imresize": _imresize,
    "blur_and_pick": _blur_and_pick,
    "gaussian": _gaussian,
    "speckle": _speckle,
    "poisson": _poisson,
    "jpeg": _jpeg,
}
