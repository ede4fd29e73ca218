"""Means of logged values over a print interval, added up on the device and read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atelier.train.distributed import Ranks


class Meters:
    """Sums of named 0-d tensors. Part of a checkpoint, so a resumed run logs the same means."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's values; no host synchronisation."""
        for name, value in values.items():
            value = value.detach().to(torch.float64)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Mean of each value since the last call, over the steps that gave it and over ranks; starts afresh."""
        names = list(self._sums)
        if not names:
            return {}
        means = ranks.mean(torch.stack([self._sums[name] / self._counts[name] for name in names]))
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._sums = {name: value.to(self._device) for name, value in state.get("sums", {}).items()}
        # Checkpoints of earlier versions have one count for all names.
        common = int(state.get("count", 0))
        self._counts = {name: int(state.get("counts", {}).get(name, common)) for name in self._sums}
