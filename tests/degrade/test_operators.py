"""Kernels, resizing, noise fields and sharpening, each against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, gaussian_filter1d
from scipy.stats import multivariate_normal

from atelier.degrade.kernels import blur, covariance, gaussian_kernel
from atelier.degrade.noises import correlated_field, gaussian_field, poisson_noise
from atelier.degrade.resizing import MODES, resize
from atelier.degrade.sharpen import usm_sharpen

VARIANCE = st.floats(0.05, 9)


def waves(height: int = 40, width: int = 33, channels: int = 3) -> np.ndarray:
    y, x, k = np.mgrid[0:height, 0:width, 0:channels]
    return (0.5 + 0.4 * np.sin(x / 3 + k) * np.cos(y / 4)).astype(np.float32)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(3, 12), VARIANCE, VARIANCE, st.floats(-3.2, 3.2), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)
)
def test_kernels_are_the_normal_density_on_the_grid(half, first, second, theta, cx, cy):
    size = 2 * half + 1
    kernel = gaussian_kernel(size, (first, second), theta, (cx, cy))
    axis = np.arange(-half, half + 1)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    logs = multivariate_normal((cx, cy), covariance((first, second), theta)).logpdf(np.stack([x, y], axis=-1))
    expected = np.exp(logs - logs.max())
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose(kernel, expected / expected.sum(), atol=1e-12)


def test_axes_and_rotation():
    kernel = gaussian_kernel(25, (6.0, 1.0), theta=0.5)
    axis = np.arange(25) - 12
    second = np.array(
        [
            [(kernel * axis**2).sum(), (kernel * np.outer(axis, axis)).sum()],
            [(kernel * np.outer(axis, axis)).sum(), (kernel.T * axis**2).sum()],
        ]
    )
    assert np.allclose(second, covariance((6.0, 1.0), 0.5), atol=2e-3)
    assert np.allclose(np.linalg.eigvalsh(second), [1, 6], atol=2e-3)
    along_x = gaussian_kernel(25, (6.0, 1.0))
    assert along_x[12, 16] > along_x[16, 12]
    iso = gaussian_kernel(9, (2.0, 2.0), theta=1.0)
    assert np.allclose(iso, iso.T) and np.allclose(iso, iso[::-1, ::-1])


def test_a_kernel_without_width_is_a_single_one():
    expected = np.zeros((7, 7))
    expected[3, 3] = 1
    assert np.array_equal(gaussian_kernel(7, (0.0, 0.0)), expected)
    with pytest.raises(ValueError, match="odd"):
        gaussian_kernel(8, (1.0, 1.0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [7, 25])
def test_blur_mirrors_without_repeating_the_edge(size, channels):
    gt, kernel = waves(channels=channels), gaussian_kernel(size, (5.0, 2.0), 0.7, (1.0, 0.5))
    got = blur(gt, kernel)
    expected = np.stack(
        [convolve(plane, kernel[::-1, ::-1], mode="mirror") for plane in gt.transpose(2, 0, 1)], -1
    )
    assert got.shape == gt.shape and got.dtype == np.float32
    assert np.abs(got - expected).max() < 2e-6
    assert np.allclose(blur(np.full((4, 3, channels), 0.3, np.float32), kernel), 0.3, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_resize(mode, channels):
    gt = waves(channels=channels)
    assert resize(gt, (20, 11), mode).shape == (20, 11, channels)
    assert resize(gt, (1, 70), mode).shape == (1, 70, channels)
    assert resize(gt, (40, 33), mode) is gt
    assert np.allclose(resize(np.full((9, 9, channels), 0.25, np.float32), (4, 13), mode), 0.25, atol=1e-6)


def test_area_is_the_mean_of_whole_blocks():
    gt = waves(40, 32)
    assert np.allclose(resize(gt, (10, 8), "area"), gt.reshape(10, 4, 8, 4, 3).mean(axis=(1, 3)), atol=1e-6)


def test_gaussian_fields():
    shape = (300, 300, 3)
    colour = gaussian_field(shape, 0.1, np.random.default_rng(0))
    grey = gaussian_field(shape, 0.1, np.random.default_rng(0), grey=True)
    assert colour.shape == shape and grey.shape == (300, 300, 1) and colour.dtype == np.float32
    for field in (colour, grey):
        assert abs(field.std() / 0.1 - 1) < 4 / (2 * field.size) ** 0.5
        assert abs(field.mean()) < 4 * 0.1 / field.size**0.5
    assert np.abs(np.corrcoef(colour.reshape(-1, 3).T) - np.eye(3)).max() < 0.02


def test_correlated_field_has_the_stated_covariance():
    stated = np.array([[4.0, 2.0, 0.5], [2.0, 3.0, -1.0], [0.5, -1.0, 2.0]]) / 100
    field = correlated_field((400, 400, 3), stated.tolist(), np.random.default_rng(2))
    assert field.dtype == np.float32
    assert np.abs(np.cov(field.reshape(-1, 3).T) - stated).max() < 4 * 0.06 / 400
    flat = correlated_field((50, 50, 3), np.ones((3, 3)).tolist(), np.random.default_rng(2))
    assert np.allclose(flat[:, :, 0], flat[:, :, 2], atol=1e-6)


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_has_the_variance_of_counts(grey):
    gt = np.full((400, 400, 3), 100 / 255, np.float32)
    photons = 500.0
    noisy = poisson_noise(gt, photons, np.random.default_rng(0), grey=grey)
    assert noisy.dtype == np.float32
    noise = noisy.astype(np.float64) - 100 / 255
    variance = 100 / 255 / photons
    assert abs(noise.mean()) < 5 * (variance / 400**2) ** 0.5
    assert noise.var() == pytest.approx(variance, rel=0.03)
    same = np.allclose(noise[:, :, 0], noise[:, :, 2], atol=1e-6)
    assert same == grey
    assert not poisson_noise(
        np.zeros((4, 4, 1), np.float32), photons, np.random.default_rng(0), grey=grey
    ).any()


def test_usm_by_its_formula():
    gt = waves(70, 61)
    gt[20:40, 20:40] = 1.0

    def smooth(picture: np.ndarray) -> np.ndarray:
        # 51 taps of sigma 8: scipy's radius is truncate * sigma rounded.
        for axis in (0, 1):
            picture = gaussian_filter1d(picture.astype(np.float64), 8.0, axis, mode="mirror", truncate=25 / 8)
        return picture

    residual = gt - smooth(gt)
    soft = smooth((np.abs(residual) * 255 > 10).astype(float))
    expected = soft * np.clip(gt + 0.5 * residual, 0, 1) + (1 - soft) * gt
    got = usm_sharpen(gt)
    assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1
    assert np.abs(got - expected).max() < 1e-4
    assert np.abs(got - gt).max() > 0.05


def test_usm_leaves_flat_pictures_and_its_input_alone():
    flat = np.full((30, 30, 1), 0.4, np.float32)
    assert np.array_equal(usm_sharpen(flat), flat)
    gt = waves()
    before = gt.copy()
    usm_sharpen(gt)
    assert np.array_equal(gt, before)
