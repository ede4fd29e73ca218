"""Which validation was the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from atelier.evaluate.results import ValidationResult


@dataclass(frozen=True)
class Best:
    """The best value of the deciding metric (the first of the first set) and where it was reached."""

    name: str
    metric: str
    protocol: str
    value: float
    iteration: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint; :meth:`from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Best:
        """The inverse of :meth:`to_json`."""
        return cls(
            name=str(record["name"]),
            metric=str(record["metric"]),
            protocol=str(record["protocol"]),
            value=float(record["value"]),
            iteration=int(record["iteration"]),
        )


def is_better(value: float, than: float, *, higher_is_better: bool) -> bool:
    """Whether ``value`` is strictly better; not-a-number is worse than everything."""
    if math.isnan(value):
        return False
    if math.isnan(than):
        return True
    return value > than if higher_is_better else value < than


def best_so_far(result: ValidationResult, previous: Best | None) -> tuple[Best, bool]:
    """The best of ``previous`` and ``result``, and whether ``result`` is it. Ties keep the earlier one.

    A previous best of another set, metric or protocol cannot be compared, so ``result`` replaces it.
    """
    metric, mean = next(iter(result.metrics.items()))
    current = Best(result.name, metric, mean.protocol, mean.value, result.iteration)
    if previous is None:
        return current, True
    if (previous.name, previous.metric, previous.protocol) != (
        current.name,
        current.metric,
        current.protocol,
    ):
        return current, True
    if is_better(current.value, previous.value, higher_is_better=mean.higher_is_better):
        return current, True
    return previous, False
