"""The student's output against the teacher's (Hinton et al., 2015, carried over to pictures)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atelier.losses.distances import Distance, distances
from atelier.losses.module import full_precision

Mask = Literal["none", "better", "hard"]
HARDEST = 4.0


@full_precision
def response_loss(
    student: Tensor, teacher: Tensor, gt: Tensor, loss: Distance = "l1", mask: Mask = "none"
) -> Tensor:
    """Mean of m·ρ(S, T) over all values; three N×C×H×W pictures in [0, 1], 0-d result.

    ``mask`` none: m = 1. Otherwise :func:`better_mask` or :func:`hard_mask`. Gradients reach the student alone: the
    teacher is a constant, and so is the mask.
    """
    values = distances(student, teacher.detach(), loss)
    if mask == "better":
        values = values * better_mask(student, teacher, gt)
    elif mask == "hard":
        values = values * hard_mask(student, gt)
    return values.mean()


@torch.no_grad()
def better_mask(student: Tensor, teacher: Tensor, gt: Tensor) -> Tensor:
    """1 where the teacher is nearer to the truth than the student, by the mean |·| over channels; else 0. N×1×H×W."""
    nearer = (teacher - gt).abs().mean(1, keepdim=True) < (student - gt).abs().mean(1, keepdim=True)
    return nearer.to(student.dtype)


@torch.no_grad()
def hard_mask(student: Tensor, gt: Tensor) -> Tensor:
    """The student's own error |S - G| over its mean, at most 4; N×C×H×W, 0 where the student is perfect.

    The mean is each sample's own, so that the mask depends neither on the batch nor on how ranks share it.
    """
    error = (student - gt).abs()
    mean = error.mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(error.dtype).tiny)
    return (error / mean).clamp_max(HARDEST)
