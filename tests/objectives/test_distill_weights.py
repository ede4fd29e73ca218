"""Schedules at their edges, and factors that find what they were asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from atelier.errors import UserError
from atelier.objectives.distill.term_options import WeightOptions
from atelier.objectives.distill.weights import Balance, WeightSchedule, gradient_norm

CPU = torch.device("cpu")


def schedule(total_iter: int = 1000, **options: Any) -> WeightSchedule:
    if not {"grad_ratio", "loss_share"} & set(options):
        options.setdefault("value", 2.0)
    return WeightSchedule(WeightOptions(**options), total_iter, "feature")


def test_a_plain_number_holds_from_first_to_last_step() -> None:
    plain = schedule()
    assert [plain.at(step) for step in (1, 500, 1000, 5000)] == [2.0] * 4


def test_start_is_honoured_to_the_step() -> None:
    delayed = schedule(20000, start=4000)
    assert delayed.at(3999) == 0.0 and not delayed.active(3999)
    assert delayed.at(4000) == 2.0 and delayed.active(4000)


def test_ramp_rises_from_start_and_ends_at_the_value() -> None:
    ramp = schedule(start=10, ramp=4)
    assert [ramp.at(step) for step in range(9, 15)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_decay_arrives_at_its_end_and_stays(decay: str) -> None:
    falling = schedule(start=100, ramp=11, end=210, decay=decay, final=0.25)
    assert falling.at(109) == pytest.approx(2 * 10 / 11)
    assert falling.at(110) == 2.0
    assert falling.at(160) == pytest.approx(2 * (1 + 0.25) / 2)
    quarter = 0.75 if decay == "linear" else (1 + math.cos(math.pi / 4)) / 2
    assert falling.at(135) == pytest.approx(2 * (0.25 + 0.75 * quarter))
    assert 0.5 < falling.at(209) < 0.52
    assert [falling.at(step) for step in (210, 211, 1000)] == [0.5] * 3


def test_decay_to_nothing_switches_the_term_off() -> None:
    falling = schedule(decay="cosine")
    assert falling.active(999) and falling.at(999) > 0
    assert falling.at(1000) == 0.0 and not falling.active(1000)


def test_percent_are_of_total_iter() -> None:
    late = schedule(1001, start="50%", ramp="10%", end="90%", decay="linear")
    assert (late.start, late.ramp, late.end) == (501, 100, 901)
    assert (
        late.at(500) == 0
        and late.at(501) == pytest.approx(0.02)
        and late.at(600) == 2.0
        and late.at(901) == 0
    )
    assert schedule(1000, start="12.5%").start == 125


def test_a_decay_without_room_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"distill\.terms\.feature\.weight.*begins at iteration 600 and 'end' is 500"
    ):
        schedule(start=600, end="50%", decay="linear")
    schedule(start=600, end="50%")  # without a decay the end means nothing


def test_measurements_are_due_at_the_first_step_and_at_multiples() -> None:
    fixed, first, later = schedule(), schedule(grad_ratio=0.1), schedule(grad_ratio=0.1, start=250, every=50)
    assert not any(fixed.due(step) for step in range(1, 400))
    assert [step for step in range(1, 400) if first.due(step)] == [1, 100, 200, 300]
    assert [step for step in range(1, 400) if later.due(step)] == [250, 300, 350]


class Toy:
    """Two quadratics pulling one parameter to different places, with very different strengths."""

    def __init__(self, **weight: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.parameter = nn.Parameter(torch.zeros(6))
        self.unused = nn.Parameter(torch.zeros(3))
        self.parameters = [self.parameter, self.unused]
        self.pixel_target, self.term_target = (torch.randn(6, generator=generator) for _ in range(2))
        self.balance = Balance({"feature": WeightOptions(**weight)}, 1000, CPU)

    def losses(self, strength: float = 50.0) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            0.5 * (self.parameter - self.pixel_target).square().sum() + 0.3,
            strength * 0.5 * (self.parameter - self.term_target).square().sum(),
        )

    def step(self, step: int, strength: float = 50.0) -> None:
        pixel, term = self.losses(strength)
        weight = self.balance.weights(step, pixel, {"feature": term}, self.parameters)["feature"]
        (gradient,) = torch.autograd.grad(pixel + weight * term, [self.parameter])
        with torch.no_grad():
            self.parameter -= 1e-4 * gradient  # slow: the gradients' ratio changes slowly too

    def ratio(self, step: int, strength: float = 50.0) -> float:
        pixel, term = self.losses(strength)
        weight = self.balance.weights(step, pixel, {"feature": term}, self.parameters)["feature"]
        by_hand = [
            torch.autograd.grad(each, [self.parameter])[0].norm() for each in losses_of(pixel, weight * term)
        ]
        return float(by_hand[1] / by_hand[0])

    def share(self, step: int, strength: float = 50.0) -> float:
        pixel, term = self.losses(strength)
        weighted = self.balance.weights(step, pixel, {"feature": term}, self.parameters)["feature"] * term
        return float((weighted / (pixel + weighted)).detach())


def losses_of(*losses: torch.Tensor) -> list[torch.Tensor]:
    return [each.clone() for each in losses]


@pytest.mark.parametrize(("kind", "target"), [("grad_ratio", 0.25), ("loss_share", 0.2)])
@pytest.mark.parametrize("wrong_by", [0.01, 1.0, 100.0])
def test_balancing_reaches_its_target_and_follows_a_term_that_grows(
    kind: str, target: float, wrong_by: float
) -> None:
    """At the first step exactly; from a factor that is far off within some dozens of measurements."""
    toy = Toy(**{kind: target}, every=2)
    measure = toy.ratio if kind == "grad_ratio" else toy.share
    assert measure(1) == pytest.approx(target, rel=1e-5)
    state = toy.balance.state_dict()
    state["log"]["feature"] += math.log(wrong_by)
    toy.balance.load_state_dict(state)
    if wrong_by != 1:
        assert measure(1) != pytest.approx(target, rel=0.5)
    for step in range(2, 161):
        toy.step(step)
    assert measure(160) == pytest.approx(target, rel=0.05)
    for step in range(161, 321):
        toy.step(step, strength=2000.0)
    assert measure(320, strength=2000.0) == pytest.approx(target, rel=0.05)


def test_without_balancing_the_number_is_the_weight() -> None:
    assert Toy(value=0.25).ratio(1) > 5


def test_shares_of_several_terms_add_up_together() -> None:
    options = {
        "response": WeightOptions(loss_share=0.3),
        "feature": WeightOptions(loss_share=0.5),
        "affinity": WeightOptions(value=2.0),
    }
    raw = {"response": 7.0, "feature": 0.01, "affinity": 1.5}
    balance = Balance(options, 1000, CPU)
    parameter = nn.Parameter(torch.ones(1))
    losses = {name: value * parameter.sum() for name, value in raw.items()}
    weights = balance.weights(1, 0.5 * parameter.sum(), losses, [parameter])
    weighted = {name: float(weights[name]) * value for name, value in raw.items()}
    total = 0.5 + sum(weighted.values())
    assert weighted["response"] / total == pytest.approx(0.3, rel=1e-5)
    assert weighted["feature"] / total == pytest.approx(0.5, rel=1e-5)
    assert weighted["affinity"] == 3.0
    with pytest.raises(UserError, match=r"response 0\.3, feature 0\.7"):
        Balance(options | {"feature": WeightOptions(loss_share=0.7)}, 1000, CPU)


def test_the_factor_moves_a_tenth_of_the_way_in_the_logarithm() -> None:
    balance = Balance({"feature": WeightOptions(grad_ratio=1.0, every=1)}, 1000, CPU)
    parameter = nn.Parameter(torch.ones(1))

    def weight(step: int, strength: float) -> float:
        term = strength * parameter.sum()
        return float(balance.weights(step, parameter.sum(), {"feature": term}, [parameter])["feature"])

    assert weight(1, 4.0) == pytest.approx(1 / 4)
    assert weight(2, 400.0) == pytest.approx((1 / 4) ** 0.9 * (1 / 400) ** 0.1, rel=1e-5)
    assert weight(2, 1.0) == pytest.approx(
        (1 / 4) ** 0.9 * (1 / 400) ** 0.1, rel=1e-5
    )  # a second micro-batch


@pytest.mark.parametrize("strength", [0.0, math.inf, math.nan])
def test_a_useless_measurement_changes_nothing(strength: float) -> None:
    balance = Balance({"feature": WeightOptions(grad_ratio=1.0, every=1)}, 1000, CPU)
    parameter = nn.Parameter(torch.ones(1))

    def weight(step: int, strength: float) -> float:
        term = strength * parameter.sum()
        return float(balance.weights(step, parameter.sum(), {"feature": term}, [parameter])["feature"])

    assert weight(1, strength) == 0.0  # never measured: does not act
    assert weight(2, 4.0) == pytest.approx(0.25)
    assert weight(3, strength) == pytest.approx(0.25)


def test_the_schedule_shapes_a_balanced_weight() -> None:
    toy = Toy(grad_ratio=0.4, start=3, ramp=4, every=1000)
    assert toy.balance.active(2) == () and toy.balance.active(3) == ("feature",)
    assert [toy.ratio(step) for step in (3, 4, 5, 6, 7)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4], rel=1e-5)


@pytest.mark.parametrize("kind", ["grad_ratio", "loss_share"])
def test_stopped_and_resumed_is_uninterrupted(kind: str) -> None:
    toy = Toy(**{kind: 0.2}, every=7)
    for step in range(1, 32):
        toy.step(step)
    state = toy.balance.state_dict()
    resumed = Toy(**{kind: 0.2}, every=7)
    resumed.balance.load_state_dict(state)
    resumed.parameter.data.copy_(toy.parameter.data)
    forgetful = Toy(**{kind: 0.2}, every=7)
    forgetful.parameter.data.copy_(toy.parameter.data)
    for step in range(32, 60):
        for each in (toy, resumed, forgetful):
            each.step(step)
    assert torch.equal(toy.parameter, resumed.parameter)
    assert not torch.equal(toy.parameter, forgetful.parameter)


@pytest.mark.parametrize("kind", ["grad_ratio", "loss_share"])
@pytest.mark.parametrize("before", ["value", "grad_ratio", "loss_share"])
def test_a_term_that_was_balanced_otherwise_is_measured_at_its_next_step(kind: str, before: str) -> None:
    former = Toy(**{before: 0.2})
    former.step(1)
    state = former.balance.state_dict()
    toy = Toy(**{kind: 0.25}, every=100)
    measure = toy.ratio if kind == "grad_ratio" else toy.share
    assert toy.balance.load_state_dict(state) == (() if kind == before else ("feature",))
    assert measure(7) == pytest.approx(0.25, rel=1e-5 if kind != before else 1e-2)
    # Once: the next measurement is at a multiple of ``every`` again.
    measure(8, strength=500.0)
    factor = float(toy.balance.state_dict()["log"]["feature"])
    measure(9, strength=500.0)
    assert float(toy.balance.state_dict()["log"]["feature"]) == factor
    measure(100, strength=500.0)
    assert float(toy.balance.state_dict()["log"]["feature"]) != factor


def test_terms_that_only_the_checkpoint_balances_do_no_harm() -> None:
    toy = Toy(value=0.2)
    assert toy.balance.load_state_dict(Toy(grad_ratio=0.2).balance.state_dict()) == ()
    assert toy.balance.state_dict() == {"log": {}, "sums": {}}


def test_gradient_norm_leaves_no_trace() -> None:
    toy = Toy(value=1.0)
    pixel, term = toy.losses()
    expected = (50 * (toy.parameter - toy.term_target)).norm()
    torch.testing.assert_close(gradient_norm(term, toy.parameters), expected.detach())
    assert toy.parameter.grad is None
    (pixel + term).backward()  # the graph is still there
    assert toy.parameter.grad is not None
