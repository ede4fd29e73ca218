"""How near one network's pictures are to another's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fidelity:
    """Differences of clamped, unrounded outputs over some pictures.

    Attributes:
        psnr: mean over pictures in dB; infinite where every picture is equal.
        max_error: largest difference, in [0, 1].
        shift: mean over pictures of the difference of each channel's mean, in 1/255.
        colour_shift: mean over pictures of the largest of these differences' sizes, in 1/255.
    """

    psnr: float
    max_error: float
    shift: tuple[float, ...]
    colour_shift: float


def fidelity(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Fidelity:
    """Compare ``outputs`` with ``references``, pictures [1, C, H, W] or [C, H, W] that are clamped to [0, 1] first.

    Raises:
        ValueError: there is no picture, or sizes differ.
    """
    if not outputs:
        raise ValueError("fidelity needs at least one picture")
    psnr, largest, shifts = [], 0.0, []
    for output, reference in zip(outputs, references, strict=True):
        if output.shape != reference.shape:
            raise ValueError(
                f"pictures of {tuple(output.shape)} and {tuple(reference.shape)} cannot be compared"
            )
        difference = output.double().clamp(0, 1) - reference.double().clamp(0, 1)
        error = float(difference.square().mean())
        psnr.append(-10 * math.log10(error) if error else math.inf)
        largest = max(largest, float(difference.abs().max()))
        shifts.append(
            [255 * each for each in difference.reshape(-1, *output.shape[-2:]).mean((1, 2)).tolist()]
        )
    finite = [each for each in psnr if math.isfinite(each)]
    count = len(shifts)
    return Fidelity(
        psnr=sum(finite) / len(finite) if finite else math.inf,
        max_error=largest,
        shift=tuple(sum(each) / count for each in zip(*shifts, strict=True)),
        colour_shift=sum(max(map(abs, each)) for each in shifts) / count,
    )
