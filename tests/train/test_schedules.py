"""Schedules against torch's schedulers and hand values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atelier.train.schedules import (
    SCHEDULERS,
    ConstantOptions,
    CosineAnnealingRestartLROptions,
    MultiStepLROptions,
    OneCycleLROptions,
)


def torch_rates(make, total: int, base: float) -> list[float]:
    """The rates that torch's scheduler uses in steps 1 … total."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total:
            scheduler.step()
    return rates


def rates(options, total: int, base: float = 2e-4, warmup: int = -1) -> list[float]:
    rate = options.build(base, total, warmup)
    return [rate(step) for step in range(1, total + 1)]


def test_milestones_by_hand():
    rate = MultiStepLROptions(milestones=[10, 16], gamma=0.5).build(2e-4, 20)
    assert [rate(step) for step in (1, 9, 10, 15, 16, 20)] == [2e-4, 2e-4, 1e-4, 1e-4, 5e-5, 5e-5]


def test_milestones_equal_torch_s_one_step_earlier():
    """torch counts steps done, this house the step that is being done: a milestone m there is m + 1 here."""
    ours = rates(MultiStepLROptions(milestones=[8, 13, 17]), 20)
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [7, 12, 16], gamma=0.1), 20, 2e-4)
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_the_spec_s_twenty_thousand_steps():
    rate = MultiStepLROptions(milestones=[10_000, 16_000, 18_000, 19_000], gamma=0.5).build(2e-4, 20_000)
    assert rate(9_999) == 2e-4 and f"{rate(10_000):.3e}" == "1.000e-04" and rate(19_000) == 2e-4 / 16


def test_one_period_equals_torch_s_cosine():
    ours = rates(CosineAnnealingRestartLROptions(periods=[30], eta_min=1e-6), 30)
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30, eta_min=1e-6), 30, 2e-4)
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_restarts_by_hand():
    options = CosineAnnealingRestartLROptions(periods=[4, 8], restart_weights=[1, 0.5], eta_min=0.1)
    rate = options.build(1.1, 14)
    assert rate(1) == pytest.approx(1.1)
    assert rate(3) == pytest.approx(0.6)
    assert rate(5) == pytest.approx(0.1)  # place 4 ends the first period
    assert rate(6) == pytest.approx(0.1 + 0.25 * (1 + math.cos(math.pi / 8)))
    assert rate(9) == pytest.approx(0.1 + 0.25)
    assert rate(13) == pytest.approx(0.1)
    assert rate(14) == 0.1  # after the last period


@pytest.mark.parametrize(("total", "start"), [(50, 0.3), (7, 0.5), (100, 0.05)])
def test_one_cycle_equals_torch_s(total, start):
    ours = rates(OneCycleLROptions(pct_start=start, div_factor=10, final_div_factor=100), total, 1e-3)
    theirs = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o,
            1e-3,
            total_steps=total,
            pct_start=start,
            div_factor=10,
            final_div_factor=100,
            cycle_momentum=False,
        ),
        total,
        1e-3,
    )
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_one_cycle_of_one_step_has_a_rate():
    assert rates(OneCycleLROptions(), 1, 1e-3) == [pytest.approx(1e-3)]


def test_constant():
    assert set(rates(ConstantOptions(), 20)) == {2e-4}


def test_warm_up_is_linear_to_its_last_step():
    assert rates(ConstantOptions(), 6, 1.0, warmup=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert (
        rates(ConstantOptions(), 3, 1.0, warmup=0) == rates(ConstantOptions(), 3, 1.0, warmup=-1) == [1.0] * 3
    )


def test_warm_up_meets_the_schedule():
    plain, warm = (rates(OneCycleLROptions(), 40, warmup=warmup) for warmup in (-1, 10))
    assert warm[9:] == plain[9:]
    assert warm[4] == pytest.approx(plain[4] / 2)


EVERY = [
    ConstantOptions(),
    MultiStepLROptions(milestones=[5, 60]),
    CosineAnnealingRestartLROptions(periods=[20, 30], restart_weights=[1, 0.5], eta_min=1e-7),
    OneCycleLROptions(),
]


@settings(max_examples=60, deadline=None)
@given(
    options=st.sampled_from(EVERY),
    total=st.integers(1, 200),
    warmup=st.integers(-1, 50),
    order=st.lists(st.integers(1, 200), min_size=1, max_size=20),
)
def test_a_rate_depends_on_its_step_only_and_stays_in_bounds(options, total, warmup, order):
    rate = options.build(2e-4, total, warmup)
    again = options.build(2e-4, total, warmup)
    straight = {step: again(step) for step in range(1, 201)}
    for step in order:
        assert rate(step) == straight[step]
        assert 0 <= rate(step) <= 2e-4 * (1 + 1e-12)


def test_what_cannot_act_is_named():
    assert MultiStepLROptions(milestones=[100]).check(200) == []
    (warning,) = MultiStepLROptions(milestones=[100, 200]).check(200)
    assert "milestone 200 is not before total_iter 200" in warning
    options = CosineAnnealingRestartLROptions(periods=[50, 50], restart_weights=[1, 1])
    assert options.check(100) == []
    assert "never begins" in options.check(50)[0]
    assert "stays at eta_min (0) from there" in options.check(101)[0]
    assert ConstantOptions().check(1) == OneCycleLROptions().check(1) == []


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("MultiStepLR", {}, "milestones"),
        ("MultiStepLR", {"milestones": [5, 5]}, "must rise"),
        ("MultiStepLR", {"milestones": [0]}, "greater than 0"),
        ("MultiStepLR", {"milestones": [5], "gamma": 0}, "gamma"),
        ("CosineAnnealingRestartLR", {"periods": []}, "periods"),
        (
            "CosineAnnealingRestartLR",
            {"periods": [5, 5], "restart_weights": [1]},
            "one value for each of the 2",
        ),
        ("OneCycleLR", {"pct_start": 1.0}, "pct_start"),
        ("constant", {"gamma": 0.5}, "gamma"),
    ],
)
def test_bad_options_are_errors(name, keys, message):
    with pytest.raises(ValidationError, match=message):
        SCHEDULERS.options_class(name)(type=name, **keys)


def test_whole_numbers_written_as_floats_are_milestones():
    assert MultiStepLROptions(milestones=[5e3, 1e4]).milestones == [5000, 10000]
