"""GANLoss on 2 x 2 logits, by hand."""

from __future__ import annotations

import subprocess
import sys
from math import exp, log

import pytest
import torch
from pydantic import ValidationError

from atelier.losses.base import GAN_LOSSES
from atelier.losses.gan import GANLoss, GANLossOptions

LOGITS = torch.tensor([[[[0.0, 1.0], [-2.0, 3.0]]]])
OTHER = torch.tensor([[[[1.0, 1.0], [-1.0, 3.0]]]])  # mean 1


def softplus(x: float) -> float:
    return log(1 + exp(x))


def mean(*values: float) -> float:
    return sum(values) / len(values)


#: gan_type -> (generator's term at weight 1, loss on real, loss on fake).
BY_HAND = {
    "vanilla": (
        mean(softplus(0), softplus(-1), softplus(2), softplus(-3)),
        mean(softplus(0), softplus(-1), softplus(2), softplus(-3)),
        mean(softplus(0), softplus(1), softplus(-2), softplus(3)),
    ),
    "lsgan": (mean(1, 0, 9, 4), mean(1, 0, 9, 4), mean(0, 1, 4, 9)),
    "wgan": (-0.5, -0.5, 0.5),
    "wgan_softplus": (
        mean(softplus(0), softplus(-1), softplus(2), softplus(-3)),
        mean(softplus(0), softplus(-1), softplus(2), softplus(-3)),
        mean(softplus(0), softplus(1), softplus(-2), softplus(3)),
    ),
    "hinge": (-0.5, mean(1, 0, 3, 0), mean(1, 2, 0, 4)),
}


def gan(**keys) -> GANLoss:
    return GAN_LOSSES.options_class("GANLoss")(**keys).build()


@pytest.mark.parametrize("gan_type", BY_HAND)
def test_values_by_hand_and_the_weight_is_the_generators_alone(gan_type: str) -> None:
    loss = gan(gan_type=gan_type, loss_weight=0.1)
    generator, real, fake = BY_HAND[gan_type]
    assert loss.generator(LOGITS).item() == pytest.approx(0.1 * generator, rel=1e-6)
    assert loss.real(LOGITS).item() == pytest.approx(real, rel=1e-6)
    assert loss.fake(LOGITS).item() == pytest.approx(fake, rel=1e-6)


def test_labels_by_hand() -> None:
    loss = gan(gan_type="lsgan", real_label_val=0.9, fake_label_val=0.1)
    assert loss.real(LOGITS).item() == pytest.approx(mean(0.81, 0.01, 8.41, 4.41))
    assert loss.fake(LOGITS).item() == pytest.approx(mean(0.01, 0.81, 4.41, 8.41))
    vanilla = gan(real_label_val=0.9)
    expected = mean(*(softplus(x) - 0.9 * x for x in (0, 1, -2, 3)))
    assert vanilla.real(LOGITS).item() == pytest.approx(expected, rel=1e-6)


def test_relativistic_by_hand() -> None:
    loss = gan(gan_type="lsgan", relativistic=True, loss_weight=0.2)
    # D(real) = LOGITS (mean 0.5), D(fake) = OTHER (mean 1); half of each direction.
    assert loss.real(LOGITS, OTHER).item() == pytest.approx(mean(4, 1, 16, 1) / 2)
    assert loss.fake(OTHER, LOGITS).item() == pytest.approx(mean(0.25, 0.25, 2.25, 6.25) / 2)
    towards_fake, towards_real = mean(1, 0, 9, 4), mean(0.25, 0.25, 6.25, 2.25)
    assert loss.generator(OTHER, LOGITS).item() == pytest.approx(0.2 * (towards_fake + towards_real) / 2)
    vanilla = gan(relativistic=True)
    assert vanilla.real(LOGITS, OTHER).item() == pytest.approx(
        mean(*map(softplus, (1, 0, 3, -2))) / 2, rel=1e-6
    )


@pytest.mark.parametrize("gan_type", BY_HAND)
def test_the_generator_is_pulled_towards_real_and_the_discriminator_apart(gan_type: str) -> None:
    loss = gan(gan_type=gan_type)
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    for method, direction in ((loss.generator, -1), (loss.real, -1), (loss.fake, 1)):
        logits.grad = None
        method(logits).backward()
        expected = 0 if gan_type == "lsgan" and method == loss.fake else direction
        assert (logits.grad.sign() == expected).all()


def test_losses_stay_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        value = gan().real(LOGITS.bfloat16())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(BY_HAND["vanilla"][1], rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gan_type": "hinge", "real_label_val": 0.9}, "hinge has no labels"),
        ({"gan_type": "wgan", "relativistic": True}, "vanilla or lsgan, given wgan"),
        ({"gan_type": "r1"}, "gan_type"),
        ({"loss_weight": 0}, "loss_weight"),
    ],
)
def test_keys_that_do_nothing_are_errors(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GANLossOptions(**keys)


def test_options_need_no_torch() -> None:
    code = (
        "import sys; from atelier.losses.gan import GANLossOptions; GANLossOptions();"
        "from atelier.objectives.gan import GanOptions; GanOptions();"
        "from atelier.archs.registry import DISCRIMINATORS as D; [D.options_class(name)() for name in D];"
        "print([name for name in ('torch', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
