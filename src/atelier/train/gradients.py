"""The size of the gradients, and keeping it in bounds; neither waits for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def gradient_norm(params: Sequence[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients taken as one vector: 0-d, on their device (0 where there are none)."""
    return torch.nn.utils.get_total_norm([param.grad for param in params if param.grad is not None])


def clip_gradients(params: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients in place by min(1, max_norm / norm); returns the norm before (Pascanu et al. 2013).

    A non-finite norm makes every gradient non-finite. Nothing is hidden by that: the norm is what health
    watches, and :func:`atelier.train.optimizers.guarded_step` keeps such gradients from the weights.
    """
    norm = gradient_norm(params)
    torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm)
    return norm
