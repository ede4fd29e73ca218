"""Compact grows exactly, because nothing in it normalises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archs.examples import lively, picture
from atelier.archs import SRVGGNetCompact
from atelier.compress.inherit import InheritPlan, inherit_plan
from atelier.compress.options import InheritOptions

BASE: dict[str, Any] = {"num_feat": 6, "num_conv": 2, "upscale": 2}


def built(**changes: Any) -> Any:
    return SRVGGNetCompact(**{**BASE, **changes}).eval()


def carry(old: Any, new: Any, **options: Any) -> InheritPlan:
    """Make ``new`` out of ``old`` in place; returns the plan."""
    plan = inherit_plan(old.options, new.options, old.state_dict(), InheritOptions(**options))
    new.load_state_dict(plan.apply(old.state_dict(), new.state_dict())[0])
    return plan


def difference(one: Any, other: Any, colours: int = 3) -> float:
    x = picture(1, colours, 9, 8)
    with torch.no_grad():
        return float((one(x) - other(x)).abs().max())


@settings(max_examples=20, deadline=None)
@given(more=st.integers(0, 5), deeper=st.integers(0, 3), act=st.sampled_from(["prelu", "relu"]))
def test_growth_is_exact(more: int, deeper: int, act: str) -> None:
    old = lively(built(act_type=act))
    new = built(num_feat=6 + more, num_conv=2 + deeper, act_type=act)
    plan = carry(old, new)
    assert difference(old, new) < 1e-5
    if more == deeper == 0:
        assert plan.loaded == tuple(old.state_dict())
    back = built(act_type=act)
    carry(new, back)
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in old.state_dict().items())


@pytest.mark.parametrize("act", ["relu", "leakyrelu"])
def test_learned_slopes_start_as_the_fixed_one(act: str) -> None:
    old, new = lively(built(act_type=act)), built(num_feat=8)
    carry(old, new)
    assert difference(old, new) < 1e-5


def test_leaky_units_cannot_be_skipped_exactly() -> None:
    """Why the guarantee leaves LeakyReLU out: its slope is fixed, so an added layer bends twice."""
    old, new = lively(built(act_type="leakyrelu")), built(act_type="leakyrelu", num_conv=3)
    carry(old, new)
    assert 1e-5 < difference(old, new) < 0.2


def test_another_scale_takes_the_sub_pixels_at_the_same_place() -> None:
    """x2 to x4 repeats every pixel, so the new picture is the old one enlarged."""
    old, new = lively(built()), built(upscale=4)
    carry(old, new)
    x = picture(1, 3, 9, 8)
    with torch.no_grad():
        expected = old(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(new(x), expected, rtol=0, atol=1e-5)
        back = built()
        assert carry(new, back).rules["body.6.bias"].elements == 12  # type: ignore[union-attr]
        torch.testing.assert_close(back(x), old(x))


def test_colours() -> None:
    grey, colour = lively(built(num_in_ch=1, num_out_ch=1)), built()
    carry(grey, colour)
    x = picture(1, 1, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(colour(x.expand(-1, 3, -1, -1)), grey(x).expand(-1, 3, -1, -1))
    back = built(num_in_ch=1, num_out_ch=1)
    carry(colour, back)
    assert difference(grey, back, 1) < 1e-5


def test_the_strongest_features_stay() -> None:
    old = lively(built())
    with torch.no_grad():
        for i in (0, 2, 4):
            old.body[i].weight[:2] *= 1e-4
            old.body[i].bias[:2] = 0
    new = built(num_feat=4)
    carry(old, new, select="l2")
    assert difference(old, new) < 1e-3
    carry(old, new)
    assert difference(old, new) > 1e-2


def test_every_new_number_wakes_within_two_steps() -> None:
    old, new = lively(built()), built(num_feat=9, num_conv=4)
    plan = carry(old, new)
    nowhere = {key: torch.full_like(value, torch.nan) for key, value in old.state_dict().items()}
    made, _ = plan.apply(nowhere, new.state_dict())
    asleep = {key: mask for key, value in made.items() if (mask := ~value.isnan()).any()}
    assert len(asleep) > 10
    optimizer = torch.optim.SGD(new.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (new(picture(1, 3, 8, 8)) - 0.5).square().mean().backward()
        for key, parameter in new.named_parameters():
            if key in asleep and bool(parameter.grad[asleep[key]].abs().max() > 0):
                del asleep[key]
        optimizer.step()
    assert asleep == {}
