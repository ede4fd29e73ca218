"""BT.601 in studio range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr, ycbcr2rgb

from atelier.images import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb


def picture(dtype=np.float32, seed=0):
    return np.random.default_rng(seed).random((9, 7, 3)).astype(dtype)


def test_known_colours():
    colours = np.array([[[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], np.float32)
    # MATLAB, rgb2ycbcr of doubles, times 255.
    y = [235, 16, 81.481, 144.553, 40.966]
    assert rgb_to_y(colours)[0, :, 0] * 255 == pytest.approx(y, abs=1e-4)
    ycbcr = rgb_to_ycbcr(colours)[0] * 255
    assert ycbcr[:, 0] == pytest.approx(y, abs=1e-4)
    assert ycbcr[:, 1] == pytest.approx([128, 128, 90.203, 53.797, 240], abs=1e-4)
    assert ycbcr[:, 2] == pytest.approx([128, 128, 240, 34.214, 109.786], abs=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-12)])
def test_agrees_with_scikit_image(dtype, tolerance):
    image = picture(dtype)
    before = image.copy()
    ycbcr = rgb_to_ycbcr(image)
    assert ycbcr.dtype == dtype and np.array_equal(image, before)
    assert np.abs(ycbcr - rgb2ycbcr(image.astype(np.float64)) / 255).max() < tolerance
    assert np.array_equal(rgb_to_y(image), ycbcr[:, :, :1])
    back = ycbcr2rgb(ycbcr.astype(np.float64) * 255)
    assert np.abs(ycbcr_to_rgb(ycbcr) - back).max() < 3 * tolerance


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_there_and_back(seed):
    image = picture(seed=seed)
    assert np.abs(ycbcr_to_rgb(rgb_to_ycbcr(image)) - image).max() < 1e-6


@pytest.mark.parametrize("function", [rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb])
def test_torch_equals_numpy(function):
    image = picture()
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].requires_grad_()
    got = function(tensor)
    assert np.abs(got[0].detach().permute(1, 2, 0).numpy() - function(image)).max() < 1e-6
    got.sum().backward()
    assert tensor.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(function(tensor), got)
    assert function(tensor.half()).dtype == torch.float32
    assert function(tensor.double()).dtype == torch.float64


def test_what_it_refuses():
    for wrong in (
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4, 1), np.float32),
        np.zeros((4, 4), np.float32),
        torch.zeros(1, 1, 4, 4),
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
    ):
        with pytest.raises(TypeError, match="colour conversion takes"):
            rgb_to_y(wrong)
