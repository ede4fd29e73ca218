"""The small matching network: its size, its fixed filters, its temperature."""

from __future__ import annotations

import math

import pytest
import torch

from atelier.archs.tiny_exemplar import TinyExemplarNet


def test_it_has_23457_parameters() -> None:
    assert sum(p.numel() for p in TinyExemplarNet().parameters()) == 23_457


def test_filters_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = TinyExemplarNet(3).state_dict()
    torch.manual_seed(2)
    again, other = TinyExemplarNet(3).state_dict(), TinyExemplarNet(4).state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert not torch.equal(state["encoder.0.weight"], other["encoder.0.weight"])


def test_features_have_a_quarter_of_the_size() -> None:
    assert TinyExemplarNet()(torch.rand(2, 1, 24, 32)).shape == (2, 32, 6, 8)


@pytest.mark.parametrize(("log_tau", "temperature"), [(math.log(0.05), 0.05), (-9.0, 0.01), (3.0, 1.0)])
def test_the_temperature_stays_within_its_bounds(log_tau: float, temperature: float) -> None:
    net = TinyExemplarNet()
    assert net.temperature.item() == pytest.approx(0.05)
    torch.nn.init.constant_(net.log_tau, log_tau)
    assert net.temperature.item() == pytest.approx(temperature)
