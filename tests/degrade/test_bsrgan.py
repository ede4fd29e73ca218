"""BSRGAN's pipeline: what is drawn, how often, and that applying it is pure."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from atelier.degrade.bsrgan import BSRGAN, BSRGANOptions, channel_covariance
from atelier.degrade.sharpen import usm_sharpen
from atelier.randomness import Streams

COUNT = 3000
SHAPE = (256, 192, 3)


def draws(degradation: BSRGAN, count: int = COUNT, shape: tuple[int, int, int] = SHAPE) -> list[list[dict]]:
    return [degradation.draw(Streams(11, 1, k), shape)["steps"] for k in range(count)]


def share(flags: list[bool], expected: float) -> None:
    """The share of true ones lies within 4.5 standard errors."""
    assert abs(np.mean(flags) - expected) < 4.5 * (expected * (1 - expected) / len(flags)) ** 0.5


def spread_evenly(values: list[float], low: float, high: float) -> None:
    """Kolmogorov's distance from the even distribution on [low, high]."""
    ordered = (np.sort(values) - low) / (high - low)
    assert ordered[0] >= 0 and ordered[-1] <= 1
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max())
    assert distance < 2.0 / len(ordered) ** 0.5


@pytest.fixture(scope="module")
def classic() -> list[list[dict]]:
    return draws(BSRGAN(4))


@pytest.fixture(scope="module")
def plus() -> list[list[dict]]:
    return draws(BSRGAN(4, "bsrgan_plus"))


def picture(height: int = 64, width: int = 48, channels: int = 3) -> np.ndarray:
    y, x, k = np.mgrid[0:height, 0:width, 0:channels]
    return (127 + 100 * np.sin(x / 5 + k) * np.cos(y / 7)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("variant", ["bsrgan", "bsrgan_plus"])
def test_every_draw_can_be_applied(variant, scale, channels):
    degradation = BSRGANOptions(variant=variant).build(scale)
    gt = picture(12 * scale, 9 * scale, channels)
    before = gt.copy()
    for k in range(25):
        streams = Streams(2, 3, k)
        parameters = degradation.draw(streams, gt.shape)
        assert json.loads(json.dumps(parameters)) == parameters
        lq = degradation.apply(gt, parameters, streams)
        assert lq.shape == (12, 9, channels) and lq.dtype == np.uint8
        assert np.array_equal(degradation.apply(gt, json.loads(json.dumps(parameters)), streams), lq)
    assert np.array_equal(gt, before)


@pytest.mark.parametrize("variant", ["bsrgan", "bsrgan_plus"])
def test_lq_still_shows_the_picture(variant):
    """No draw flips, shifts or loses the picture: lq correlates with the reduced gt more than with it moved by two."""
    degradation = BSRGAN(2, variant)
    y, x = np.mgrid[0:96, 0:96]
    gt = np.repeat(
        (127 + 60 * np.sin(x / 7) + 60 * np.cos(y / 5 + 1)).astype(np.uint8)[:, :, None], 3, axis=2
    )
    small = gt.reshape(48, 2, 48, 2, 3).mean(axis=(1, 3, 4))
    for k in range(40):
        streams = Streams(0, 1, k)
        lq = degradation.apply(gt, degradation.draw(streams, gt.shape), streams).mean(axis=2)
        here = np.corrcoef(lq[4:-4, 4:-4].ravel(), small[4:-4, 4:-4].ravel())[0, 1]
        for dy, dx in ((2, 0), (-2, 0), (0, 2), (0, -2)):
            there = np.corrcoef(lq[4:-4, 4:-4].ravel(), np.roll(small, (dy, dx), (0, 1))[4:-4, 4:-4].ravel())
            assert here > there[0, 1], k


def test_classic_order(classic):
    final = [64, 48]
    for steps in classic:
        operators = [step["op"] for step in steps]
        assert operators.count("blur") == 2 and operators.count("gaussian") == 1
        assert steps[-1]["op"] == "jpeg"
        sizes = [step["size"] for step in steps if step["op"] == "resize"]
        assert sizes[-1] == final
    halved = [steps[0]["op"] == "imresize" or steps[0].get("size") == [128, 96] for steps in classic]
    share(halved, 0.25)
    share([steps[0]["op"] == "imresize" for steps in classic], 0.125)
    share([sum(step["op"] == "jpeg" for step in steps) == 2 for steps in classic], 0.9)
    share([any(step["op"] == "blur_and_pick" for step in steps) for steps in classic], 0.25)
    # Two blurs and one noise, each as often first.
    share(
        [next(s["op"] for s in steps if s["op"] in ("blur", "gaussian")) == "gaussian" for steps in classic],
        1 / 3,
    )


def test_halving_happens_at_scale_4_only():
    assert not any(step["op"] == "imresize" for steps in draws(BSRGAN(2), 400) for step in steps)


def test_blurs(classic):
    first = [next(step for step in steps if step["op"] == "blur") for steps in classic]
    sizes = [step["size"] for step in first]
    assert set(sizes) == set(range(7, 26, 2))
    for size in set(sizes):
        share([each == size for each in sizes], 0.1)
    turned = [step for step in first if step["theta"] != 0]
    share([step["theta"] != 0 for step in first], 0.5)
    spread_evenly([step["theta"] for step in turned], 0, math.pi)
    unhalved = draws(BSRGAN(2), 1500)
    blurs = [step for steps in unhalved for step in steps if step["op"] == "blur"]
    spread_evenly([v for step in blurs if step["theta"] for v in step["variances"]], 0, 6)
    spread_evenly([step["variances"][0] ** 0.5 for step in blurs if not step["theta"]], 0, 2.4)


def test_reductions():
    found = [step for steps in draws(BSRGAN(2), 1500, (2048, 2048, 3)) for step in steps]
    strided = [step for step in found if step["op"] == "blur_and_pick"]
    assert all(step["stride"] == 2 for step in strided)
    spread_evenly([step["sigma"] for step in strided], 0.1, 1.2)
    factors = [
        2048 / step["size"][0] for step in found if step["op"] == "resize" and step["size"] != [1024, 1024]
    ]
    spread_evenly([f for f in factors if f > 1], 1, 4.02)
    modes = [step["mode"] for step in found if step["op"] == "resize"]
    for mode in ("bilinear", "bicubic", "area"):
        share([each == mode for each in modes], 1 / 3)


def test_noise_and_quality(classic):
    noises = [step for steps in classic for step in steps if step["op"] == "gaussian"]
    for kind, expected in (("colour", 0.4), ("grey", 0.4), ("correlated", 0.2)):
        share([step["kind"] == kind for step in noises], expected)
    levels = [round(step["sigma"] * 255) for step in noises if "sigma" in step]
    assert set(levels) == set(range(2, 26))
    spread_evenly([level + 0.5 for level in levels], 1.5, 26.5)
    qualities = [step["quality"] for steps in classic for step in steps if step["op"] == "jpeg"]
    assert min(qualities) == 30 and max(qualities) == 95


def test_covariances_are_covariances():
    for seed in range(200):
        matrix = np.array(channel_covariance(np.random.default_rng(seed), 25 / 255))
        assert np.allclose(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() >= -1e-15
        assert np.trace(matrix) <= 4 * (25 / 255) ** 2


def test_plus_probabilities(plus):
    for steps in plus:
        operators = [step["op"] for step in steps]
        assert (
            operators.count("blur") == 2 and operators.count("gaussian") == 2 and operators.count("jpeg") == 2
        )
        assert operators.count("resize") == 3
        assert steps[-2]["op"] == "resize" and steps[-2]["size"] == [64, 48] and steps[-1]["op"] == "jpeg"
    for op in ("poisson", "speckle"):
        counts = [sum(step["op"] == op for step in steps) for steps in plus]
        share([n == 0 for n in counts], 0.81)
    photons = [step["photons"] for steps in plus for step in steps if step["op"] == "poisson"]
    spread_evenly(np.log10(photons).tolist(), 2, 4)


def test_plus_shuffles_everything_or_only_noises():
    ordered = draws(BSRGAN(4, "bsrgan_plus", shuffle_prob=0.0), 400)
    for steps in ordered:
        operators = [step["op"] for step in steps]
        kept = [op for op in operators if op in ("blur", "resize", "jpeg")]
        assert kept == ["blur", "resize", "jpeg", "blur", "resize", "resize", "jpeg"]
    orders = {tuple(step["op"] for step in steps) for steps in ordered}
    assert any(order.index("speckle") < order.index("gaussian") for order in orders if "speckle" in order)
    shuffled = draws(BSRGAN(4, "bsrgan_plus", shuffle_prob=1.0), 400)
    # Two blurs among seven steps that are always there and four that are there one time in ten.
    expected = sum(math.comb(4, n) * 0.1**n * 0.9 ** (4 - n) * 2 / (7 + n) for n in range(5))
    share([steps[0]["op"] == "blur" for steps in shuffled], expected)


def test_plus_resizes():
    steps = draws(BSRGAN(2, "bsrgan_plus", shuffle_prob=0.0), 1500, (4096, 4096, 3))
    factors = [next(s for s in each if s["op"] == "resize")["size"][0] / 4096 for each in steps]
    share([f > 1 for f in factors], 0.2)
    share([f == 1 for f in factors], 0.1)
    spread_evenly([f for f in factors if f > 1], 0.999, 2)
    spread_evenly([f for f in factors if f < 1], 0.2495, 1)


def test_sharpened_target():
    gt = picture()
    gt[16:32, 16:32] = 250
    streams = Streams(0, 1, 0)
    degradation = BSRGAN(2, "bsrgan_plus", use_sharp=True)
    parameters = degradation.draw(streams, gt.shape)
    target = degradation.target(gt, parameters, streams)
    assert target.dtype == np.uint8 and not np.array_equal(target, gt)
    assert np.abs(target - usm_sharpen(gt.astype(np.float32) / 255) * 255).max() <= 0.5 + 1e-4
    plain = BSRGAN(2, "bsrgan_plus")
    assert plain.target(gt, parameters, streams) is gt
    # lq is made of the sharpened picture.
    assert np.array_equal(
        degradation.apply(gt, parameters, streams), plain.apply(target, parameters, streams)
    )


def test_options():
    for given in ({"shuffle_prob": 0.5}, {"use_sharp": True}):
        with pytest.raises(ValidationError, match="does nothing without variant: bsrgan_plus"):
            BSRGANOptions(**given)
    assert BSRGANOptions(variant="bsrgan_plus", shuffle_prob=0.5, use_sharp=True).build(4).use_sharp
    assert BSRGANOptions(shuffle_prob=0.1, use_sharp=False).build(4).variant == "bsrgan"
    with pytest.raises(ValueError, match="no multiple of scale 4"):
        BSRGAN(4).draw(Streams(0, 1, 0), (30, 32, 3))
