"""PSNR and SSIM against scikit-image, hand-computed and published numbers; options and labels."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from atelier.errors import UserError
from atelier.images import imresize, read_image, rgb_to_y
from atelier.metrics import METRICS, psnr, ssim

SET5 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "Set5"
PEAK = {"uint8": 255, "uint16": 65535, "float32": 1, "float64": 1}


def pair(dtype="uint8", channels=3, height=40, width=33, seed=0):
    rng = np.random.default_rng(seed)
    y, x, k = np.mgrid[0:height, 0:width, 0:channels]
    smooth = 0.5 + 0.4 * np.sin(x / 5) * np.cos(y / 7 + k)
    other = np.clip(smooth + rng.normal(0, 0.05, smooth.shape), 0, 1)
    return tuple((v * PEAK[dtype]).astype(dtype) for v in (smooth, other))


def test_psnr_by_hand():
    a = np.zeros((4, 5, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 60  # MSE = 3600 / 60 = 60
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 60), rel=1e-14)
    assert psnr(a, b, crop_border=1) == math.inf
    assert psnr(a, a) == math.inf
    assert psnr(a + 255, a) == 0
    # Y of red by 60: 65.481 * 60 / 255 = 15.4073 at one of 20 pixels
    assert psnr(a, b, y=True) == pytest.approx(
        10 * math.log10(255**2 * 20 / (65.481 * 60 / 255) ** 2), rel=1e-12
    )


def test_y_is_not_rounded():
    a = np.full((12, 12, 3), 100, np.uint8)
    b = a.copy()
    b[..., 2] += 1  # Y moves by 0.0979, which rounding would lose
    assert psnr(a, b, y=True) == pytest.approx(20 * math.log10(255 / (24.966 / 255)), rel=1e-9)


def test_ssim_by_hand():
    # Flat pictures have no variance: only the luminance term is left.
    a, b = np.full((11, 11, 1), 100, np.uint8), np.full((11, 11, 1), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), rel=1e-9)


@pytest.mark.parametrize("y", [False, True])
@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", PEAK)
def test_agree_with_scikit_image(dtype, channels, crop, y):
    a, b = pair(dtype, channels)
    before = a.copy(), b.copy()
    peak = PEAK[dtype]
    x, z = (v[crop : v.shape[0] - crop, crop : v.shape[1] - crop].astype(np.float64) for v in (a, b))
    if y and channels == 3:
        x, z = (rgb_to_y(v / peak) * peak for v in (x, z))
    expected = peak_signal_noise_ratio(x, z, data_range=peak)
    assert psnr(a, b, crop_border=crop, y=y) == pytest.approx(expected, rel=1e-10)
    expected = structural_similarity(
        x, z, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=peak, channel_axis=2
    )
    assert ssim(a, b, crop_border=crop, y=y) == pytest.approx(expected, abs=1e-9)
    assert np.array_equal(a, before[0]) and np.array_equal(b, before[1])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(11, 30), width=st.integers(11, 30), y=st.booleans())
def test_symmetric_and_bounded(seed, height, width, y):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
    assert psnr(a, b, y=y) == psnr(b, a, y=y)
    assert ssim(a, b, y=y) == pytest.approx(ssim(b, a, y=y), rel=1e-12)
    assert -1 <= ssim(a, b, y=y) <= 1
    assert ssim(a, a, y=y) == pytest.approx(1, abs=1e-9)


@pytest.mark.skipif(not SET5.is_dir(), reason="Set5 is not beside the project (../shared/data/Set5)")
def test_published_bicubic_baselines_of_set5():
    import cv2

    rgb_psnr, rgb_ssim, y_psnr = [], [], []
    for path in sorted((SET5 / "HR").glob("*.png")):
        gt = read_image(path).pixels
        lq = read_image(SET5 / "LR_bicubic" / "X2" / f"{path.stem}x2.png").pixels
        up = cv2.resize(lq, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        rgb_psnr.append(psnr(up, gt, crop_border=4))
        rgb_ssim.append(ssim(up, gt, crop_border=4))
        lq = read_image(SET5 / "LR_bicubic" / "X4" / f"{path.stem}x4.png").pixels
        y_psnr.append(psnr(imresize(lq, 4), gt, crop_border=4, y=True))
    assert np.mean(rgb_psnr) == pytest.approx(32.07, abs=0.005)
    assert np.mean(rgb_ssim) == pytest.approx(0.9119, abs=0.00005)
    assert np.mean(y_psnr) == pytest.approx(28.42, abs=0.02)


@pytest.mark.parametrize("function", [psnr, ssim])
def test_what_cannot_be_compared(function):
    a, b = pair()
    for other, reason in (
        (b[:-1], r"agree in size, channels and type; given 40×33×3 uint8 and 39×33×3 uint8"),
        (b[:, :, :1], "agree in size"),
        (b.astype(np.uint16), "and 40×33×3 uint16"),
    ):
        with pytest.raises(UserError, match=reason):
            function(a, other)
    rgba = np.dstack([a, a[:, :, :1]])
    with pytest.raises(UserError, match="without alpha"):
        function(rgba, rgba)
    with pytest.raises(UserError, match="uint8, uint16 or floats"):
        function(a.astype(np.int32), b.astype(np.int32))
    with pytest.raises(UserError, match=r"33×40 are too small .* cutting 17"):
        function(a, b, crop_border=17)
    with pytest.raises(ValueError, match="negative"):
        function(a, b, crop_border=-1)


@pytest.mark.parametrize("height", [137, 138, 139, 300])
def test_ssim_of_tall_pictures_has_no_seams(height):
    a, b = pair(height=height, channels=3)
    expected = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_smallest_pictures():
    a, b = pair(height=11, width=11)
    assert math.isfinite(ssim(a, b))
    with pytest.raises(UserError, match="at least 11×11"):
        ssim(a[:10], b[:10])
    assert math.isfinite(psnr(a, b, crop_border=5))
    with pytest.raises(UserError, match="at least 1×1"):
        psnr(a, b, crop_border=6)


@pytest.mark.parametrize(
    ("name", "keys", "scale", "protocol"),
    [
        ("calculate_psnr", {"test_y_channel": True}, 4, "PSNR-Y (BT.601, crop 4)"),
        ("psnr", {}, 2, "PSNR-RGB (crop 2)"),
        ("calculate_ssim", {"crop_border": 2}, 4, "SSIM-RGB (crop 2)"),
        ("ssim", {"crop_border": 0, "test_y_channel": True}, 4, "SSIM-Y (BT.601, crop 0)"),
    ],
)
def test_options_build_the_metric_they_name(name, keys, scale, protocol):
    options = METRICS.options_class(name)(type=name, **keys)
    metric = options.build(scale)
    assert metric.protocol == protocol and metric.higher_is_better is True
    a, b = pair()
    function = psnr if "psnr" in name else ssim
    crop = keys.get("crop_border", scale)
    assert metric(a, b) == function(a, b, crop_border=crop, y=keys.get("test_y_channel", False))
    assert options.model_copy(update={"better": "lower"}).build(scale).higher_is_better is False


def test_wrong_options_are_refused():
    options = METRICS.options_class("calculate_psnr")
    for keys in ({"crop": 4}, {"crop_border": -1}, {"better": "best"}, {"type": "calculate_ssim"}):
        with pytest.raises(ValidationError):
            options(**keys)
    with pytest.raises(UserError, match="did you mean 'calculate_psnr'"):
        METRICS.options_class("calculate_psnrr")


def test_options_and_package_are_light():
    code = """
import sys, atelier.metrics as metrics
for name in metrics.METRICS:
    metrics.METRICS.options_class(name)
heavy = {"torch", "cv2", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert callable(metrics.psnr) and callable(metrics.ssim)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("y", [False, True])
def test_grey_pictures_are_not_called_rgb(y: bool) -> None:
    options = METRICS.options_class("psnr")(type="psnr", test_y_channel=y)
    assert options.build(1, 1).protocol == "PSNR-grey (crop 1)"
