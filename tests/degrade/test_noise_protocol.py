"""The noise of published denoising numbers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from atelier.degrade.noise import GaussianNoiseOptions, protocol_noise
from atelier.randomness import Streams


def clean(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (21, 34, channels), dtype=np.uint8)


def spoil(gt: np.ndarray, picture: int = 0, **given: object) -> np.ndarray:
    degradation = GaussianNoiseOptions(noise_seed=0, **given).build(1)  # type: ignore[arg-type]
    streams = Streams(5, 0, picture)
    return degradation.apply(gt, degradation.draw(streams, gt.shape), streams)


@pytest.mark.parametrize(
    ("shape", "sigma", "digest"),
    [
        ((256, 256, 1), 15, "e28bbf5c22e2db6f"),
        ((256, 256, 1), 25, "b419e6cfd42fc669"),
        ((321, 481, 3), 50, "0ddbafa15e4f2e20"),
    ],
)
def test_the_field_has_the_recorded_checksum(shape, sigma, digest):
    field = protocol_noise(shape, sigma, 0)
    assert field.dtype == np.float64
    # Rounded, so that the last bit of another mathematical library does not count.
    assert hashlib.sha256(np.rint(field * 2**40).astype("<i8").tobytes()).hexdigest()[:16] == digest


def test_the_first_values_are_those_of_the_legacy_generator():
    # The well-known first normal numbers of np.random.seed(0).
    known = np.array([1.764052345967664, 0.4001572083672233, 0.9787379841057392])
    assert np.allclose(protocol_noise((2, 2, 3), 25, 0)[0, 0], known * 25 / 255, rtol=1e-12)
    assert np.allclose(protocol_noise((2, 2, 3), 25, 0, "bgr")[0, 0], known[::-1] * 25 / 255, rtol=1e-12)


def test_sum_as_the_official_script_computes_it():
    gt = clean()
    np.random.seed(0)  # noqa: NPY002  (what the script does)
    bgr = gt[:, :, ::-1].astype(np.float32) / 255.0
    official = (bgr + np.random.normal(0, 25 / 255.0, bgr.shape)).astype(np.float32)[:, :, ::-1]  # noqa: NPY002
    assert np.array_equal(spoil(gt, sigma=25, noise_order="bgr"), official)
    rgb = np.float32(gt / 255.0)
    np.random.seed(0)  # noqa: NPY002
    rgb += np.random.normal(0, 25 / 255.0, rgb.shape)  # noqa: NPY002
    assert np.array_equal(spoil(gt, sigma=25), rgb)
    assert not np.array_equal(spoil(gt, sigma=25), spoil(gt, sigma=25, noise_order="bgr"))


def test_every_picture_gets_the_same_field_and_nothing_is_clipped():
    gt = clean(1)
    assert np.array_equal(spoil(gt, 0, sigma=50), spoil(gt, 7, sigma=50))
    assert spoil(np.zeros_like(gt), sigma=50).min() < 0
    assert spoil(np.full_like(gt, 255), sigma=50).max() > 1


def test_the_global_generator_is_left_alone():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    protocol_noise((8, 8, 1), 25, 0)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_options():
    with pytest.raises(ValidationError, match="noise_order does nothing without noise_seed"):
        GaussianNoiseOptions(noise_order="bgr")
    with pytest.raises(ValidationError):
        GaussianNoiseOptions(noise_seed=-1)
    with pytest.raises(ValidationError, match=r"sigma must be within 0\.\.255"):
        GaussianNoiseOptions(sigma=256)
