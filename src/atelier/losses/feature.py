"""Feature maps against each other (FitNets, Romero et al., ICLR 2015)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from atelier.losses.distances import distances
from atelier.losses.module import full_precision

FeatureDistance = Literal["smooth_l1", "l1", "l2", "cosine"]


@full_precision
def feature_loss(student: Tensor, teacher: Tensor, loss: FeatureDistance = "smooth_l1") -> Tensor:
    """Mean of ρ over all values of two B×C×H×W maps; 0-d result.

    ``cosine``: 1 - cos of the angle between the channel vectors, averaged over places. Gradients flow into both sides
    (a projector may stand on either); who must not learn is detached before. Raises ValueError for unequal shapes.
    """
    if loss != "cosine":
        return distances(student, teacher, loss).mean()
    if student.shape != teacher.shape:
        raise ValueError(f"feature_loss: shapes {tuple(student.shape)} and {tuple(teacher.shape)} differ")
    return (1 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def same_places(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width of the two: what is larger is averaged over areas."""
    height, width = (min(first.shape[axis], second.shape[axis]) for axis in (-2, -1))
    fitted = [
        each if each.shape[-2:] == (height, width) else functional.adaptive_avg_pool2d(each, (height, width))
        for each in (first, second)
    ]
    return fitted[0], fitted[1]
