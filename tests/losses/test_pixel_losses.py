"""Values against hand-computed numbers and independent numpy; derivatives in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from skimage.metrics import structural_similarity

from atelier.errors import UserError
from atelier.losses import LOSSES, Loss
from atelier.losses.charbonnier import CharbonnierLossOptions
from atelier.losses.fft import FFTLossOptions
from atelier.losses.l1 import L1LossOptions
from atelier.losses.mse import MSELossOptions
from atelier.losses.ssim import SSIMLossOptions, ssim

PREDICTION = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]])
TARGET = torch.tensor([[[[0.5, 0.5], [0.0, 0.75]]]])  # differences -0.5, 0, 1, -0.5


def pictures(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, noise = (torch.rand(shape, generator=generator, dtype=dtype) for _ in range(2))
    return first, (first + 0.2 * (noise - 0.5)).clamp(0, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (L1LossOptions(), 0.5),
        (L1LossOptions(reduction="sum", loss_weight=0.25), 0.5),
        (MSELossOptions(), 0.375),
        (MSELossOptions(type="L2Loss", loss_weight=2), 0.75),
        (MSELossOptions(reduction="sum"), 1.5),
        (CharbonnierLossOptions(eps=0.75), (1 + 0.75**0.5 + 1.75**0.5 + 1) / 4),
        (CharbonnierLossOptions(eps=0.75, reduction="sum"), 2 + 0.75**0.5 + 1.75**0.5),
        (CharbonnierLossOptions(), (2 * 0.5 + 1e-6 + 1) / 4),
    ],
)
def test_value_of_a_two_by_two_picture(options, expected):
    terms = options.build()(PREDICTION, TARGET)
    assert list(terms) == ["pix"]
    assert terms["pix"].shape == ()
    assert terms["pix"].item() == pytest.approx(expected, rel=1e-6)


def test_charbonnier_default_eps_is_basicsr_s_and_not_squared():
    nothing = torch.zeros(1, 1, 2, 2)
    assert CharbonnierLossOptions().build()(nothing, nothing)["pix"].item() == pytest.approx(1e-6, rel=1e-5)


def test_fft_of_a_two_by_two_picture_by_hand():
    # A 2×2 transform is the sum, the difference of columns, the difference of rows, and the crossed one.
    # differences.
    d = np.array([[-0.5, 0.0], [1.0, -0.5]])
    sums = [
        d.sum(),
        d[:, 0].sum() - d[:, 1].sum(),
        d[0].sum() - d[1].sum(),
        d[0, 0] - d[0, 1] - d[1, 0] + d[1, 1],
    ]
    assert sums == [0.0, 1.0, -1.0, -2.0]
    expected = (0 + 1 + 1 + 2) / 2 / 8  # divided by sqrt(4) (ortho), mean over 4 real and 4 imaginary parts
    assert FFTLossOptions().build()(PREDICTION, TARGET)["fft"].item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(16, 16), (15, 13)])
def test_fft_equals_numpy_on_both_spectra(size):
    a, b = pictures(2, 3, *size)
    spectra = [np.fft.rfft2(x.numpy().astype(np.float64), norm="ortho") for x in (a, b)]
    d = spectra[0] - spectra[1]
    parts = np.concatenate([np.abs(d.real).ravel(), np.abs(d.imag).ravel()])
    assert FFTLossOptions().build()(a, b)["fft"].item() == pytest.approx(parts.mean(), rel=1e-5)
    assert FFTLossOptions(reduction="sum").build()(a, b)["fft"].item() == pytest.approx(parts.sum(), rel=1e-5)


def test_fft_value_does_not_grow_with_the_patch():
    values = [FFTLossOptions().build()(*pictures(1, 1, side, side))["fft"].item() for side in (32, 128)]
    assert values[1] == pytest.approx(values[0], rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 11, 11), (2, 3, 24, 31), (1, 3, 40, 12)])
def test_ssim_equals_scikit_image(shape):
    a, b = pictures(*shape)
    expected = np.mean(
        [
            structural_similarity(
                one[channel].double().numpy(),
                two[channel].double().numpy(),
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1.0,
            )
            if min(shape[2:]) > 11
            else ssim_of_one_window(one[channel].double().numpy(), two[channel].double().numpy())
            for one, two in zip(a, b, strict=True)
            for channel in range(shape[1])
        ]
    )
    assert ssim(a, b).item() == pytest.approx(expected, abs=2e-6)
    assert SSIMLossOptions(loss_weight=0.5).build()(a, b)["ssim"].item() == pytest.approx(
        (1 - expected) / 2, abs=2e-6
    )


def ssim_of_one_window(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 13 of Wang et al. 2004 for one 11×11 place, written out."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
    covariance = (window * (a - mean_a) * (b - mean_b)).sum()
    return ((2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)) / (
        (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    )


def test_ssim_of_equal_pictures_is_one_and_less_noise_is_better():
    a, b = pictures(1, 3, 20, 20)
    assert ssim(a, a).item() == pytest.approx(1, abs=1e-6)
    loss = SSIMLossOptions().build()
    assert loss(a + 0.5 * (b - a), a)["ssim"] < loss(b, a)["ssim"]


def test_ssim_of_too_small_a_picture_is_an_error_that_names_the_sizes():
    with pytest.raises(UserError, match=r"at least 11×11 pixels, given 1×3×10×40.*gt_size"):
        SSIMLossOptions().build()(*pictures(1, 3, 10, 40))


PLAIN = [name for name in LOSSES if name != "PerceptualLoss"]


@pytest.mark.parametrize("name", PLAIN)
def test_derivatives_are_right_in_float64(name):
    options = {"eps": 1e-2} if name == "CharbonnierLoss" else {}
    loss = LOSSES.options_class(name)(type=name, loss_weight=0.7, **options).build()
    a, b = pictures(1, 1, 12, 12, dtype=torch.float64)
    assert next(iter(loss(a, b).values())).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: next(iter(loss(x, b).values())), a.requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("name", PLAIN)
def test_equal_pictures_give_a_finite_gradient(name):
    loss = LOSSES.options_class(name)(type=name).build()
    a, _ = pictures(1, 3, 16, 16)
    x = a.clone().requires_grad_()
    next(iter(loss(x, a).values())).backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", PLAIN)
def test_float32_even_under_autocast_and_for_half_inputs(name):
    loss = LOSSES.options_class(name)(type=name).build()
    a, b = pictures(1, 3, 16, 16)
    plain = loss(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(a, b)
    (term,) = plain
    assert torch.equal(plain[term], inside[term])
    half = loss(a.bfloat16(), b)[term]
    assert half.dtype == torch.float32
    assert torch.equal(half, loss(a.bfloat16().float(), b)[term])


@pytest.mark.parametrize("name", PLAIN)
def test_different_shapes_are_an_error_not_a_broadcast(name):
    loss = LOSSES.options_class(name)(type=name).build()
    with pytest.raises(UserError, match=r"output is 1×3×16×16, its target 1×1×16×16.*scale"):
        loss(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))


@settings(max_examples=30, deadline=None)
@given(weight=st.floats(1e-3, 1e3), name=st.sampled_from(PLAIN))
def test_the_weight_multiplies(weight: float, name: str):
    a, b = pictures(1, 1, 12, 12)
    options = LOSSES.options_class(name)
    (one,) = options(type=name).build()(a, b).values()
    (many,) = options(type=name, loss_weight=weight).build()(a, b).values()
    assert many.item() == pytest.approx(weight * one.item(), rel=1e-5)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_weight_that_does_nothing_is_an_error(name, weight):
    with pytest.raises(ValidationError, match="loss_weight"):
        LOSSES.options_class(name)(type=name, loss_weight=weight)


@pytest.mark.parametrize("name", list(LOSSES))
def test_unknown_keys_are_errors(name):
    with pytest.raises(ValidationError, match="reductoin"):
        LOSSES.options_class(name)(type=name, reductoin="mean")


def test_unknown_loss_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'CharbonnierLoss'"):
        LOSSES.options_class("CharbonierLoss")


def test_every_registered_loss_builds_a_loss():
    for name in PLAIN:
        assert isinstance(LOSSES.options_class(name)(type=name).build(), Loss)
