"""Distances by name, value by value: what the terms of distillation share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from atelier.losses.module import full_precision

Distance = Literal["l1", "l2", "charbonnier", "smooth_l1"]
CHARBONNIER_EPS = 1e-12


def distances(first: Tensor, second: Tensor, kind: Distance) -> Tensor:
    """ρ(d) of every difference d, in the inputs' common shape.

    ``l1`` |d|; ``l2`` d²; ``charbonnier`` √(d² + 1e-12) (as CharbonnierLoss); ``smooth_l1`` d²/2 where |d| < 1 and
    |d| - 1/2 elsewhere (Girshick, Fast R-CNN, ICCV 2015). Pictures in [0, 1] differ by less than 1, so there
    ``smooth_l1`` is half of ``l2``. Raises ValueError where the shapes differ (broadcasting would hide a wrong scale).
    """
    if first.shape != second.shape:
        raise ValueError(f"distances need equal shapes, given {tuple(first.shape)} and {tuple(second.shape)}")
    if kind == "smooth_l1":
        return functional.smooth_l1_loss(first, second, reduction="none")
    difference = first - second
    if kind == "l1":
        return difference.abs()
    if kind == "l2":
        return difference.square()
    return (difference.square() + CHARBONNIER_EPS).sqrt()


@full_precision
def mean_distance(first: Tensor, second: Tensor, kind: Distance) -> Tensor:
    """Mean of ρ over all values of two tensors of equal shape; 0-d result, gradients flow into both."""
    return distances(first, second, kind).mean()
