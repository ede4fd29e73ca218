"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """An averaged copy of ``net``: ema = decay · ema + (1 - decay) · p after every step; buffers are copied.

    ``net`` is the bare module (inside DDP or ``torch.compile``), start weights loaded, not yet run. ``.net``
    is the copy: always in eval mode, without gradients, on the same device, with the names of the bare
    module. It can be validated at any time and the network in training never notices.

    Raises:
        ValueError: for a decay outside [0, 1), or a wrapped network (its names would not be the network's).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay must be in [0, 1), given {decay}")
        if hasattr(net, "_orig_mod") or isinstance(net, nn.parallel.DistributedDataParallel):
            raise ValueError(f"EMA needs the bare network, given it wrapped in {type(net).__name__}")
        self.decay = decay
        # What never learns is the same tensor in both: a frozen backbone is neither copied nor averaged.
        frozen = {id(each): each for each in net.parameters() if not each.requires_grad}
        self.net = copy.deepcopy(net, dict(frozen)).requires_grad_(False).eval()
        # Pairs are fixed once; the trainer changes weights in place, never the tensors themselves.
        pairs = [
            (average, source)
            for average, source in zip(self.net.parameters(), net.parameters(), strict=True)
            if id(source) not in frozen
        ]
        self._averages: list[Tensor] = [average for average, _ in pairs]
        self._sources: list[Tensor] = [source for _, source in pairs]
        self._copies = list(self.net.buffers())
        self._originals = list(net.buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights: foreach kernels over all tensors at once, no wait for the device."""
        if self._averages:
            torch._foreach_lerp_(self._averages, self._sources, 1 - self.decay)
        if self._copies:
            torch._foreach_copy_(self._copies, self._originals)

    def state_dict(self) -> dict[str, Tensor]:
        """Averaged weights and buffers under the network's own names (``params_ema`` of a model file)."""
        return self.net.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state_dict` gave, exactly; names and shapes must agree (RuntimeError)."""
        self.net.load_state_dict(state, strict=True)
