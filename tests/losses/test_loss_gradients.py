"""Every loss trains: its gradient reaches the generator, and a step against it makes the loss smaller."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from atelier.losses import LOSSES

EXTRA: dict[str, dict[str, Any]] = {
    "PerceptualLoss": {"layer_weights": {"conv1_2": 1.0}, "vgg_weights": "random"},
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_step_against_the_gradient_makes_the_loss_smaller(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    loss = LOSSES.options_class(name)(type=name, **EXTRA.get(name, {})).build()
    lq, gt = (torch.rand(2, 3, 24, 24) for _ in range(2))

    def total() -> torch.Tensor:
        return torch.stack(list(loss(net(lq), gt).values())).sum()

    before = total()
    before.backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)
    length = torch.stack([gradient.norm() for gradient in gradients]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter -= 1e-3 * gradient / length
        assert float(total()) < float(before)


@pytest.mark.parametrize("name", ["L1Loss", "MSELoss", "CharbonnierLoss", "FFTLoss"])
def test_a_sum_is_the_mean_times_the_number_of_values(name: str) -> None:
    """KAIR's ``l2sum`` adds up over the whole batch, pictures included."""
    prediction, gt = (torch.rand(3, 2, 12, 12, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    options = LOSSES.options_class(name)
    (mean,) = options(type=name).build()(prediction, gt).values()
    (total,) = options(type=name, reduction="sum").build()(prediction, gt).values()
    numbers = 3 * 2 * 12 * 12 if name != "FFTLoss" else 3 * 2 * 12 * 7 * 2
    assert float(total) == pytest.approx(numbers * float(mean), rel=1e-5)
    if name == "MSELoss":
        expected = nn.MSELoss(reduction="sum")(prediction, gt)
        torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
