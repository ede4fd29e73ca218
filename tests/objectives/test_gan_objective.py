"""The gan objective: what moves whom, in which order, and what stays untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atelier.archs.unet_discriminator import UNetDiscriminatorSN
from atelier.degrade.usm import usm_sharp
from atelier.errors import UserError
from atelier.losses import LOSSES, LossOptions
from atelier.losses.gan import GANLossOptions
from atelier.losses.ldl import artefact_map
from atelier.objectives.gan import GanObjective, GanOptions

CPU = torch.device("cpu")
GAN = GANLossOptions(loss_weight=0.1)


@dataclass
class Pictures:
    lq: Tensor
    gt: Tensor


@pytest.fixture(scope="module")
def batch() -> Pictures:
    generator = torch.Generator().manual_seed(1)
    return Pictures(*(torch.rand(2, 3, side, side, generator=generator) for side in (12, 24)))


def generator() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))


def discriminator() -> UNetDiscriminatorSN:
    torch.manual_seed(1)
    return UNetDiscriminatorSN(num_feat=8)


def loss(name: str, **keys: Any) -> LossOptions:
    if name == "PerceptualLoss":
        keys = {"vgg_weights": "random", "layer_weights": {"conv2_2": 1.0}, **keys}
    return LOSSES.options_class(name)(type=name, **keys)


PIXEL = loss("L1Loss")
PERCEPTUAL = loss("PerceptualLoss")
STYLE = loss("PerceptualLoss", perceptual_weight=0, style_weight=10.0)


def build(
    losses: Sequence[LossOptions], gan: GANLossOptions = GAN, **keys: Any
) -> tuple[GanObjective, nn.Module, UNetDiscriminatorSN]:
    g, d = generator(), discriminator()
    objective = GanOptions(**keys).build(nets={"g": g, "d": d}, losses=losses, device=CPU, gan=gan)
    assert isinstance(objective, GanObjective)
    return objective, g, d


def gradients(net: nn.Module) -> list[Tensor]:
    assert all(each.grad is not None for each in net.parameters())
    return [each.grad.clone() for each in net.parameters()]


def g_gradients(losses: Sequence[LossOptions], batch: Pictures, gan: GANLossOptions | None) -> list[Tensor]:
    """The generator's gradients of its own part; without a discriminator where ``gan`` is None."""
    g = generator()
    nets = {"g": g} if gan is None else {"g": g, "d": discriminator()}
    next(GanOptions().build(nets=nets, losses=losses, device=CPU, gan=gan).parts(batch, 1)).total.backward()
    return gradients(g)


@pytest.mark.parametrize(
    ("alone", "losses", "gan"),
    [
        (([PIXEL], None), ([PERCEPTUAL], GAN), GAN),
        (([PERCEPTUAL], None), ([PIXEL], GAN), GAN),
        (([STYLE], None), ([PIXEL], GAN), GAN),
        (([], GAN), ([PIXEL, PERCEPTUAL], None), GAN),
    ],
    ids=["pixel", "perceptual", "style", "gan"],
)
def test_each_term_alone_moves_g_and_its_absence_is_seen(alone, losses, gan, batch) -> None:
    one, without = g_gradients(*alone[:1], batch, alone[1]), g_gradients(losses[0], batch, losses[1])
    together = g_gradients([*losses[0], *alone[0]], batch, gan)
    for single, rest, both in zip(one, without, together, strict=True):
        assert single.abs().max() > 0
        assert not torch.equal(rest, both)
        torch.testing.assert_close(both, single + rest, rtol=1e-4, atol=1e-7)


def test_parts_come_in_order_with_the_names_of_the_field(batch) -> None:
    objective, _, _ = build([PIXEL, loss("PerceptualLoss", style_weight=1.0)])
    parts = []
    for part in objective.parts(batch, 1):
        part.total.backward()
        parts.append(part)
        torch.testing.assert_close(
            part.total.detach(), sum(v for name, v in part.terms.items() if not name.startswith("out"))
        )
    assert [(part.role, list(part.terms)) for part in parts] == [
        ("g", ["l_g_pix", "l_g_percep", "l_g_style", "l_g_gan"]),
        ("d", ["l_d_real", "out_d_real"]),
        ("d", ["l_d_fake", "out_d_fake"]),
    ]
    assert not any(value.requires_grad or value.shape for part in parts for value in part.terms.values())


def test_values_are_those_of_the_formulas(batch) -> None:
    objective, g, d = build([PIXEL])
    logged: dict[str, Tensor] = {}
    for part in objective.parts(batch, 1):
        part.total.backward()
        logged |= part.terms
    with torch.no_grad():
        judge, out = discriminator(), g(batch.lq)
        judged_g, judged_real, judged_fake = judge(out), judge(batch.gt), judge(out)
    softplus = nn.functional.softplus
    expected = {
        "l_g_pix": (out - batch.gt).abs().mean(),
        "l_g_gan": 0.1 * softplus(-judged_g).mean(),
        "l_d_real": softplus(-judged_real).mean(),
        "out_d_real": judged_real.mean(),
        "l_d_fake": softplus(judged_fake).mean(),
        "out_d_fake": judged_fake.mean(),
    }
    assert list(logged) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(logged[name], value)
    for ours, theirs in zip(d.buffers(), judge.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)  # three passes moved the spectral vectors three times


def test_d_gets_no_gradient_from_gs_part_and_g_none_from_ds(batch) -> None:
    objective, g, d = build([PIXEL])
    parts = objective.parts(batch, 1)
    next(parts).total.backward()
    assert all(each.grad is None and each.requires_grad for each in d.parameters())
    after_g = gradients(g)
    for part in parts:
        part.total.backward()
    assert all(map(torch.equal, after_g, gradients(g)))
    assert all(bool(each.abs().max() > 0) for each in gradients(d))


@pytest.mark.parametrize("mutation", ["nothing is frozen", "the output stays attached"])
def test_the_separation_tests_have_teeth(batch, monkeypatch, mutation) -> None:
    from contextlib import nullcontext

    if mutation == "nothing is frozen":
        monkeypatch.setattr("atelier.objectives.gan.frozen", nullcontext)
    else:
        monkeypatch.setattr(Tensor, "detach", lambda self: self)
    with pytest.raises((AssertionError, RuntimeError)):
        test_d_gets_no_gradient_from_gs_part_and_g_none_from_ds(batch)


def test_d_is_trainable_again_where_g_s_part_fails(batch) -> None:
    objective, _, d = build([])
    broken = Pictures(batch.lq[..., :5], batch.gt)
    with pytest.raises(RuntimeError):
        next(objective.parts(broken, 1))
    assert all(each.requires_grad for each in d.parameters())


def test_vgg_stays_bit_identical(batch) -> None:
    objective, g, d = build([PIXEL, PERCEPTUAL])
    (vgg,) = [module for name, module in objective.modules().items() if name == "loss_1"]
    before = {key: value.clone() for key, value in vgg.state_dict().items()}
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d)]
    for step in range(1, 11):
        for part in objective.parts(batch, step):
            part.total.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(value, before[key]) for key, value in vgg.state_dict().items())
    assert all(each.grad is None for each in vgg.parameters())


def test_a_joint_pass_gives_the_losses_of_two_passes(batch) -> None:
    """Up to the spectral vectors, which stand still in evaluation mode."""
    d = discriminator().eval()
    fake = batch.gt.flip(3)
    joint = d(torch.cat((batch.gt, fake)))
    torch.testing.assert_close(joint, torch.cat((d(batch.gt), d(fake))))


def test_when_the_generator_learns(batch) -> None:
    objective, g, _ = build([PIXEL], net_d_iters=2, net_d_init_iters=3)
    assert objective.roles == ("g", "d")
    active = [objective.active_roles(step) for step in range(1, 9)]
    assert active == [("d",), ("d",), ("d",), ("g", "d"), ("d",), ("g", "d"), ("d",), ("g", "d")]
    for step in (1, 5):
        parts = list(objective.parts(batch, step))
        assert [part.role for part in parts] == ["d", "d"]
    for part in parts:
        part.total.backward()
    assert all(each.grad is None for each in g.parameters())


def test_gs_forward_is_done_once(batch) -> None:
    objective, g, _ = build([PIXEL, PERCEPTUAL])
    calls = []
    g.register_forward_hook(lambda *_: calls.append(1))
    for part in objective.parts(batch, 1):
        part.total.backward()
    assert len(calls) == 1


FLAGS = {"l1_gt_usm": "l_g_pix", "percep_gt_usm": "l_g_percep", "gan_gt_usm": "out_d_real"}


@pytest.mark.parametrize("flag", FLAGS)
def test_each_usm_switch_sharpens_its_own_target(batch, flag: str) -> None:
    def first_terms(pictures: Pictures, **keys: Any) -> dict[str, Tensor]:
        objective, _, _ = build([PIXEL, PERCEPTUAL], **keys)
        return {name: value for part in objective.parts(pictures, 1) for name, value in part.terms.items()}

    plain, all_sharp = first_terms(batch), first_terms(Pictures(batch.lq, usm_sharp(batch.gt)))
    switched = first_terms(batch, **{flag: True})
    for name in FLAGS.values():
        assert not torch.equal(plain[name], all_sharp[name])
        assert torch.equal(switched[name], (all_sharp if name == FLAGS[flag] else plain)[name])


def test_relativistic_uses_both_sides(batch) -> None:
    objective, g, d = build([], GANLossOptions(relativistic=True))
    terms = {}
    for part in objective.parts(batch, 1):
        part.total.backward()
        if part.role == "g":
            assert all(each.grad is None for each in d.parameters())
        terms |= part.terms
    with torch.no_grad():
        judge, out = discriminator(), g(batch.lq)
        judged = [judge(each) for each in (batch.gt, out, out, batch.gt, out)]
    softplus = nn.functional.softplus
    real, fake = judged[0], judged[1]
    expected = (softplus(real - fake.mean()).mean() + softplus(-(fake - real.mean())).mean()) / 2
    torch.testing.assert_close(terms["l_g_gan"], expected)
    reference, real, fake = judged[2:]
    torch.testing.assert_close(terms["l_d_real"], softplus(-(real - reference.mean())).mean() / 2)
    torch.testing.assert_close(terms["l_d_fake"], softplus(fake - real.mean()).mean() / 2)


def test_equal_names_are_kept_apart(batch) -> None:
    objective, _, _ = build([PIXEL, loss("MSELoss")])
    assert list(next(objective.parts(batch, 1)).terms) == ["l_g_pix", "l_g_pix_2", "l_g_gan"]


def test_without_a_discriminator_the_content_terms_alone(batch) -> None:
    objective = GanOptions().build(nets={"g": generator()}, losses=[PIXEL], device=CPU)
    assert objective.roles == objective.active_roles(1) == ("g",)
    (part,) = objective.parts(batch, 1)
    assert list(part.terms) == ["l_g_pix"]
    with pytest.raises(UserError, match="at least one loss"):
        GanOptions().build(nets={"g": generator()}, losses=[], device=CPU)


def test_nothing_waits_for_the_device(batch) -> None:
    from train.conftest import _NoHostSync

    objective, _, _ = build([PIXEL, PERCEPTUAL], l1_gt_usm=True)
    with _NoHostSync():
        for part in objective.parts(batch, 1):
            part.total.backward()


class TestUsm:
    """The sharpened target against the formula."""

    def test_it_equals_the_dense_formula_in_float64(self) -> None:
        x = torch.rand(1, 2, 60, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        place = torch.arange(51, dtype=torch.float64) - 25
        line = torch.exp(-(place**2) / 128)
        kernel = torch.outer(line, line)
        kernel = (kernel / kernel.sum()).expand(2, 1, 51, 51)

        def blur(y: Tensor) -> Tensor:
            return nn.functional.conv2d(nn.functional.pad(y, (25,) * 4, mode="reflect"), kernel, groups=2)

        residual = x - blur(x)
        soft = blur((residual.abs() * 255 > 10).double())
        expected = soft * (x + 0.5 * residual).clip(0, 1) + (1 - soft) * x
        torch.testing.assert_close(usm_sharp(x), expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("shape", [(40, 60, 3), (16, 9, 3), (1, 1, 1)])
    def test_it_equals_the_numpy_one_also_below_the_filters_size(self, shape) -> None:
        from atelier.degrade.sharpen import usm_sharpen

        smooth = nn.functional.interpolate(
            torch.rand(1, shape[2], 4, 4, generator=torch.Generator().manual_seed(2)),
            shape[:2],
            mode="bicubic",
        ).clamp(0, 1)
        expected = torch.from_numpy(usm_sharpen(smooth[0].permute(1, 2, 0).contiguous().numpy()))
        found = usm_sharp(smooth)[0].permute(1, 2, 0)
        # A residual next to the threshold may fall on either side in float32; its weight in the soft mask is small.
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
        assert (found - expected).abs().mean() < 1e-4

    def test_samples_do_not_see_each_other(self) -> None:
        x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(usm_sharp(x)[1:2], usm_sharp(x[1:2]), rtol=0, atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            assert usm_sharp(x).dtype == torch.float32


# -------------------------------------------------------------------- LDL, R1, several scales


def with_ldl(batch: Pictures, average: nn.Module) -> tuple[dict[str, Tensor], list[Tensor]]:
    g = generator()
    nets = {"g": g, "d": discriminator(), "g_average": average}
    options = GanOptions(l1_gt_usm=True)
    objective = options.build(
        nets=nets, losses=[PIXEL], device=CPU, gan=GAN, ldl=loss("L1Loss", loss_weight=3.0)
    )
    part = next(objective.parts(batch, 1))
    part.total.backward()
    return dict(part.terms), gradients(g)


def test_ldl_moves_g_where_its_output_is_worse_than_the_averages(batch) -> None:
    steady = nn.Upsample(scale_factor=2)
    terms, moved = with_ldl(batch, steady)
    assert list(terms) == ["l_g_pix", "l_g_ldl", "l_g_gan"]
    with torch.no_grad():
        out = generator()(batch.lq)
        weight = artefact_map(out, steady(batch.lq), batch.gt)
        torch.testing.assert_close(terms["l_g_ldl"], 3 * (weight * (out - batch.gt).abs()).mean())
    # The generator as its own average leaves nothing worse; a much worse average leaves no artefact at all.
    _, itself = with_ldl(batch, generator())
    assert not all(map(torch.equal, moved, itself))

    class Far(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(x, scale_factor=2) + 9

    terms, unmoved = with_ldl(batch, Far())
    assert float(terms["l_g_ldl"]) == 0
    g = generator()
    objective = GanOptions(l1_gt_usm=True).build(
        nets={"g": g, "d": discriminator()}, losses=[PIXEL], device=CPU, gan=GAN
    )
    next(objective.parts(batch, 1)).total.backward()
    for far, without in zip(unmoved, gradients(g), strict=True):
        torch.testing.assert_close(far, without)


def d_gradients(batch: Pictures, step: int, **keys: Any) -> tuple[list[str], list[Tensor], list[Tensor]]:
    objective, g, d = build([PIXEL], **keys)
    names: list[str] = []
    for part in objective.parts(batch, step):
        part.total.backward()
        names += part.terms
    return names, gradients(d), gradients(g)


def test_r1_moves_d_alone_in_every_nth_step_and_so_many_times_as_much(batch) -> None:
    names, plain_d, plain_g = d_gradients(batch, 4)
    assert "l_d_r1" not in names
    for step, due in ((3, False), (4, True), (8, True)):
        names, with_r1, same_g = d_gradients(batch, step, r1_reg_weight=10.0, net_d_reg_every=4)
        assert ("l_d_r1" in names) is due
        assert all(map(torch.equal, plain_g, same_g))
        assert all(map(torch.equal, plain_d, with_r1)) is not due
    often = [
        dict(part.terms)["l_d_r1"]
        for every in (1, 4)
        for part in build([PIXEL], r1_reg_weight=10.0, net_d_reg_every=every)[0].parts(batch, 4)
        if "l_d_r1" in part.terms
    ]
    torch.testing.assert_close(often[1], 4 * often[0])


class TwoScales(nn.Module):
    """Judges the picture and its half, each with a feature before the judgement."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 3)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for each in (x, nn.functional.avg_pool2d(x, 2)):
            feature = nn.functional.leaky_relu(self.first(each), 0.2)
            found.append([feature, self.last(feature)])
        return found


@pytest.mark.parametrize("relativistic", [False, True])
def test_a_discriminator_of_two_scales_trains_both_networks(batch, relativistic: bool) -> None:
    g, d = generator(), TwoScales()
    gan = GANLossOptions(type="MultiScaleGANLoss", relativistic=relativistic)
    options = GanOptions(r1_reg_weight=1.0, net_d_reg_every=1)
    terms: dict[str, Tensor] = {}
    for part in options.build(nets={"g": g, "d": d}, losses=[], device=CPU, gan=gan).parts(batch, 1):
        part.total.backward()
        terms |= part.terms
    assert list(terms) == ["l_g_gan", "l_d_real", "out_d_real", "l_d_r1", "l_d_fake", "out_d_fake"]
    assert all(bool(each.abs().max() > 0) for each in [*gradients(g), *gradients(d)])
    (_, large), (_, small) = TwoScales()(batch.gt)
    torch.testing.assert_close(terms["out_d_real"], (large.mean() + small.mean()).detach() / 2)
