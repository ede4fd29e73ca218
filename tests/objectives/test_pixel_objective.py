"""The pixel objective, and that every loss term moves the generator."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.losses import LOSSES, LossOptions
from atelier.objectives import OBJECTIVES, Objective, Part
from atelier.objectives.base import DEFAULT_OBJECTIVE
from atelier.objectives.pixel import PixelOptions

CPU = torch.device("cpu")


@dataclass
class Pictures:
    lq: Tensor
    gt: Tensor


@pytest.fixture(scope="module")
def batch() -> Pictures:
    generator = torch.Generator().manual_seed(1)
    return Pictures(*(torch.rand(2, 3, side, side, generator=generator) for side in (12, 24)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))


def loss(name: str, **keys) -> LossOptions:
    if name == "PerceptualLoss":
        keys = {"vgg_weights": "random", "layer_weights": {"conv2_2": 1.0}, **keys}
    return LOSSES.options_class(name)(type=name, **keys)


def run(losses: list[LossOptions], batch: Pictures) -> tuple[Part, list[Tensor]]:
    net = network()
    objective = PixelOptions().build(nets={"g": net}, losses=losses, device=CPU)
    (part,) = objective.parts(batch, 1)
    part.total.backward()
    return part, [param.grad for param in net.parameters()]


def test_it_is_the_default_and_trains_g():
    assert OBJECTIVES.options_class(DEFAULT_OBJECTIVE) is PixelOptions
    assert PixelOptions.roles == ("g",)
    objective = PixelOptions().build(nets={"g": network()}, losses=[loss("L1Loss")], device=CPU)
    assert objective.roles == objective.active_roles(1) == ("g",)


def test_total_is_the_sum_of_the_logged_terms(batch):
    part, _ = run(
        [loss("L1Loss", loss_weight=0.5), loss("SSIMLoss"), loss("FFTLoss", loss_weight=0.1)], batch
    )
    assert part.role == "g"
    assert list(part.terms) == ["l_g_pix", "l_g_ssim", "l_g_fft"]
    torch.testing.assert_close(part.total, sum(part.terms.values()))
    with torch.no_grad():
        expected = 0.5 * (network()(batch.lq) - batch.gt).abs().mean()
    torch.testing.assert_close(part.terms["l_g_pix"], expected)
    assert part.total.requires_grad
    assert not any(term.requires_grad for term in part.terms.values())
    assert all(term.shape == () for term in part.terms.values())


def test_equal_names_are_kept_apart(batch):
    part, _ = run([loss("L1Loss"), loss("MSELoss"), loss("CharbonnierLoss")], batch)
    assert list(part.terms) == ["l_g_pix", "l_g_pix_2", "l_g_pix_3"]
    torch.testing.assert_close(part.total, sum(part.terms.values()))


TERMS = [
    *((name, {}) for name in LOSSES),
    ("PerceptualLoss", {"perceptual_weight": 0, "style_weight": 10.0}),
]


@pytest.mark.parametrize(("name", "keys"), TERMS)
def test_each_term_alone_and_added_moves_the_generator(name, keys, batch):
    _, alone = run([loss(name, **keys)], batch)
    assert all(bool(grad.isfinite().all()) and grad.abs().max() > 0 for grad in alone)
    _, without = run([loss("MSELoss")], batch)
    _, together = run([loss("MSELoss"), loss(name, **keys)], batch)
    for one, two, three in zip(alone, without, together, strict=True):
        assert not torch.equal(two, three)
        torch.testing.assert_close(three, one + two, rtol=1e-4, atol=1e-7)


def test_no_loss_is_an_error():
    with pytest.raises(UserError, match="at least one loss"):
        PixelOptions().build(nets={"g": network()}, losses=[], device=CPU)


def test_frozen_loss_networks_are_its_modules_and_no_state(batch):
    objective = PixelOptions().build(
        nets={"g": network()}, losses=[loss("L1Loss"), loss("PerceptualLoss")], device=CPU
    )
    counts = {
        name: sum(p.numel() for p in module.parameters()) for name, module in objective.modules().items()
    }
    assert counts["loss_0"] == 0 and counts["loss_1"] > 0
    assert objective.state_dict() == {}
    objective.load_state_dict({})
    with pytest.raises(ValueError, match="keeps no state, given: projector"):
        objective.load_state_dict({"projector": 1})


def test_losses_stay_in_float32_when_the_network_runs_in_bf16(batch):
    net = network()
    objective = PixelOptions().build(nets={"g": net}, losses=[loss("L1Loss"), loss("SSIMLoss")], device=CPU)
    with torch.autocast("cpu", torch.bfloat16):
        (part,) = objective.parts(batch, 1)
        output = net(batch.lq)
    assert output.dtype == torch.bfloat16
    assert all(term.dtype == torch.float32 for term in part.terms.values())
    torch.testing.assert_close(part.terms["l_g_pix"], (output.float() - batch.gt).abs().mean())


def test_a_second_objective_is_one_class_of_two_parts(batch):
    """What a GAN needs: parts in order, each run backward before the next is computed."""

    class Two(Objective):
        def __init__(self, first: nn.Module, second: nn.Module) -> None:
            self.first, self.second = first, second

        roles = ("g", "d")

        def active_roles(self, step: int) -> tuple[str, ...]:
            return ("d",) if step <= 3 else self.roles

        def parts(self, batch, step):
            out = self.first(batch.lq)
            total = (out - batch.gt).abs().mean()
            yield Part("g", total, {"l_g_pix": total.detach()})
            assert self.first[0].weight.grad is not None  # the trainer has been here
            judged = self.second(out.detach()).square().mean()
            yield Part("d", judged, {"l_d_fake": judged.detach()})

    objective = Two(network(), nn.Conv2d(3, 1, 3))
    assert objective.active_roles(3) == ("d",) and objective.active_roles(4) == ("g", "d")
    for part in objective.parts(batch, 1):
        part.total.backward()
    assert objective.second.weight.grad is not None
