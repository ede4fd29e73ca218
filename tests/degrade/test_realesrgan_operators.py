"""Kernels, interpolation, Poisson noise and sharpening of Real-ESRGAN's pipeline, each against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import convolve
from scipy.special import j1

from atelier.degrade.kernels import (
    bessel_j1,
    blur,
    blur_separably,
    gaussian_kernel,
    shaped_kernel,
    sinc_kernel,
)
from atelier.degrade.noises import LUMA, level_poisson_noise
from atelier.degrade.realesrgan_options import KERNELS
from atelier.degrade.resizing import MODES, interpolate
from atelier.degrade.sharpen import usm_sharpen
from atelier.degrade.steps import describe, kernel_of

SIZES = range(7, 22, 2)


def texture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).random((height, width, channels), dtype=np.float32)


def test_bessel_function():
    x = np.concatenate([np.linspace(0, 50, 2001), -np.linspace(0, 5, 11)])
    assert np.abs(bessel_j1(x) - j1(x)).max() < 1e-14


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cutoff", [math.pi / 5, 1.7, math.pi])
def test_sinc_kernel_is_the_formula(size, cutoff):
    kernel = sinc_kernel(size, cutoff)
    axis = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    with np.errstate(invalid="ignore"):
        expected = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    expected[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    assert np.allclose(kernel, expected / expected.sum(), atol=1e-14)
    assert abs(kernel.sum() - 1) < 1e-12
    assert np.array_equal(kernel, kernel.T) and np.array_equal(kernel, kernel[::-1, ::-1])


def random_step(shape: str, rng: np.random.Generator) -> dict:
    sigma = rng.uniform(0.2, 3, 2).tolist()
    aniso = "aniso" in shape
    step = {"op": "filter", "shape": shape, "size": int(rng.choice(SIZES))}
    step |= {
        "sigma": sigma if aniso else [sigma[0]] * 2,
        "theta": float(rng.uniform(-3.1, 3.1)) if aniso else 0.0,
    }
    return step | ({"beta": float(rng.uniform(0.5, 4))} if "_" in shape else {})


@pytest.mark.parametrize("shape", KERNELS)
def test_kernels_sum_to_one_follow_the_formula_and_are_symmetric(shape):
    rng = np.random.default_rng(1)
    for _ in range(50):
        step = random_step(shape, rng)
        kernel = kernel_of(step)
        assert abs(kernel.sum() - 1) < 1e-12 and kernel.min() >= 0
        assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-15)
        if "aniso" not in shape:
            assert np.allclose(kernel, kernel.T, atol=1e-15) and np.allclose(kernel, kernel[::-1], atol=1e-15)
        c, s, axis = (
            math.cos(step["theta"]),
            math.sin(step["theta"]),
            np.arange(step["size"]) - step["size"] // 2,
        )
        x, y = np.meshgrid(axis, axis)
        u = ((c * x + s * y) / step["sigma"][0]) ** 2 + ((c * y - s * x) / step["sigma"][1]) ** 2
        beta = step.get("beta", 1.0)
        expected = 1 / (1 + u**beta) if "plateau" in shape else np.exp(-(u**beta) / 2)
        assert np.allclose(kernel, expected / expected.sum(), atol=1e-10)


@pytest.mark.parametrize(("shape", "beta"), [("gaussian", 1.0), ("generalized", 1.6)])
@pytest.mark.parametrize("theta", [-2.0, -0.4, 0.0, 0.9])
def test_second_moments_turn_with_the_angle(shape, beta, theta):
    kernel = shaped_kernel(31, (9.0, 1.5), theta, shape=shape, beta=beta)
    axis = np.arange(31) - 15
    x, y = np.meshgrid(axis, axis)
    xx, yy, xy = ((kernel * product).sum() for product in (x * x, y * y, x * y))
    angle = math.atan2(2 * xy, xx - yy) / 2
    assert abs(math.sin(angle - theta)) < 5e-3
    if shape == "gaussian":
        spread = math.hypot(xx - yy, 2 * xy)
        assert (xx + yy + spread) / 2 == pytest.approx(9.0, rel=2e-3)
        assert (xx + yy - spread) / 2 == pytest.approx(1.5, rel=2e-3)


def test_true_size_equals_the_padded_21x21_filter():
    """The original pads every kernel with zeros to 21 x 21 and mirrors 10 pixels beyond the border."""
    gt = texture(50, 43)
    tensor = F.pad(torch.from_numpy(gt).permute(2, 0, 1)[None], (10, 10, 10, 10), mode="reflect")
    for kernel in (sinc_kernel(9, 1.3), gaussian_kernel(7, (4.0, 1.0), 0.5), sinc_kernel(21, 2.5)):
        padded = np.pad(kernel, (21 - kernel.shape[0]) // 2).astype(np.float32)
        weight = torch.from_numpy(padded).expand(3, 1, 21, 21)
        expected = F.conv2d(tensor, weight, groups=3)[0].permute(1, 2, 0).numpy()
        assert np.abs(blur(gt, kernel) - expected).max() < 2e-6
    round_one = blur(gt, gaussian_kernel(13, (3.0, 3.0)))
    assert np.abs(blur_separably(gt, 3.0, 13) - round_one).max() < 1e-6


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [0.153, 0.5, 0.7377, 1.0, 1.4321])
def test_interpolation_is_torchs(mode, factor):
    gt = texture(61, 47)
    tensor = torch.from_numpy(gt).permute(2, 0, 1)[None]
    size = (int(61 * factor), int(47 * factor))
    by_factor = F.interpolate(tensor, scale_factor=factor, mode=mode)[0].permute(1, 2, 0).numpy()
    by_size = F.interpolate(tensor, size=size, mode=mode)[0].permute(1, 2, 0).numpy()
    assert np.abs(interpolate(gt, size, mode, factor) - by_factor).max() < 5e-6
    assert np.abs(interpolate(gt, size, mode) - by_size).max() < 5e-6
    if mode != "area" and factor not in (0.5, 1.0):
        assert np.abs(by_factor - by_size).max() > 1e-3  # the drawn factor matters
    grey = interpolate(gt[:, :, :1], size, mode, factor)
    assert grey.shape == (*size, 1) and np.allclose(grey, by_factor[:, :, :1], atol=5e-6)


@pytest.mark.parametrize("grey", [False, True])
def test_level_poisson_has_mean_and_variance_of_its_formula(grey):
    """V is the number of different 8-bit levels, rounded up to a power of two: 5 levels make 8."""
    colours = np.array([[20, 60, 100], [60, 100, 140], [180, 20, 60]]) / 255
    gt = colours.astype(np.float32)[np.random.default_rng(0).integers(3, size=(300, 300))]
    rng = np.random.default_rng(1)
    noise = level_poisson_noise(gt, 0.5, rng, grey=grey) - gt
    # Of the levels 20 60 100 140 180, or of the three lumas.
    white = 4 if grey else 8
    of = np.rint((gt @ LUMA)[:, :, None] * 255) / 255 if grey else gt
    for value in np.unique(of):
        part = noise[np.broadcast_to(of == value, noise.shape)][:: 3 if grey else 1]
        deviation = 0.5 * math.sqrt(value / white)
        assert abs(part.mean()) < 4.5 * deviation / len(part) ** 0.5
        # A count's fourth moment adds 1 / mean to the normal's 3.
        error = deviation**2 * ((2 + 1 / (value * white)) / len(part)) ** 0.5
        assert abs(part.var() - deviation**2) < 4.5 * error
    assert np.allclose(noise[:, :, 0], noise[:, :, 2], atol=1e-6) == grey
    flat = level_poisson_noise(np.full((8, 8, 1), 0.2, np.float32), 0.0, rng, grey=grey)
    assert np.array_equal(flat, np.full((8, 8, 1), 0.2, np.float32))


def test_sharpening_is_the_formula_with_51_taps_and_sigma_8():
    gt = np.clip(texture(70, 64) * 0.3 + (np.arange(64) > 30)[None, :, None] * 0.6, 0, 1).astype(np.float32)
    axis = np.arange(51) - 25
    sigma = 0.3 * ((51 - 1) / 2 - 1) + 0.8
    assert sigma == pytest.approx(8.0)
    taps = np.exp(-(axis**2) / (2 * sigma**2))
    dense = np.outer(taps, taps) / taps.sum() ** 2

    def smooth(x: np.ndarray) -> np.ndarray:
        return np.stack(
            [convolve(x[:, :, c].astype(np.float64), dense, mode="mirror") for c in range(3)], axis=2
        )

    residual = gt - smooth(gt)
    mask = np.abs(residual) * 255 > 10
    # Where the threshold falls between float32 and float64 the mask may differ; the picture has no such pixel.
    assert np.abs(np.abs(residual) * 255 - 10).min() > 1e-4
    soft = smooth(mask)
    expected = soft * np.clip(gt + 0.5 * residual, 0, 1) + (1 - soft) * gt
    assert np.abs(usm_sharpen(gt) - expected).max() < 2e-6


def test_steps_are_described_with_every_number():
    step = {"op": "filter", "shape": "aniso", "size": 9, "sigma": [1.25, 2.0], "theta": 0.5}
    assert describe(step) == "filter: shape aniso, size 9, sigma 1.25x2, theta 0.5"
    assert describe({"op": "sharpen"}) == "sharpen"
    assert "field" not in describe({"op": "gaussian", "field": "x", "sigma": 0.1})
