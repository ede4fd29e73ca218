"""The solved start: which pairs, how many crops, and that it answers as its source does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from archs.examples import lively
from atelier.archs import SRVGGNetCompact
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.swinir_options import SwinIROptions
from atelier.archs.weights import StateFile
from atelier.compress.solved import RULE, crops_for, solvable
from atelier.compress.start import start_from

OLD: dict[str, Any] = {"num_feat": 8, "num_conv": 3, "upscale": 2}


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"num_feat": 4}, True),
        ({"num_conv": 1}, True),
        ({"num_feat": 4, "num_conv": 1}, True),
        ({}, False),
        ({"num_feat": 9}, False),
        ({"num_feat": 4, "num_conv": 4}, False),
        ({"num_feat": 4, "upscale": 4}, False),
        ({"num_feat": 4, "num_in_ch": 1}, False),
        ({"num_feat": 4, "act_type": "relu"}, False),
    ],
)
def test_smaller_networks_of_the_same_task_are_solved(change: dict[str, Any], known: bool) -> None:
    assert solvable(SRVGGNetCompactOptions(**OLD), SRVGGNetCompactOptions(**OLD | change)) is known
    assert not solvable(SwinIROptions(), SRVGGNetCompactOptions(**OLD | change))


def test_larger_crops_need_fewer() -> None:
    assert [crops_for(side) for side in (8, 24, 32, 48, 64, 256)] == [128, 128, 128, 56, 32, 16]


def crops(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((24, 3, 16, 16), dtype=np.float32))


def test_a_solved_start_is_nearer_to_its_source_than_the_rules() -> None:
    """On crops that it was not solved on; every number comes from the file and the average is the same network."""
    source = lively(SRVGGNetCompact(**OLD)).eval()
    metadata = {
        "arch": "SRVGGNetCompact",
        "options": source.options.model_dump(mode="json", exclude={"type"}),
    }
    file = StateFile(source.state_dict(), "params", metadata)
    errors, state = [], torch.get_rng_state()
    for solve in (True, False):
        torch.manual_seed(1)
        net, average = (SRVGGNetCompact(num_feat=5, num_conv=2, upscale=2) for _ in range(2))
        before = torch.get_rng_state()
        report = start_from(
            net, file, mode="inherit", average_net=average, calibration=[crops()], solve=solve
        )
        assert torch.equal(torch.get_rng_state(), before)
        with torch.no_grad():
            errors.append(float((net.eval()(crops(1)) - source(crops(1))).square().mean()))
        assert all(torch.equal(value, average.state_dict()[key]) for key, value in net.state_dict().items())
        rules = {each.rule for each in report.inherited.values()}
        assert (rules == {RULE}) is solve
        if solve:
            assert report.reused == 1 and report.loaded == () and report.unexpected == ()
            assert report.inherited["body.0.weight"].old == (8, 3, 3, 3)
    torch.set_rng_state(state)
    assert errors[0] < 0.7 * errors[1]
