"""Two ranks with half a batch each find the statistics and weights of one process with the whole batch."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

import atelier.objectives.distill.weights as weights_module
from atelier.objectives.distill.normalise import Calibrated
from atelier.objectives.distill.ranks import mean_over_ranks
from atelier.objectives.distill.term_options import WeightOptions
from atelier.objectives.distill.weights import Balance

WEIGHTS = {
    "feature": WeightOptions(grad_ratio=0.3, every=2),
    "response": WeightOptions(loss_share=0.2, every=2),
}


def found_by(share: slice) -> dict[str, torch.Tensor]:
    """What a process finds that sees the samples ``share`` of every batch."""
    generator = torch.Generator().manual_seed(0)
    normaliser, balance = Calibrated(3), Balance(WEIGHTS, 100, torch.device("cpu"))
    parameter = nn.Parameter(torch.ones(5))
    weights: dict[str, float | torch.Tensor] = {}
    for step in range(1, 10):
        features = (
            torch.randn(4, 3, 6, 6, generator=generator) * step + torch.arange(4.0)[:, None, None, None]
        )
        normaliser.observe(features[share])
        targets = torch.randn(3, 4, 5, generator=generator)
        pixel, feature, response = (
            (strength * (parameter - target[share])).square().mean()
            for strength, target in zip((1, 9, 3), targets, strict=True)
        )
        weights = balance.weights(step, pixel, {"feature": feature, "response": response}, [parameter])
    found = {name: torch.as_tensor(weight) for name, weight in weights.items()}
    found["sums"] = balance.state_dict()["sums"]["response"]  # of the last step alone
    return found | {"mean": normaliser.mean, "variance": normaliser.variance}


def _rank(rank: int, port: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        found = found_by(slice(2 * rank, 2 * rank + 2))
        found["number"] = mean_over_ranks(torch.tensor(float(rank)))
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_what_is_saved_between_two_measurements_is_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is written by one rank and read by all, at any step."""
    meeting, given = threading.Barrier(2, timeout=60), [torch.zeros(()), torch.zeros(())]
    place = threading.local()

    def mean_of_both(values: torch.Tensor) -> torch.Tensor:
        given[place.rank] = values.clone()
        meeting.wait()
        mean = (given[0] + given[1]) / 2
        meeting.wait()  # nobody gives the next one before both have read
        return mean

    monkeypatch.setattr(weights_module, "mean_over_ranks", mean_of_both)

    def rank(number: int) -> list[dict[str, list[float]]]:
        place.rank = number
        shares = {name: WeightOptions(loss_share=0.2, every=3) for name in ("response", "upcycle")}
        balance, saved = Balance(shares, 100, torch.device("cpu")), []
        for step in range(1, 8):
            pixel, response, upcycle = (torch.tensor(float(step + each + 5 * number)) for each in range(3))
            balance.weights(step, pixel, {"response": response, "upcycle": upcycle}, [])
            saved.append({name: each.tolist() for name, each in balance.state_dict()["sums"].items()})
        return saved

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(rank, (0, 1))
    assert first == second
    # Of steps 4 and 5, after the measurement at 3: (4 + 1) + 5 / 2 and (5 + 1) + 5 / 2, one less of the pixels.
    assert first[4]["response"] == [16.0, 14.0]
    assert first[5]["response"] == [0.0, 0.0]


@pytest.mark.slow
def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_rank, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert float(first.pop("number")) == float(second.pop("number")) == 0.5
    alone, half = found_by(slice(0, 4)), found_by(slice(0, 2))
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(half[name], expected, rtol=1e-3)
