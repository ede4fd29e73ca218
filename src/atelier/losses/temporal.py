"""The temporal term: a surface keeps its colours along its motion."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atelier.images.warp import warp
from atelier.losses.module import full_precision

Direction = Literal["backward", "forward"]
_EPS = 1e-6


@full_precision
def temporal_loss(
    ab: Tensor,
    flow: Tensor,
    mask: Tensor,
    direction: Direction = "backward",
    *,
    detach_previous: bool = False,
) -> Tensor:
    """Mean over clips and frames t >= 1 of Σ M|ab_t - warp(ab_{t-1}, F)| / (2 ΣM + 1e-6), 0-d.

    The 2 stands for the two colour planes; every clip and frame counts alike, however much of it is visible. With
    ``direction: forward`` (flow files that lie on the previous frame's grid) warp(ab_t, F) is compared with ab_{t-1}.

    Args:
        ab: ``[B, T, 2, H, W]``, T >= 2, any scale.
        flow: ``[B, T, 2, H, W]`` pixels; entry t belongs to the frames t and t - 1, entry 0 is not read.
        mask: ``[B, T, 1, H, W]`` in [0, 1], confidence or validity on the grid of the flow; no gradient flows into it.
        direction: which grid the flow lies on.
        detach_previous: the gradient goes into frame t alone.

    Raises:
        ValueError: a clip of one frame.
    """
    if ab.shape[1] < 2:
        raise ValueError("the temporal term needs clips of two frames or more")
    previous = ab[:, :-1].detach() if detach_previous else ab[:, :-1]
    here, there = (ab[:, 1:], previous) if direction == "backward" else (previous, ab[:, 1:])
    error, weight = warp_error_sums(here, there, flow[:, 1:], mask[:, 1:])
    return (error / (2 * weight + _EPS)).mean()


def warp_error_sums(here: Tensor, there: Tensor, flow: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Σ M|here - warp(there, F)| over channels and pixels, and ΣM, both ``[B, T]``; inputs ``[B, T, C, H, W]``."""
    moved = warp(there.flatten(0, 1), flow.flatten(0, 1)).reshape(here.shape)
    mask = mask.detach().to(torch.float32)
    return (mask * (here - moved).abs()).sum(dim=(2, 3, 4)), mask.sum(dim=(2, 3, 4))
