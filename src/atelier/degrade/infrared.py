"""A thermal camera's picture: low contrast, soft optics, large detector pixels, their patterns and noise, compression.

There is no published pipeline behind this one: the steps are those of an uncooled microbolometer camera, and every
range is an option.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from atelier.degrade.base import Degradation, DegradationOptions, Pixels, to_float
from atelier.degrade.noises import LUMA
from atelier.degrade.steps import Step, carry_out, describe, one_by_one
from atelier.randomness import Streams

Range = tuple[float, float]
BLOCK = 8
"""Side of grey JPEG's blocks."""


class InfraredOptions(DegradationOptions):
    """``degradation: {type: infrared}``, for one channel, or three that are made equal."""

    type: Literal["infrared"] = "infrared"
    invert_prob: float = Field(0.5, ge=0, le=1, description="lq and gt inverted: white-hot to black-hot")
    percentiles: Range = Field(
        (1.0, 99.0), description="16-bit pictures: these become black and white, in gt too"
    )
    gain_range: Range = Field(
        (0.3, 1.0), description="contrast; the offset is drawn from what it leaves of [0, 1]"
    )
    gamma_range: Range = Field((0.7, 1.4), description="exponent of the picture before the gain")
    blur_sigma: Range = Field((0.4, 2.0), description="optics: standard deviation in gt pixels")
    column_noise_range: Range = Field((0.0, 4.0), description="offsets of columns, in units of 0..255")
    row_noise_prob: float = Field(0.5, ge=0, le=1, description="offsets of rows as well, of the same range")
    pixel_gain: float = Field(0.01, ge=0, le=0.5, description="standard deviation of the pixels' gains")
    dead_pixel_range: Range = Field((0.0, 1e-3), description="probability of a stuck pixel")
    read_noise_range: Range = Field((0.5, 6.0), description="in units of 0..255, on top of the signal's")
    shot_noise_range: Range = Field((0.0, 5.0), description="at white, in units of 0..255")
    vignette: float = Field(
        0.05, ge=0, le=0.5, description="largest change of gain from the middle to the edge"
    )
    bits_range: tuple[int, int] = Field((8, 12), description="effective bits of the converter")
    jpeg_prob: float = Field(0.5, ge=0, le=1, description="probability of compression")
    jpeg_range: Range = Field((50.0, 95.0), description="its quality")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (least, most) in _LIMITS.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name} must be [low, high] within {least:g}..{most:g}, not [{low:g}, {high:g}]"
                )
        if self.percentiles[0] == self.percentiles[1]:
            raise ValueError("percentiles must differ")
        return self

    def build(self, scale: int) -> Infrared:
        """The operator for pictures ``scale`` times larger than the network's input."""
        return Infrared(scale, self)


_LIMITS: dict[str, Range] = {
    "percentiles": (0, 100),
    "gain_range": (0.01, 1),
    "gamma_range": (0.1, 10),
    "blur_sigma": (0.01, 20),
    "column_noise_range": (0, 255),
    "dead_pixel_range": (0, 1),
    "read_noise_range": (0, 255),
    "shot_noise_range": (0, 255),
    "bits_range": (1, 16),
    "jpeg_range": (1, 100),
}


class Infrared(Degradation):
    """Contrast, optics, detector area (box mean), stripes, gains, stuck pixels, noise, vignetting, bits, JPEG.

    lq is float32 (up to 12 bits). Colour becomes luma, three times over where the network has three channels; 16-bit
    pictures are normalised by the percentiles of the crop with its surroundings; gt takes part in both and in the
    inversion. Stuck pixels stay single ones: nothing is resampled after the detector.

    Args:
        scale: gt side / lq side; the side of a detector pixel.
        options: every value.
    """

    def __init__(self, scale: int, options: InfraredOptions, moved_grid: bool = True) -> None:
        self.scale, self.options = scale, options
        self.context = math.ceil(3 * options.blur_sigma[1] / scale) + BLOCK
        self._moved_grid = moved_grid

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """``{"percentiles", "invert", "grid", "steps"}``; ``grid`` as Real-ESRGAN's."""
        options = self.options
        grid = streams("infrared grid").integers(BLOCK, size=2).tolist() if self._moved_grid else [0, 0]
        size = [shape[0] // self.scale + grid[0], shape[1] // self.scale + grid[1]]
        compress = streams("infrared jpeg")
        if compress.random() < options.jpeg_prob:
            last: list[Step] = [{"op": "jpeg", "quality": float(compress.uniform(*options.jpeg_range))}]
        else:
            last = []
        return {
            "percentiles": list(options.percentiles),
            "invert": bool(streams("infrared invert").random() < options.invert_prob),
            "grid": grid,
            "steps": [*self._optics(streams, size), *self._detector(streams), *last],
        }

    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """float32 in [0, 1], ``H/scale x W/scale x C``, C = 1 or 3."""
        return self._finish(
            carry_out(self._start(gt, parameters), parameters["steps"], streams), gt, parameters
        )

    def target(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """``gt`` in grey, normalised and inverted as lq is, in its own dtype."""
        clean = np.repeat(_normalised(gt, parameters), gt.shape[2], axis=2)
        if gt.dtype.kind == "f":
            return clean
        return np.rint(clean * np.float64(np.iinfo(gt.dtype).max)).astype(gt.dtype)

    def stages(
        self, gt: Pixels, parameters: dict[str, Any], streams: Streams
    ) -> Iterator[tuple[str, Pixels]]:
        """Every step; the last picture is lq."""
        start = self._start(gt, parameters)
        yield f"invert {parameters['invert']}", start
        for step, picture in one_by_one(start, parameters["steps"], streams):
            yield describe(step), picture
        yield f"grid {'x'.join(map(str, parameters['grid']))}", self.apply(gt, parameters, streams)

    def for_whole_pictures(self) -> Infrared:
        """The same with JPEG's grid at the picture's corner, never inverted."""
        return Infrared(self.scale, self.options.model_copy(update={"invert_prob": 0.0}), moved_grid=False)

    def _start(self, gt: Pixels, parameters: dict[str, Any]) -> Pixels:
        top, left = (self.scale * offset for offset in parameters["grid"])
        return np.pad(_normalised(gt, parameters), ((top, 0), (left, 0), (0, 0)), mode="symmetric")

    def _finish(self, lq: Pixels, gt: Pixels, parameters: dict[str, Any]) -> Pixels:
        top, left = parameters["grid"]
        return np.repeat(np.clip(lq[top:, left:], 0, 1), gt.shape[2], axis=2)

    def _optics(self, streams: Streams, size: list[int]) -> list[Step]:
        options, generator = self.options, streams("infrared optics")
        gain, gamma = (float(generator.uniform(*r)) for r in (options.gain_range, options.gamma_range))
        offset, sigma = float(generator.uniform(0, 1 - gain)), float(generator.uniform(*options.blur_sigma))
        side = 2 * math.ceil(3 * sigma) + 1
        blur: Step = {"op": "filter", "shape": "iso", "size": side, "sigma": [sigma, sigma], "theta": 0.0}
        return [
            {"op": "contrast", "gain": gain, "offset": offset, "gamma": gamma},
            blur,
            {"op": "interpolate", "size": size, "mode": "area"},
        ]

    def _detector(self, streams: Streams) -> list[Step]:
        options, generator = self.options, streams("infrared detector")
        column, row = (generator.uniform(*options.column_noise_range, size=2) / 255).tolist()
        if generator.random() >= options.row_noise_prob:
            row = 0.0
        read, shot = (
            float(generator.uniform(*r)) / 255 for r in (options.read_noise_range, options.shot_noise_range)
        )
        stuck = float(generator.uniform(*options.dead_pixel_range))
        amount = float(generator.uniform(-options.vignette, options.vignette))
        bits = int(generator.integers(*options.bits_range, endpoint=True))
        field = "infrared field {}".format
        return [
            {"op": "stripes", "field": field("stripes"), "column": column, "row": row},
            {"op": "pixel_gain", "field": field("gain"), "sigma": options.pixel_gain},
            {"op": "dead_pixels", "field": field("dead"), "probability": stuck},
            {"op": "sensor_noise", "field": field("noise"), "read": read, "shot": shot},
            {"op": "vignette", "amount": amount, "centre": generator.uniform(0.3, 0.7, size=2).tolist()},
            {"op": "quantise", "bits": bits},
        ]


def _normalised(gt: Pixels, parameters: dict[str, Any]) -> Pixels:
    """float32 ``H x W x 1`` in [0, 1]: grey, 16-bit stretched to its percentiles, inverted where drawn."""
    grey = to_float(gt)
    if grey.shape[2] == 3:
        grey = (grey @ LUMA)[:, :, None]
    if gt.dtype == np.uint16:
        low, high = np.percentile(grey, parameters["percentiles"])
        grey = np.clip((grey - low) / max(high - low, 1 / 65535), 0, 1).astype(np.float32)
    return np.ascontiguousarray(1 - grey if parameters["invert"] else grey)
