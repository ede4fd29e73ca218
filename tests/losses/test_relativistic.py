"""The adversarial term of colouring: its formula, what the discriminator sees, and whose gradient goes where."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atelier.archs.colour_discriminator import ColourDiscriminatorSN
from atelier.losses.relativistic import relativistic_discriminator_loss, relativistic_generator_loss
from losses.colour_clips import random_lab


class Judge(nn.Module):
    """One logit a picture; remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 1, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        logits: Tensor = self.conv(x).mean(dim=(2, 3))
        return logits


def parts(count: int = 3, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    truth, other = random_lab(count, size=size), random_lab(count, size=size, seed=1)
    return truth[:, :1], other[:, 1:], truth[:, 1:]


def test_the_formulas() -> None:
    judge, (lightness, ab, truth) = Judge(), parts()
    r = judge(torch.cat([lightness, truth], dim=1)).detach()
    f = judge(torch.cat([lightness, ab], dim=1)).detach()
    d = 0.5 * (((r - f.mean() - 1) ** 2).mean() + ((f - r.mean() + 1) ** 2).mean())
    g = 0.5 * (((r - f.mean() + 1) ** 2).mean() + ((f - r.mean() - 1) ** 2).mean())
    torch.testing.assert_close(relativistic_discriminator_loss(judge, lightness, ab, truth).detach(), d)
    torch.testing.assert_close(relativistic_generator_loss(judge, lightness, ab, truth).detach(), g)
    assert not torch.isclose(d, g)


def test_real_and_fake_are_in_one_scale() -> None:
    judge, (lightness, ab, truth) = Judge(), parts()
    relativistic_discriminator_loss(judge, lightness, ab, truth)
    relativistic_generator_loss(judge, lightness, ab, truth)
    assert len(judge.seen) == 3
    for picture in judge.seen:
        assert picture.abs().max() <= 1, "lightness in 0...100 or ab in ±110 would show here"
        assert picture[:, 0].std() > 0.1 and picture[:, 1:].std() > 0.05
    both = judge.seen[0]
    torch.testing.assert_close(both[:3, 0], both[3:, 0])


def test_whose_gradient_goes_where() -> None:
    judge, (lightness, ab, truth) = Judge(), parts()
    made = ab.clone().requires_grad_()
    relativistic_generator_loss(judge, lightness, made, truth).backward()
    assert made.grad is not None and made.grad.any()
    assert all(weight.grad is None and weight.requires_grad for weight in judge.parameters())
    made.grad = None
    relativistic_discriminator_loss(judge, lightness, made, truth).backward()
    assert made.grad is None
    assert all(weight.grad is not None and weight.grad.any() for weight in judge.parameters())


def test_each_step_makes_its_own_loss_smaller() -> None:
    """With the real discriminator in evaluation mode (its spectral norms stand still): a small step downhill."""
    torch.manual_seed(0)
    net = ColourDiscriminatorSN(num_feat=4).eval()
    lightness, ab, truth = parts(2, 128)
    made = ab.clone().requires_grad_()
    before = relativistic_generator_loss(net, lightness, made, truth)
    before.backward()
    assert made.grad is not None
    with torch.no_grad():
        made -= 0.05 * made.grad / made.grad.norm()
    assert relativistic_generator_loss(net, lightness, made, truth) < before
    first = relativistic_discriminator_loss(net, lightness, ab, truth)
    first.backward()
    with torch.no_grad():
        length = torch.stack([w.grad.norm() for w in net.parameters() if w.grad is not None]).norm()
        for weight in net.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad / length
    assert relativistic_discriminator_loss(net, lightness, ab, truth) < first
