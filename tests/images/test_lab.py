from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab

from atelier.images.lab import LabScale, grey_rgb, lab_to_rgb, rgb_to_lab


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    steps = np.linspace(0, 1, 18)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(18 * 18, 18, 3)


def planes(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(picture, -1, 0).copy())


def test_equals_skimage_and_round_trips(colours: np.ndarray) -> None:
    ours = rgb_to_lab(planes(colours).float())
    assert ours.dtype == torch.float32
    assert (ours - planes(rgb2lab(colours))).abs().max() < 1e-4
    # Near 0 sRGB is 12.92 times as steep as light: float32 cannot be closer than a few 1e-6 there.
    assert (lab_to_rgb(ours) - planes(colours)).abs().max() < 6e-6
    exact = rgb_to_lab(planes(colours))
    assert exact.dtype == torch.float64
    assert (lab_to_rgb(exact) - planes(colours)).abs().max() < 1e-6
    # skimage rounds a result of its own near black; beyond it only the last bits differ.
    torch.testing.assert_close(exact, planes(rgb2lab(colours)), atol=1e-9, rtol=0)


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_colours_outside_srgb_are_clipped_as_skimage_clips_them() -> None:
    grid = np.meshgrid(np.linspace(0, 100, 11), np.linspace(-110, 110, 12), np.linspace(-110, 110, 12))
    lab = np.stack(grid, -1).reshape(12 * 11, 12, 3)
    ours = lab_to_rgb(planes(lab))
    torch.testing.assert_close(ours, planes(lab2rgb(lab)), atol=1e-7, rtol=0)
    assert (ours == 0).any() and (ours == 1).any()


def test_gradients_at_black_are_finite() -> None:
    for level in (0.0, 0.04045, 1.0):
        rgb = torch.full((1, 3, 2, 2), level, requires_grad=True)
        rgb_to_lab(rgb).square().add(rgb_to_lab(rgb)).sum().backward()
        assert torch.isfinite(rgb.grad).all() and (rgb.grad != 0).any()
    for lightness in (0.0, 1e-3, 8.0, 50.0, 100.0):
        lab = torch.tensor([lightness, 0.0, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
        lab_to_rgb(lab).sum().backward()
        # At the very ends rounding decides whether the clip takes the gradient.
        assert torch.isfinite(lab.grad).all() and ((lab.grad != 0).any() or lightness in (0, 100))
    whole = torch.zeros(1, 3, 2, 2, requires_grad=True)
    lab_to_rgb(rgb_to_lab(whole)).sum().backward()
    assert torch.isfinite(whole.grad).all()


def test_gradients_are_those_of_the_formula() -> None:
    rgb = torch.rand(1, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    assert torch.autograd.gradcheck(rgb_to_lab, (rgb.requires_grad_(),))
    assert torch.autograd.gradcheck(lab_to_rgb, (rgb_to_lab(rgb).detach().requires_grad_(),))


def test_mixed_precision_changes_nothing() -> None:
    rgb = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = rgb_to_lab(rgb)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rgb_to_lab(rgb), plain)
        assert torch.equal(lab_to_rgb(plain), lab_to_rgb(plain.clone()))
    assert rgb_to_lab(rgb.bfloat16()).dtype == torch.float32


def test_scales_are_inverse_and_meet_their_definition() -> None:
    lab = torch.tensor([100.0, 127.0, -127.0])[:, None, None]
    assert LabScale.UNIT.normalise(lab).flatten().tolist() == [1.0, 1.0, -1.0]
    assert LabScale.CENTRED.normalise(lab).flatten().tolist() == [50.0, 127.0, -127.0]
    random = torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(2)) * 50
    for scale in (LabScale.UNIT, LabScale.CENTRED):
        torch.testing.assert_close(scale.restore(scale.normalise(random)), random)


def test_grey_has_no_colour_and_keeps_its_lightness() -> None:
    lightness = torch.linspace(-1, 1, 30).reshape(1, 1, 5, 6)
    rgb = grey_rgb(lightness)
    assert rgb.shape == (1, 3, 5, 6)
    assert (rgb.amax(1) - rgb.amin(1)).max() < 1e-3
    back = LabScale.UNIT.normalise(rgb_to_lab(rgb))
    torch.testing.assert_close(back[:, :1], lightness, atol=1e-5, rtol=0)
    assert rgb.flatten()[0] == 0 and abs(float(rgb.flatten()[-1]) - 1) < 1e-3


def test_other_shapes_and_integers_are_refused() -> None:
    for wrong in (torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(TypeError, match="3, H, W"):
            rgb_to_lab(wrong)
        with pytest.raises(TypeError, match="3, H, W"):
            lab_to_rgb(wrong)
    with pytest.raises(TypeError, match="lightness"):
        grey_rgb(torch.zeros(1, 3, 4, 4))
