"""What int8 loses: pairs of pictures, a judge of quantised networks, and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from atelier.errors import UserError
from atelier.export.proof import read_picture
from atelier.images import from_tensor, imresize
from atelier.metrics import psnr, ssim

WARN_BELOW: Final = 35.0
"""dB to the float32 network under which a warning is given."""

LARGEST: Final = 512
"""Side of a validation picture, at most; larger ones are cut to their middle."""

_PROBES = 4
_PROBE = 128
"""Side of the pictures, at most, on which layers are measured one by one."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Quality:
    """Means over the pictures. ``to_float`` is in dB over RGB, clamped; None: not a bit differs."""

    psnr: float
    ssim: float
    to_float: float | None = None


@dataclass(frozen=True)
class Int8Report:
    """What int8 costs and gains; :meth:`lines` is for people, ``asdict`` for the JSON beside the model."""

    pictures: str
    protocol: str
    float32: Quality
    int8: Quality
    kept: tuple[str, ...]
    layers: int
    method: str
    activations: int
    bytes_float32: int
    bytes_int8: int
    milliseconds_float32: float
    milliseconds_int8: float
    timed: str
    sensitivity: dict[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """dB of PSNR lost."""
        return self.float32.psnr - self.int8.psnr

    def lines(self) -> list[str]:
        """A small table."""
        closeness = "identical" if self.int8.to_float is None else f"{self.int8.to_float:.2f} dB"
        gain = self.milliseconds_float32 / self.milliseconds_int8
        kept = f"; in float32: {', '.join(self.kept)}" if self.kept else ""
        rows = [
            f"int8 weights a channel, {self.activations}-bit activations ({self.method}), "
            f"{self.layers - len(self.kept)} of {self.layers} layers{kept}",
            f"on {self.pictures}, {self.protocol}:",
            f"  float32  PSNR {self.float32.psnr:.2f} dB, SSIM {self.float32.ssim:.4f}, {self.bytes_float32:,} bytes, "
            f"{self.milliseconds_float32:.1f} ms",
            f"  int8     PSNR {self.int8.psnr:.2f} dB, SSIM {self.int8.ssim:.4f}, {self.bytes_int8:,} bytes, "
            f"{self.milliseconds_int8:.1f} ms ({gain:.2f} times as fast; {self.timed})",
            f"  lost     PSNR {self.drop:.2f} dB, SSIM {self.float32.ssim - self.int8.ssim:.4f}; "
            f"PSNR to the float32 network {closeness}",
        ]
        worst = sorted(self.sensitivity, key=lambda name: -self.sensitivity[name])[:3]
        if worst:
            told = ", ".join(
                f"{name} {-10 * math.log10(self.sensitivity[name]):.1f} dB"
                for name in worst
                if self.sensitivity[name]
            )
            rows.append(f"  worst layers, each alone in int8, PSNR to the float32 network: {told or 'none'}")
        if self.int8.to_float is not None and self.int8.to_float < WARN_BELOW:
            rows.append(
                f"  warning: under {WARN_BELOW:g} dB to the float32 network; try --keep-ends, --activations 16 or "
                "--max-drop"
            )
        return rows


class Judge:
    """Measures networks on the validation pictures; knows what the float32 network gave there."""

    def __init__(self, samples: Sequence[tuple[Tensor, Tensor]], float32: Run, scale: int) -> None:
        self.samples, self.scale = samples, scale
        self.answers = [float32(lq).clamp(0, 1) for lq, _ in samples]
        self._probes = [(lq, float32(lq).clamp(0, 1)) for lq in (_middle(lq) for lq, _ in samples[:_PROBES])]
        self.float32 = self._quality(self.answers)

    def __call__(self, run: Run) -> Quality:
        """Of a network on all pictures."""
        answers = [run(lq).clamp(0, 1) for lq, _ in self.samples]
        errors = [float((a - b).square().mean()) for a, b in zip(answers, self.answers, strict=True)]
        mean = sum(errors) / len(errors)
        found = self._quality(answers)
        return Quality(found.psnr, found.ssim, -10 * math.log10(mean) if mean else None)

    def error(self, run: Run) -> float:
        """Mean square error to float32 on the middle of the first few pictures."""
        errors = [float((run(lq).clamp(0, 1) - answer).square().mean()) for lq, answer in self._probes]
        return sum(errors) / len(errors)

    def _quality(self, answers: Sequence[Tensor]) -> Quality:
        values = []
        for answer, (_, gt) in zip(answers, self.samples, strict=True):
            a, b = from_tensor(answer[0], "uint8"), from_tensor(gt[0], "uint8")
            settings: dict[str, Any] = {"crop_border": self.scale, "y": a.shape[2] == 3}
            values.append((min(psnr(a, b, **settings), 100.0), ssim(a, b, **settings)))
        first, second = (sum(each) / len(values) for each in zip(*values, strict=True))
        return Quality(first, second)


def _middle(picture: Tensor) -> Tensor:
    top, left = (max(0, side - _PROBE) // 2 for side in picture.shape[-2:])
    return picture[..., top : top + _PROBE, left : left + _PROBE].contiguous()


def pairs_of(
    calibration: Sequence[Path],
    validation: Mapping[str, Path],
    validation_lq: Mapping[str, Path],
    channels: int,
    out_channels: int,
    scale: int,
) -> tuple[list[tuple[Tensor, Tensor]], str]:
    """Pairs (lq, gt), each [1, C, h, w] in [0, 1], and what they are called in the report.

    Arguments as in :class:`~atelier.export.int8.Int8Options`, then the network's channels and scale.

    Raises:
        UserError: an input is missing or of the wrong size, or a picture is too small.
    """
    if scale == 1 and not validation_lq:
        raise UserError(
            "--int8: the loss of a network of scale 1 is measured on pairs; give --validation and --validation-lq"
        )
    paths = [*validation.values()] or calibration
    partners = partners_of(validation, validation_lq, scale) if validation_lq else []
    named = f"{len(paths)} {'validation' if validation else 'CALIBRATION'} pictures"
    samples = []
    for place, path in enumerate(paths):
        gt = read_picture(path, out_channels)[None]
        if partners:
            lq = read_picture(partners[place], channels)[None]
            if [side * scale for side in lq.shape[-2:]] != list(gt.shape[-2:]):
                raise UserError(
                    f"{partners[place]} is {lq.shape[-1]}x{lq.shape[-2]}, {path} is "
                    f"{gt.shape[-1]}x{gt.shape[-2]}; the scale is {scale}"
                )
            height, width = (min(side, LARGEST // scale) for side in lq.shape[-2:])
            lq = lq[..., :height, :width].contiguous()
            gt = gt[..., : height * scale, : width * scale].contiguous()
        else:
            height, width = (min(side, LARGEST) // scale * scale for side in gt.shape[-2:])
            top, left = (gt.shape[-2] - height) // 2, (gt.shape[-1] - width) // 2
            gt = gt[..., top : top + height, left : left + width].contiguous()
            if min(height, width) < 16 * scale:
                raise UserError(f"{path}: too small to measure on, {gt.shape[-1]}x{gt.shape[-2]} pixels")
            # As files hold it: 8 bit.
            lq = (imresize(gt, scale=1 / scale).clamp(0, 1) * 255).round() / 255
        samples.append((lq, gt))
    return samples, named


def partners_of(validation: Mapping[str, Path], given: Mapping[str, Path], scale: int) -> list[Path]:
    """For each picture of ``validation`` its input among ``given``: ``baby``, or ``babyx2`` as in Set5.

    Raises:
        UserError: pictures without input, named.
    """
    found = {name: given.get(name) or given.get(f"{name}x{scale}") for name in validation}
    lacking = [name for name, lq in found.items() if lq is None]
    if lacking:
        raise UserError(
            f"--validation-lq has no picture for {', '.join(lacking[:3])}{' ...' if lacking[3:] else ''}: inputs are "
            f"called as the true pictures, or with x{scale} behind ({lacking[0]}x{scale}.png), in the same folders"
        )
    return [each for each in found.values() if each is not None]
