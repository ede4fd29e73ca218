"""The practical degradation model of BSRGAN (Zhang et al., ICCV 2021) and its later, longer variant.

Numbers that the paper leaves open are those of the authors' program (KAIR's ``utils_blindsr``). Two things differ:
a Gaussian kernel of zero width is a single one instead of undefined, and the shifted kernel of the strided reduction is
computed where it lies instead of interpolated. The camera pipeline step is left out, as the authors' program leaves it
out without their model file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from atelier.degrade.base import Degradation, DegradationOptions, Pixels, to_float, to_uint8
from atelier.degrade.resizing import MODES
from atelier.degrade.sharpen import usm_sharpen
from atelier.degrade.steps import Step, carry_out
from atelier.randomness import Streams

Variant = Literal["bsrgan", "bsrgan_plus"]
Size = tuple[int, int]

NOISE_LEVELS = (2, 25)
"""Standard deviations of Gaussian and speckle noise in units of 0..255, whole numbers, both included."""
QUALITIES = (30, 95)
"""JPEG qualities, both included."""


class BSRGAN(Degradation):
    """Blur, reduce, add noise and compress in random order; the result is uint8.

    ``bsrgan``: two blurs, a reduction by a random factor, the reduction to the final size, Gaussian noise and JPEG
    (9 in 10) in random order, the final reduction always after the random one; before them, at scale 4, the picture is
    halved with probability 1/4.

    ``bsrgan_plus``: blur, random resize, Gaussian, Poisson (1 in 10), speckle (1 in 10), JPEG, and all but JPEG once
    more; with probability ``shuffle_prob`` all in random order, else only each group's noises among themselves; then
    the final size. Both variants end with JPEG.

    A crop's lq is not the crop of the whole picture's lq: every sample has sizes and resampling places of its own. The
    8 lq pixels of ``context`` are three standard deviations of the widest kernel at the final size, and whole blocks of
    JPEG, so that the last grid starts at the crop's corner; blurs that follow a stronger reduction reach further.

    Args:
        scale: gt side / lq side.
        variant: which order.
        shuffle_prob: of ``bsrgan_plus``.
        use_sharp: ``bsrgan_plus`` starts from the sharpened picture, which is also the target.
    """

    context = 8

    def __init__(
        self, scale: int, variant: Variant = "bsrgan", shuffle_prob: float = 0.1, use_sharp: bool = False
    ) -> None:
        self.scale, self.variant = scale, variant
        self.shuffle_prob, self.use_sharp = shuffle_prob, use_sharp

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """``{"steps": [...]}``, records of :mod:`atelier.degrade.steps` in the order they are carried out."""
        height, width, channels = shape
        if height % self.scale or width % self.scale:
            raise ValueError(f"{height}x{width} is no multiple of scale {self.scale}")
        drawer = _Drawer(streams, (height, width), channels, self.scale)
        steps = drawer.plus(self.shuffle_prob) if self.variant == "bsrgan_plus" else drawer.classic()
        return {"steps": steps}

    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """uint8 ``H/scale x W/scale x C``, C = 1 or 3."""
        clean = to_float(self.target(gt, parameters, streams))
        return to_uint8(carry_out(clean, parameters["steps"], streams))

    def target(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """``gt``, sharpened with ``use_sharp``; integers are rounded to whole levels again."""
        if not self.use_sharp:
            return gt
        sharp = usm_sharpen(to_float(gt))
        if gt.dtype.kind == "f":
            return sharp
        white = np.iinfo(gt.dtype).max
        return np.rint(sharp.astype(np.float64) * white).astype(gt.dtype)


class _Drawer:
    """Draws one sample's list of steps and keeps account of the picture's size. Every place has its own stream."""

    def __init__(self, streams: Streams, size: Size, channels: int, scale: int) -> None:
        self._streams, self._channels = streams, channels
        self._size, self._scale = size, scale
        self._final = (size[0] // scale, size[1] // scale)

    def classic(self) -> list[Step]:
        steps: list[Step] = []
        scale, halve = self._scale, self._streams("bsrgan halve")
        if scale == 4 and halve.random() < 0.25:
            scale, size = 2, (self._size[0] // 2, self._size[1] // 2)
            if halve.random() < 0.5:
                steps.append(self._resized(size, halve))
            else:
                self._size = size
                steps.append({"op": "imresize", "factor": 0.5})
        order = self._streams("bsrgan order").permutation(6).tolist()
        first, second = sorted((order.index(2), order.index(3)))
        order[first], order[second] = 2, 3
        # By place: two blurs, the random reduction, the final one, Gaussian noise, JPEG.
        draw: list[Callable[[int], Step | None]] = [
            lambda place: self._blur(place, scale),
            lambda place: self._blur(place, scale),
            lambda place: self._reduce(place, scale),
            self._to_final,
            lambda place: self._noise(place, "gaussian"),
            lambda place: self._jpeg(place, 0.9),
        ]
        for place in order:
            step = draw[place](place)
            if step is not None:
                steps.append(step)
        return [*steps, self._last_jpeg()]

    def plus(self, shuffle_prob: float) -> list[Step]:
        # Two groups: 0 blur, 1 resize, 2 Gaussian, 3 Poisson, 4 speckle, 5 camera (absent), 6 JPEG; 7 to 12 the
        # same without JPEG.
        generator = self._streams("bsrgan order")
        order = list(range(13))
        if generator.random() < shuffle_prob:
            order = generator.permutation(13).tolist()
        else:
            for start in (2, 9):
                order[start : start + 4] = generator.permutation(order[start : start + 4]).tolist()
        draw: list[Callable[[int], Step | None]] = [
            lambda place: self._blur(place, self._scale),
            self._resize,
            lambda place: self._noise(place, "gaussian"),
            self._poisson,
            lambda place: self._noise(place, "speckle", probability=0.1),
        ]
        steps: list[Step] = []
        for place in order:
            if place == 6:
                steps += [step for step in [self._jpeg(place, 1.0)] if step is not None]
            elif place % 7 != 5:
                step = draw[place % 7](place)
                if step is not None:
                    steps.append(step)
        final = self._to_final(13)
        return [*steps, final, self._last_jpeg()]

    def _at(self, place: int) -> np.random.Generator:
        return self._streams(f"bsrgan {place}")

    def _blur(self, place: int, scale: int) -> Step:
        """Half anisotropic with variances up to 4 + s, half isotropic with deviation up to 2 + 0.2 s; 7 to 25 wide."""
        generator = self._at(place)
        size = 2 * int(generator.integers(2, 11, endpoint=True)) + 3
        if generator.random() < 0.5:
            variances = (generator.random(2) * (4 + scale)).tolist()
            theta = float(generator.random() * math.pi)
        else:
            variances, theta = [float((2 + 0.2 * scale) * generator.random()) ** 2] * 2, 0.0
        return {"op": "blur", "size": size, "variances": variances, "theta": theta}

    def _resized(self, size: Size, generator: np.random.Generator) -> Step:
        self._size = (max(1, size[0]), max(1, size[1]))
        return {"op": "resize", "size": list(self._size), "mode": MODES[int(generator.integers(3))]}

    def _reduce(self, place: int, scale: int) -> Step:
        """3 in 4: interpolation by a factor of 1 to 2 s; else a Gaussian and every s-th pixel."""
        generator = self._at(place)
        height, width = self._size
        if generator.random() < 0.75:
            factor = float(generator.uniform(1, 2 * scale))
            return self._resized((int(height / factor), int(width / factor)), generator)
        self._size = (-(-height // scale), -(-width // scale))
        return {"op": "blur_and_pick", "sigma": float(generator.uniform(0.1, 0.6 * scale)), "stride": scale}

    def _resize(self, place: int) -> Step:
        """1 in 5 up to twice the size, 7 in 10 down to 1 / (2 s), else unchanged."""
        generator = self._at(place)
        kind = generator.random()
        if kind > 0.8:
            factor = float(generator.uniform(1, 2))
        elif kind < 0.7:
            factor = float(generator.uniform(0.5 / self._scale, 1))
        else:
            factor = 1.0
        return self._resized((int(factor * self._size[0]), int(factor * self._size[1])), generator)

    def _to_final(self, place: int) -> Step:
        return self._resized(self._final, self._at(place))

    def _noise(self, place: int, op: str, probability: float = 1.0) -> Step | None:
        """Of independent channels (2 in 5), grey (2 in 5) or correlated between the channels (1 in 5)."""
        generator = self._at(place)
        if generator.random() >= probability:
            return None
        low, high = NOISE_LEVELS
        level = int(generator.integers(low, high, endpoint=True))
        kind = ("colour", "grey", "correlated")[int(np.searchsorted([0.4, 0.8], generator.random(), "right"))]
        step: Step = {"op": op, "field": f"bsrgan field {place}"}
        if self._channels == 3 and kind == "correlated":
            return {**step, "kind": kind, "covariance": channel_covariance(generator, high / 255)}
        return {**step, "kind": "grey" if self._channels == 1 else kind, "sigma": level / 255}

    def _poisson(self, place: int) -> Step | None:
        """1 in 10: 10^2 to 10^4 counts at white, half of them grey."""
        generator = self._at(place)
        if generator.random() >= 0.1:
            return None
        photons = float(10 ** generator.uniform(2, 4))
        grey = bool(generator.random() < 0.5)
        return {"op": "poisson", "field": f"bsrgan field {place}", "photons": photons, "grey": grey}

    def _jpeg(self, place: int, probability: float) -> Step | None:
        generator = self._at(place)
        if generator.random() >= probability:
            return None
        return {"op": "jpeg", "quality": int(generator.integers(*QUALITIES, endpoint=True))}

    def _last_jpeg(self) -> Step:
        quality = int(self._streams("bsrgan last").integers(*QUALITIES, endpoint=True))
        return {"op": "jpeg", "quality": quality}


def channel_covariance(generator: np.random.Generator, level: float) -> list[list[float]]:
    """A random 3x3 covariance of noise between the channels: ``|level^2 U^T diag(d) U|`` with d even in [0, 1].

    U holds the left singular vectors of a matrix of even numbers, and the absolute value is taken of every entry, as in
    the authors' program; its sampler also takes the absolute value of the eigenvalues that this makes negative.
    """
    diagonal = generator.random(3)
    rotation = np.linalg.svd(generator.random((3, 3)))[0]
    entries = np.abs(level**2 * rotation.T @ np.diag(diagonal) @ rotation)
    values, vectors = np.linalg.eigh(entries)
    rows: list[list[float]] = ((vectors * np.abs(values)) @ vectors.T).tolist()
    return rows


class BSRGANOptions(DegradationOptions):
    """``degradation: {type: bsrgan}`` or ``{type: bsrgan, variant: bsrgan_plus, use_sharp: true}``."""

    type: Literal["bsrgan"] = "bsrgan"
    variant: Variant = Field("bsrgan", description="bsrgan_plus: the longer pipeline with resizes both ways")
    shuffle_prob: float = Field(
        0.1, ge=0, le=1, description="bsrgan_plus: probability that all steps come in random order"
    )
    use_sharp: bool = Field(False, description="bsrgan_plus: sharpen the picture first; also the target")

    @model_validator(mode="after")
    def _no_idle_keys(self) -> Self:
        if self.variant == "bsrgan":
            for key in ("shuffle_prob", "use_sharp"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} does nothing without variant: bsrgan_plus")
        return self

    def build(self, scale: int) -> BSRGAN:
        """The operator for pictures ``scale`` times larger than the network's input."""
        return BSRGAN(scale, self.variant, self.shuffle_prob, self.use_sharp)
