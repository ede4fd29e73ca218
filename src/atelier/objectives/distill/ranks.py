"""What all processes of a run know together."""

from __future__ import annotations

import torch
from torch import distributed


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The mean of ``values`` over all processes, the same on each; ``values`` itself where there is one process.

    Every rank must call it the same number of times and in the same order. No gradient flows through it.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    meeting = torch.device("cpu") if distributed.get_backend() == "gloo" else values.device
    total = values.detach().to(meeting, copy=True)
    distributed.all_reduce(total)
    return (total / distributed.get_world_size()).to(values.device)
