"""The contextual term: every place of the prediction finds one like it in the reference (Mechrez et al., ECCV 2018).

The form here never divides by a number below 1e-3 nor takes a logarithm or a root near 0, so equal, constant and
empty features give finite values and gradients in float32; the inputs may be of any precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from atelier.losses.module import full_precision

#: Of the embed net's stages, finest first.
STAGE_WEIGHTS = (1.0, 2.0, 4.0, 8.0)
_NORM_EPS, _NEAREST_EPS, _LEAST = 1e-4, 1e-3, 1e-6


@full_precision
def contextual_loss(
    prediction: Tensor,
    reference: Tensor,
    *,
    bandwidth: float = 0.1,
    chunk: int = 1024,
    valid: Tensor | None = None,
) -> Tensor:
    """-log of the mean over positions i of max_j A_ij, averaged over the batch; 0-d, at least 0.

    Both features are centred by the reference's mean and given length 1; d = clamp(1 - xᵀy, min 0),
    A = softmax_j(-d / (min_j d + 1e-3) / bandwidth). Rows are independent, so they are computed ``chunk`` at a time
    and, where a gradient is wanted, computed again in the backward pass instead of stored; the result is the same.

    Args:
        prediction: features ``[B, C, ...]``.
        reference: features ``[B, C, ...]``, positions may be others and more; several pictures are one longer list.
        bandwidth: h; smaller asks for nearer matches.
        chunk: rows at a time.
        valid: ``[B, ...]`` with the reference's positions, 0 or False where they come from padding.
    """
    x, y = prediction.flatten(2), reference.flatten(2)
    if valid is None:
        mean, barred = y.mean(dim=2, keepdim=True), None
    else:
        counts = (valid.flatten(1) > 0.5)[:, None]
        mean = (y * counts).sum(dim=2, keepdim=True) / counts.sum(dim=2, keepdim=True).clamp(min=1)
        barred = ~counts
    x, y = _unit(x - mean), _unit(y - mean)
    training = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    best = []
    for part in torch.split(x, chunk, dim=2):
        if training:
            best.append(checkpoint(_nearness, part, y, barred, bandwidth, use_reentrant=False))
        else:
            best.append(_nearness(part, y, barred, bandwidth))
    return -torch.cat(best, dim=1).mean(dim=1).clamp(min=_LEAST).log().mean()


def contextual_stages_loss(
    prediction: Sequence[Tensor],
    reference: Sequence[Tensor],
    weights: Sequence[float] = STAGE_WEIGHTS,
    *,
    bandwidth: float = 0.1,
    chunk: int = 1024,
    valid: Sequence[Tensor] | None = None,
) -> Tensor:
    """Weighted sum of :func:`contextual_loss` over feature stages, as many as there are weights; 0-d."""
    masks: Sequence[Tensor | None] = [None] * len(weights) if valid is None else valid
    terms = [
        weight * contextual_loss(x, y, bandwidth=bandwidth, chunk=chunk, valid=mask)
        for weight, x, y, mask in zip(weights, prediction, reference, masks, strict=True)
    ]
    return torch.stack(terms).sum()


def _unit(vectors: Tensor) -> Tensor:
    """Length 1 over channels; what is shorter than 1e-4 is only stretched by 1e4 (float32 knows no direction there)."""
    return torch.nn.functional.normalize(vectors, dim=1, eps=_NORM_EPS)


def _nearness(x: Tensor, y: Tensor, barred: Tensor | None, bandwidth: float) -> Tensor:
    """max_j A_ij for the rows in ``x`` ``[B, C, n]`` against ``y`` ``[B, C, m]``: ``[B, n]`` in (0, 1]."""
    distance = (1 - x.transpose(1, 2) @ y).clamp(min=0)
    if barred is not None:
        distance = distance.masked_fill(barred, torch.inf)
    nearest = distance.amin(dim=2, keepdim=True)
    logits = -distance / (nearest + _NEAREST_EPS) / bandwidth
    return (logits.amax(dim=2) - logits.logsumexp(dim=2)).exp()
