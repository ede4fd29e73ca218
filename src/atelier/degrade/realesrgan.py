"""Real-ESRGAN's second-order degradation (Wang et al., ICCV Workshops 2021), every decision drawn per sample.

The original shares the draws that change shapes (resize, kind of noise, order of the end) among a batch and mixes pairs
in a pool to make up for it; here each sample has its own, and each stage its own stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atelier.degrade.base import Degradation, Pixels, to_float, to_uint8
from atelier.degrade.device_numbers import numbers_of
from atelier.degrade.realesrgan_options import Range, RealESRGANOptions
from atelier.degrade.resizing import MODES
from atelier.degrade.sharpen import usm_sharpen
from atelier.degrade.steps import Step, carry_out, describe, one_by_one
from atelier.randomness import Streams

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 36
"""gt pixels around a crop that are degraded with it: the reach of the first blur (10) and three standard deviations of
the sharpening's Gaussian (24), and 2 more."""
GRID = 16
"""Side of the blocks that JPEG's halved chroma makes, in pixels."""
NOISE_FIELD = "realesrgan noise field {}"
"""The stream of a stage's noise, 1 or 2."""


class RealESRGAN(Degradation):
    """Sharpen, then blur, resize, noise, JPEG, twice; the end is a resize to the final size and a sinc filter, before
    or after the last JPEG. lq is uint8.

    Where the original degrades 400 x 400 pixels and then cuts a crop out of them at random, here the crop is
    degraded with :data:`MARGIN` gt pixels around it. A pixel's lq depends on more only through the faint ends of the
    sharpening's Gaussian, blurs that follow a strong reduction and JPEG's blocks across the border. What the
    original's random place gave besides is drawn: the last JPEG's grid starts at one of 256 places, for which the
    picture is mirrored up to 15 lq pixels beyond its top and left.

    Args:
        scale: gt side / lq side.
        options: every value.
    """

    def __init__(self, scale: int, options: RealESRGANOptions, moved_grid: bool = True) -> None:
        self.scale, self.options = scale, options
        self.context = -(-MARGIN // scale)
        self.pool = options.queue_size if options.pool else 0
        self.on_device = options.run_on == "device"
        self._moved_grid = moved_grid

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, Any]:
        """``{"grid": [y, x], "steps": [...]}``: lq pixels that are mirrored on, and records of
        :mod:`atelier.degrade.steps` in order."""
        height, width, channels = shape
        if height % self.scale or width % self.scale:
            raise ValueError(f"{height}x{width} is no multiple of scale {self.scale}")
        grid = streams("realesrgan grid").integers(GRID, size=2).tolist() if self._moved_grid else [0, 0]
        size = (height + grid[0] * self.scale, width + grid[1] * self.scale)
        return {"grid": grid, "steps": self._steps(streams, size, channels)}

    def apply(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """uint8 ``H/scale x W/scale x C``, C = 1 or 3."""
        lq = to_uint8(carry_out(self.start(gt, parameters), parameters["steps"], streams))
        return _cut(lq, parameters)

    def target(self, gt: Pixels, parameters: dict[str, Any], streams: Streams) -> Pixels:
        """``gt``, sharpened with ``target_usm``; integers are rounded to whole levels again."""
        if not self.options.target_usm:
            return gt
        sharp = usm_sharpen(to_float(gt))
        if gt.dtype.kind == "f":
            return sharp
        white = np.iinfo(gt.dtype).max
        return np.rint(sharp.astype(np.float64) * white).astype(gt.dtype)

    def device_numbers(
        self, parameters: dict[str, Any], shape: tuple[int, int, int], streams: Streams
    ) -> list[Pixels]:
        """See :func:`atelier.degrade.device_numbers.numbers_of`."""
        height, width = (
            side + self.scale * offset for side, offset in zip(shape[:2], parameters["grid"], strict=True)
        )
        return numbers_of(parameters["steps"], (height, width, shape[2]), streams)

    def apply_on_device(
        self,
        gts: Sequence[Tensor],
        parameters: Sequence[dict[str, Any]],
        numbers: Sequence[Sequence[Tensor]],
        whites: Sequence[int | None],
        together: int | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """lq on 255 levels; the target as :meth:`target` makes it."""
        from atelier.degrade.device_steps import (
            carry_out_on_device,
            mirror_before,
            sharpened_on_device,
            whole_levels,
        )

        grids = [each["grid"] for each in parameters]
        starts = [
            mirror_before(gt, self.scale * top, self.scale * left)
            for gt, (top, left) in zip(gts, grids, strict=True)
        ]
        done = carry_out_on_device(starts, [each["steps"] for each in parameters], numbers, together)
        lqs = [whole_levels(lq[:, :, top:, left:], 255) for lq, (top, left) in zip(done, grids, strict=True)]
        if not self.options.target_usm:
            return list(zip(lqs, gts, strict=True))
        targets = [
            sharp if white is None else whole_levels(sharp, white)
            for sharp, white in zip(sharpened_on_device(gts, together), whites, strict=True)
        ]
        return list(zip(lqs, targets, strict=True))

    def stages(
        self, gt: Pixels, parameters: dict[str, Any], streams: Streams
    ) -> Iterator[tuple[str, Pixels]]:
        """Every step; the last picture is lq."""
        start = self.start(gt, parameters)
        for step, picture in one_by_one(start, parameters["steps"], streams):
            yield describe(step), picture
        grid = "x".join(map(str, parameters["grid"]))
        yield f"rounded; grid {grid}", self.apply(gt, parameters, streams)

    def remarks(self, parameters: dict[str, Any]) -> list[str]:
        """Whether the second stage was left out (``second_stage_prob``); its noise is always drawn with it."""
        second = any(step.get("field") == NOISE_FIELD.format("2") for step in parameters["steps"])
        return [] if second else ["second stage: not drawn"]

    def for_whole_pictures(self) -> RealESRGAN:
        """The same with JPEG's last grid at the picture's corner."""
        return RealESRGAN(self.scale, self.options, moved_grid=False)

    def start(self, gt: Pixels, parameters: dict[str, Any]) -> Pixels:
        """What the first step gets: float32 ``gt``, mirrored beyond its top and left for the drawn grid."""
        top, left = (self.scale * offset for offset in parameters["grid"])
        if top or left:
            gt = np.pad(gt, ((top, 0), (left, 0), (0, 0)), mode="symmetric")
        return to_float(gt)

    def _steps(self, streams: Streams, size: tuple[int, int], channels: int) -> list[Step]:
        options, final = self.options, (size[0] // self.scale, size[1] // self.scale)
        steps: list[Step] = [{"op": "sharpen"}] if options.gt_usm else []
        steps.append(self._kernel(streams("realesrgan blur 1"), ""))
        steps += self._resize(streams("realesrgan resize 1"), "", size, placed_by_factor=True)
        steps.append(self._noise(streams("realesrgan noise 1"), "", channels))
        steps.append(self._jpeg(streams("realesrgan jpeg 1"), ""))
        if streams("realesrgan second stage").random() < options.second_stage_prob:
            generator = streams("realesrgan blur 2")
            if generator.random() < options.second_blur_prob:
                steps.append(self._kernel(generator, "2"))
            steps += self._resize(streams("realesrgan resize 2"), "2", final, placed_by_factor=False)
            steps.append(self._noise(streams("realesrgan noise 2"), "2", channels))
        generator = streams("realesrgan end")
        first, mode = generator.random() < 0.5, MODES[int(generator.integers(len(MODES)))]
        finish: list[Step] = [{"op": "interpolate", "size": list(final), "mode": mode}]
        generator = streams("realesrgan final sinc")
        if generator.random() < options.final_sinc_prob:
            side = _kernel_size(generator, options.blur_kernel_size2)
            cutoff = float(generator.uniform(math.pi / 3, math.pi))
            finish.append({"op": "filter", "shape": "sinc", "size": side, "cutoff": cutoff})
        compress = self._jpeg(streams("realesrgan jpeg 2"), "2")
        return [*steps, *finish, compress] if first else [*steps, compress, *finish]

    def _kernel(self, generator: np.random.Generator, suffix: str) -> Step:
        size = _kernel_size(generator, self._value("blur_kernel_size", suffix))
        step: Step = {"op": "filter", "shape": "sinc", "size": size}
        if generator.random() < self._value("sinc_prob", suffix):
            lowest = math.pi / 3 if size < 13 else math.pi / 5
            return {**step, "cutoff": float(generator.uniform(lowest, math.pi))}
        names = self._value("kernel_list", suffix)
        shape: str = names[_choice(generator, self._value("kernel_prob", suffix))]
        spread: Range = self._value("blur_sigma", suffix)
        first, second = generator.uniform(*spread, size=2).tolist()
        theta = float(generator.uniform(-math.pi, math.pi))
        step = {**step, "shape": shape, "sigma": [first, second], "theta": theta}
        if shape.endswith("iso") and not shape.endswith("aniso"):
            step |= {"sigma": [first, first], "theta": 0.0}
        family = shape.partition("_")[0]
        if family in ("generalized", "plateau"):
            bounds: Range = self._value("betag_range" if family == "generalized" else "betap_range", suffix)
            low, high = (bounds[0], 1.0) if generator.random() < 0.5 else (1.0, bounds[1])
            step["beta"] = float(generator.uniform(low, high))
        return step

    def _resize(
        self, generator: np.random.Generator, suffix: str, base: tuple[int, int], *, placed_by_factor: bool
    ) -> list[Step]:
        """To ``factor`` times ``base``. The first resize places its samples by the factor, the second by the sizes."""
        bounds: Range = self._value("resize_range", suffix)
        kind = _choice(generator, self._value("resize_prob", suffix))
        low, high = ((1.0, bounds[1]), (bounds[0], 1.0), (1.0, 1.0))[kind]
        factor = float(generator.uniform(low, high))
        mode = MODES[int(generator.integers(len(MODES)))]
        size = [max(1, int(base[0] * factor)), max(1, int(base[1] * factor))]
        step: Step = {"op": "interpolate", "kind": ("up", "down", "keep")[kind], "drawn": factor}
        step |= {"size": size, "mode": mode}
        if placed_by_factor and min(base) * factor >= 1:
            step["factor"] = factor
        return [step]

    def _noise(self, generator: np.random.Generator, suffix: str, channels: int) -> Step:
        gaussian = generator.random() < self._value("gaussian_noise_prob", suffix)
        grey = bool(generator.random() < self._value("gray_noise_prob", suffix)) or channels == 1
        field = NOISE_FIELD.format(suffix or 1)
        if gaussian:
            sigma = float(generator.uniform(*self._value("noise_range", suffix))) / 255
            return {"op": "gaussian", "field": field, "kind": "grey" if grey else "colour", "sigma": sigma}
        scale = float(generator.uniform(*self._value("poisson_scale_range", suffix)))
        return {"op": "level_poisson", "field": field, "scale": scale, "grey": grey}

    def _jpeg(self, generator: np.random.Generator, suffix: str) -> Step:
        quality = float(generator.uniform(*self._value("jpeg_range", suffix)))
        return {"op": "jpeg" if self.options.jpeg == "libjpeg" else "jpeg_reference", "quality": quality}

    def _value(self, key: str, suffix: str) -> Any:
        return getattr(self.options, key + suffix)


def _cut(lq: Pixels, parameters: dict[str, Any]) -> Pixels:
    top, left = parameters["grid"]
    return np.ascontiguousarray(lq[top:, left:])


def _choice(generator: np.random.Generator, weights: Sequence[float]) -> int:
    """The index of one of ``weights``, each as likely as its share."""
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges[:-1], generator.random() * edges[-1], side="right"))


def _kernel_size(generator: np.random.Generator, largest: int) -> int:
    """An odd side from 7 to ``largest``."""
    return 7 + 2 * int(generator.integers((largest - 7) // 2 + 1))
