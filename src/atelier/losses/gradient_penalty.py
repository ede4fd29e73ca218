"""R1: a discriminator's slope on real pictures (Mescheder, Geiger & Nowozin, ICML 2018, equation 9)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def r1_penalty(logits: Sequence[Tensor], pictures: Tensor) -> Tensor:
    """Mean over the pictures of the squared norm of d(sum of their logits)/d(picture); 0-d, can be differentiated.

    Args:
        logits: what the discriminator says of ``pictures``, one tensor a scale, graph attached.
        pictures: [N, C, H, W], a leaf that requires a gradient.
    """
    total = torch.stack([each.sum() for each in logits]).sum()
    (slope,) = torch.autograd.grad(total, pictures, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()
