"""Random pipelines as lists of steps: each step is a JSON record, and carrying one out is a pure function of it.

A pipeline's ``draw`` writes the list; ``carry_out`` follows it. Sizes stand in the records, so nothing is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from atelier.degrade import sensor
from atelier.degrade.base import Pixels, to_float
from atelier.degrade.codec import jpeg_round_trip
from atelier.degrade.kernels import (
    Kernel,
    Shape,
    blur,
    blur_separably,
    gaussian_kernel,
    shaped_kernel,
    sinc_kernel,
)
from atelier.degrade.noises import correlated_field, gaussian_field, level_poisson_noise, poisson_noise
from atelier.degrade.resizing import interpolate, resize
from atelier.degrade.sharpen import usm_sharpen
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


def one_by_one(picture: Pixels, steps: Sequence[Step], streams: Streams) -> Iterator[tuple[Step, Pixels]]:
    """Each step of :func:`carry_out` with the picture after it."""
    for step in steps:
        picture = _OPERATORS[step["op"]](picture, step, streams)
        yield step, picture


def describe(step: Step) -> str:
    """A step in a line, with everything that was drawn: ``filter: shape iso, size 13, sigma 1.203``."""
    values = ", ".join(f"{key} {_short(value)}" for key, value in step.items() if key not in ("op", "field"))
    return f"{step['op']}: {values}" if values else str(step["op"])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "x".join(_short(each) for each in value) if isinstance(value, list) else str(value)


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


def _sharpen(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    return usm_sharpen(picture)


def kernel_of(step: Step) -> Kernel:
    """The kernel of a ``filter`` step.

    ``shape`` ``sinc`` with ``cutoff``; or ``iso`` and ``aniso``, alone or behind ``generalized_`` and ``plateau_``,
    with ``sigma`` ``[x, y]``, ``theta`` and, behind a prefix, ``beta``.
    """
    if step["shape"] == "sinc":
        return sinc_kernel(step["size"], step["cutoff"])
    first, second = step["sigma"]
    family: Shape = step["shape"].rpartition("_")[0] or "gaussian"
    return shaped_kernel(
        step["size"], (first**2, second**2), step["theta"], shape=family, beta=step.get("beta", 1.0)
    )


def _filter(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """A correlation with :func:`kernel_of`; nothing is clipped."""
    if step["shape"] == "iso":
        return blur_separably(picture, step["sigma"][0] ** 2, step["size"])
    return blur(picture, kernel_of(step))


def _interpolate(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """To ``size`` with ``mode``, samples placed by ``factor`` where one is given; nothing is clipped."""
    return interpolate(picture, tuple(step["size"]), step["mode"], step.get("factor"))


def _level_poisson(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    noisy = level_poisson_noise(picture, step["scale"], streams(step["field"]), grey=step["grey"])
    return _clip(noisy)


def _jpeg_reference(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    import torch

    from atelier.degrade.jpeg_torch import jpeg_round_trip_torch

    tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
    result = jpeg_round_trip_torch(tensor, torch.tensor([step["quality"]]), arithmetic="reference")
    return np.ascontiguousarray(result[0].permute(1, 2, 0).numpy())


def _jpeg(picture: Pixels, step: Step, streams: Streams) -> Pixels:
    """libjpeg takes whole qualities: a drawn real one is rounded half up."""
    return to_float(jpeg_round_trip(picture, math.floor(step["quality"] + 0.5)))


_OPERATORS: dict[str, Callable[[Pixels, Step, Streams], Pixels]] = {
    "blur": _blur,
    "resize": _resize,
    "imresize": _imresize,
    "blur_and_pick": _blur_and_pick,
    "gaussian": _gaussian,
    "speckle": _speckle,
    "poisson": _poisson,
    "jpeg": _jpeg,
    "jpeg_reference": _jpeg_reference,
    "sharpen": _sharpen,
    "filter": _filter,
    "interpolate": _interpolate,
    "level_poisson": _level_poisson,
    "contrast": sensor.contrast,
    "stripes": sensor.stripes,
    "pixel_gain": sensor.pixel_gain,
    "dead_pixels": sensor.dead_pixels,
    "sensor_noise": sensor.sensor_noise,
    "vignette": sensor.vignette,
    "quantise": sensor.quantise,
}
