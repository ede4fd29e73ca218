"""The records of a run so far, kept such that looking at one more costs the same after any number of them."""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]


def number(values: Mapping[str, Any], name: str) -> float:
    """``values[name]`` as float; NaN where it is missing or no number (records of resumed runs may lack a term)."""
    try:
        return float(values[name])
    except (KeyError, TypeError, ValueError):
        return math.nan


class History:
    """Records of ``metrics.jsonl`` in ascending order, sorted by what is asked of them.

    Args:
        records: those so far; kinds other than ``train`` and ``validation`` are left out.

    Attributes:
        train: records of kind ``train``.
        taught: those of them with details of distillation.
        details: name -> (iteration, value) of every detail that was ever told.
        deciding: (iteration, value, higher is better) of the first metric of the first set's validations, as far back
            as they measure the same: a resumed run may go on with another metric or set.
        first_validation: iteration of the very first validation; None before it.
        signs: (iteration, set, signs) of the latest validation that recorded signs.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.train: list[Record] = []
        self.taught: list[Record] = []
        self.details: dict[str, list[tuple[int, float]]] = {}
        self.deciding: list[tuple[int, float, bool]] = []
        self.first_validation: int | None = None
        self.signs: tuple[int, str, Mapping[str, float]] | None = None
        self._measured: tuple[int, str] | None = None
        self._deciding: tuple[object, ...] | None = None
        self._losses: dict[str, _Losses] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take one more record."""
        if record.get("kind") == "train":
            self.train.append(record)
            if record.get("details"):
                self.taught.append(record)
                for name in record["details"]:
                    told = self.details.setdefault(name, [])
                    told.append((int(record["iter"]), number(record["details"], name)))
        elif record.get("kind") == "validation":
            self._validated(record)

    def _validated(self, record: Record) -> None:
        if record.get("signs"):
            self.signs = int(record["iter"]), str(record["set"]), record["signs"]
        if not record["metrics"]:
            return
        at, name = int(record["iter"]), str(record["set"])
        if self.first_validation is None:
            self.first_validation = at
        if self._measured is None or self._measured[0] != at:
            self._measured = at, name  # the first set of a step is the one that decides
        if name != self._measured[1]:
            return
        key, metric = next(iter(record["metrics"].items()))
        decides = name, key, metric.get("protocol"), frozenset(record.get("images", ()))
        if decides != self._deciding:
            self._deciding, self.deciding = decides, []
        value = float(metric["value"])
        if math.isfinite(value):
            self.deciding.append((at, value, bool(metric["higher_is_better"])))

    def since(self, steps: int) -> list[Record]:
        """Train records of the last ``steps`` steps; none where the run (since its last start) is not that long."""
        lines = self.train
        if not lines:
            return []
        last = lines[-1]["iter"]
        # A record is the mean since the one before it, so the first one of all began at most one interval earlier.
        interval = lines[1]["iter"] - lines[0]["iter"] if len(lines) > 1 else lines[0]["iter"]
        if last - (lines[0]["iter"] - interval) < steps:
            return []
        return after(lines, last - steps)

    def best_median(self, name: str, width: int) -> float | None:
        """The lowest median of ``width`` values of a loss, windows side by side; None where there is only one."""
        return self._losses.setdefault(name, _Losses()).best_median(self.train, name, width)


def after(lines: list[Record], step: int) -> list[Record]:
    """Those of ascending records that are later than ``step``."""
    return lines[bisect.bisect_right(lines, step, key=lambda line: line["iter"]) :]


class _Losses:
    """The finite values of one loss, and what is known of their windows."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._read = 0
        self._best: dict[int, tuple[int, float]] = {}

    def best_median(self, lines: list[Record], name: str, width: int) -> float | None:
        values = (number(line["losses"], name) for line in lines[self._read :])
        self._values += [value for value in values if math.isfinite(value)]
        self._read = len(lines)
        done, best = self._best.get(width, (0, math.inf))
        while (done + 1) * width <= len(self._values):
            best = min(best, statistics.median(self._values[done * width : (done + 1) * width]))
            done += 1
        self._best[width] = done, best
        return best if done > 1 else None
