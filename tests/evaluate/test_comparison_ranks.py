"""Several processes measure what one would have measured, and say when one of them is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import HashStore

from atelier import ranks
from atelier.archs.facts import NetworkFacts
from atelier.errors import RunStopped, UserError
from atelier.evaluate.comparison import Candidate, Comparison, compare
from atelier.evaluate.comparison_report import pictures_csv, summary_csv
from atelier.evaluate.pictures import PairSource
from atelier.images import imresize
from atelier.ranks import Crew, Place
from atelier.restore import RestorationModel


class Enlarge(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) * self.factor


def candidates(folder: Path) -> list[Candidate]:
    found = []
    for label, factor in (("a", 0.9), ("b", 1.0)):
        path = folder / f"{label}.pth"
        if not path.exists():  # another process may be looking at it
            path.write_bytes(b"0" * 100)
        facts = NetworkFacts("Enlarge", 2, 3, 3, "SR", receptive_radius=0)
        found.append(Candidate(label, path, RestorationModel(Enlarge(factor), facts, device="cpu")))
    return found


def source(index: int, read: Callable[[int], None] = lambda index: None) -> PairSource:
    """Picture 0 cannot be read, number 3 is grey: the first that can be read decides."""

    def pixels() -> Any:
        read(index)
        if index == 0:
            raise UserError("torn")
        rng = np.random.default_rng(index)
        return imresize(rng.integers(0, 256, (6, 8, 1 if index == 3 else 3), dtype=np.uint8), size=(24, 32))

    return PairSource(f"p{index}", pixels)


def measured(folder: Path, sources: list[PairSource], crew: Crew | None) -> Comparison | None:
    options = {"where": "x", "size": (16, 16), "timed": False, "quiet": True}
    return compare(candidates(folder), sources, crew=crew, **options)  # type: ignore[arg-type]


def test_three_processes_equal_one(tmp_path: Path) -> None:
    alone = measured(tmp_path, [source(index) for index in range(8)], None)
    assert alone is not None
    begun, taken = threading.Barrier(3, timeout=30), {"MainThread"}

    def read(index: int) -> None:
        # Each begins with one picture: their shares are uneven, and none is empty.
        if threading.current_thread().name not in taken:
            taken.add(threading.current_thread().name)
            begun.wait()

    store = HashStore()
    results: list[Any] = [None] * 3

    def work(rank: int) -> None:
        sources = [source(index, read) for index in range(8)]
        results[rank] = measured(tmp_path, sources, Crew(Place(rank, 3, rank), store))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[1] is None and results[2] is None
    together = results[0]
    assert together.failed == alone.failed
    assert [name for name, _ in alone.failed] == ["p0", "p3"]
    assert alone.failed[1][1] == "1 channels; the pictures before have 3"
    assert pictures_csv(together) == pictures_csv(alone)
    assert summary_csv(together) == summary_csv(alone)
    # What another process restored is restored again where it is shown.
    for name in together.pictures:
        assert np.array_equal(together.restore(name, "a"), alone.restore(name, "a"))


def test_a_process_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "SILENT_S", 0.2)
    crews = [Crew(Place(rank, 2, rank), store) for store in [HashStore()] for rank in range(2)]
    assert next(crews[1].claims(4)) == 0
    with pytest.raises(RunStopped, match=r"process 1 has not come within 0.2 s; nothing is written"):
        measured(tmp_path, [source(index) for index in range(1, 5)], crews[0])
