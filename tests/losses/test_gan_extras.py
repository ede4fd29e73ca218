"""What stands beside the usual GAN terms: several scales, LDL's artefact map, R1, total variation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atelier.losses import LOSSES
from atelier.losses.base import GAN_LOSSES
from atelier.losses.gan import GANLoss
from atelier.losses.gradient_penalty import r1_penalty
from atelier.losses.ldl import artefact_map


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("relativistic", [False, True])
def test_several_scales_give_the_mean_and_of_features_the_last_counts(relativistic: bool) -> None:
    options = GAN_LOSSES.options_class("MultiScaleGANLoss")
    loss = options(type="MultiScaleGANLoss", gan_type="lsgan", relativistic=relativistic).build()
    assert isinstance(loss, GANLoss)
    large, small, other_large, other_small = (
        drawn(2, 1, side, side, seed=k) for k, side in enumerate((6, 3, 6, 3))
    )
    listed = [large, [drawn(2, 8, 3, 3, seed=9), small]]
    others = [other_large, [drawn(2, 8, 3, 3, seed=9), other_small]] if relativistic else None
    for method in (loss.generator, loss.real, loss.fake):
        alone = [
            method(one, other if relativistic else None)
            for one, other in ((large, other_large), (small, other_small))
        ]
        torch.testing.assert_close(method(listed, others), (alone[0] + alone[1]) / 2, rtol=0, atol=1e-15)
        assert alone[0] != alone[1]


def map_by_unfolding(out: torch.Tensor, average: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """The same map from the definition of the variance, window by window."""
    residual, steadier = ((each - gt).abs().sum(1, keepdim=True) for each in (out, average))
    windows = F.unfold(F.pad(residual, [3] * 4, mode="reflect"), 7)
    local = windows.var(1).view_as(residual)
    whole = residual.flatten(1).var(1).view(-1, 1, 1, 1) ** 0.2
    return torch.where(residual < steadier, 0.0, whole * local)


def test_the_artefact_map_is_that_of_its_definition() -> None:
    out, average, gt = (drawn(2, 3, 16, 20, seed=k) for k in range(3))
    found = artefact_map(out, average, gt)
    torch.testing.assert_close(found, map_by_unfolding(out, average, gt), rtol=1e-9, atol=1e-12)
    assert 0.2 < float((found == 0).double().mean()) < 0.8
    # Far from zero, single precision must not lose the variance to the mean.
    flat = (gt + 0.9 + 0.001 * out, average + 5, gt)
    exact = map_by_unfolding(*flat)
    torch.testing.assert_close(
        artefact_map(*(each.float() for each in flat)).double(), exact * (exact > 0), rtol=0.02, atol=1e-8
    )


def test_a_constant_error_has_no_artefacts_and_no_infinite_slope() -> None:
    gt = drawn(1, 3, 8, 8)
    out = (gt + 0.25).requires_grad_(True)
    found = artefact_map(out, gt + 1, gt) * 0 + artefact_map(out, gt + 0.1, gt)
    assert float(found.detach().abs().max()) < 1e-12
    found.sum().backward()
    assert out.grad is not None and bool(torch.isfinite(out.grad).all())


def test_r1_of_a_linear_judge_is_the_square_of_its_weights() -> None:
    weight = torch.tensor([[[[2.0]], [[-1.0]], [[0.5]]]], requires_grad=True)
    pictures = drawn(4, 3, 5, 5).float().requires_grad_(True)
    penalty = r1_penalty([F.conv2d(pictures, weight)], pictures)
    assert float(penalty.detach()) == pytest.approx(25 * (4 + 1 + 0.25))
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * 25 * weight.detach())
    twice = r1_penalty([F.conv2d(pictures, weight)] * 2, pictures)
    assert float(twice.detach()) == pytest.approx(4 * float(penalty.detach()))


def test_total_variation_by_hand() -> None:
    picture = torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 0.0, 4.0]]]])
    options = LOSSES.options_class("WeightedTVLoss")
    (mean,) = (
        options(type="WeightedTVLoss", loss_weight=0.5).build()(picture, torch.ones_like(picture)).values()
    )
    assert float(mean) == pytest.approx(0.5 * ((0 + 1 + 3) / 3 + (1 + 0 + 0 + 4) / 4))
    total = options(type="WeightedTVLoss", reduction="sum").build()(picture, picture)
    assert float(total["tv"]) == pytest.approx(4 + 5)


def test_smoothing_makes_the_total_variation_smaller() -> None:
    picture = nn.Parameter(drawn(1, 3, 12, 12).float())
    loss = LOSSES.options_class("WeightedTVLoss")(type="WeightedTVLoss").build()
    before = loss(picture, picture.detach())["tv"]
    before.backward()
    assert picture.grad is not None
    after = loss((picture - 0.5 * picture.grad).detach(), picture.detach())["tv"]
    assert float(after) < float(before.detach())
