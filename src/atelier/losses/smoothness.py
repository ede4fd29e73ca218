"""The smoothness term: colours follow those neighbours that truly look alike (Zhang et al., CVPR 2019, eq. 10)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.images.lab import LabScale
from atelier.losses.module import full_precision

_SPREAD = 10.0


@full_precision
def smoothness_loss(ab: Tensor, truth: Tensor) -> Tensor:
    """Mean squared distance of ab to the weighted mean of its 3×3 neighbourhood, 0-d.

    The nine weights are softmax(-(ΔL² + Δa² + Δb²) / 10) of the ground truth in Lab units, so an edge of the true
    picture separates colours and a flat place joins them. Borders are repeated.

    Args:
        ab: ``[..., 2, H, W]``, unit scale.
        truth: LAB ``[..., 3, H, W]``, unit scale; no gradient flows into it.
    """
    ab, truth = ab.reshape(-1, *ab.shape[-3:]), truth.detach().reshape(-1, *truth.shape[-3:])
    lab = LabScale.UNIT.restore(truth)
    alike = torch.stack([-(shifted - lab).square().sum(dim=1, keepdim=True) for shifted in _neighbours(lab)])
    weights = (alike / _SPREAD).softmax(dim=0)
    mean = torch.zeros_like(ab)
    for weight, shifted in zip(weights, _neighbours(ab), strict=True):
        mean = mean + weight * shifted
    return (ab - mean).square().mean()


def _neighbours(picture: Tensor) -> Iterator[Tensor]:
    """The picture ``[N, C, H, W]`` seen from each place of a 3×3 window."""
    height, width = picture.shape[-2:]
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    for y in range(3):
        for x in range(3):
            yield padded[..., y : y + height, x : x + width]
