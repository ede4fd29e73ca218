"""How colour becomes grey, and targets that a degradation changes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atelier.data.channels import fit_channels
from atelier.data.options import TrainImagesOptions, ValImagesOptions
from atelier.data.validation import ValidationSet
from atelier.degrade.base import Degradation
from atelier.degrade.jpeg import JPEG
from atelier.degrade.noise import GaussianNoise, protocol_noise
from atelier.errors import UserError
from atelier.images import read_image, rgb_to_y

LEVELS = st.integers(0, 255)


def studio_y(red: int, green: int, blue: int, white: int) -> int:
    """Round half to even of the exact fraction."""
    exact = Fraction(65481 * red + 128553 * green + 24966 * blue, 255000) + Fraction(16 * white, 255)
    return round(exact)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(LEVELS, LEVELS, LEVELS)
def test_y_is_exact(red, green, blue):
    pixel = np.array([[[red, green, blue]]], np.uint8)
    assert fit_channels(pixel, 1, "y").item() == studio_y(red, green, blue, 255)
    wide = pixel.astype(np.uint16) * 257
    assert fit_channels(wide, 1, "y").item() == studio_y(257 * red, 257 * green, 257 * blue, 65535)


def test_y_range_types_and_other_channels():
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert fit_channels(ends, 1, "y").ravel().tolist() == [16, 235]
    assert fit_channels(ends, 1).ravel().tolist() == [0, 255]
    assert fit_channels(ends, 1, "y").dtype == np.uint8
    floats = np.random.default_rng(0).random((3, 4, 3), dtype=np.float32)
    assert np.array_equal(fit_channels(floats, 1, "y"), rgb_to_y(floats))
    grey = ends[:, :, :1]
    assert fit_channels(grey, 1, "y") is grey  # a grey picture is its own Y
    rgba = np.concatenate([ends, ends[:, :, :1]], axis=2)
    assert fit_channels(rgba, 1, "y").ravel().tolist() == [16, 235]


def test_mixed_training_draws_either_per_sample(tmp_path, make_folder, open_data):
    (path,) = make_folder(tmp_path / "gt", [(16, 16, 3)])
    pixels = read_image(path).pixels
    luma, y = (fit_channels(pixels, 1, kind).astype(np.float32) / 255 for kind in ("luma", "y"))
    data = open_data(
        tmp_path / "gt",
        scale=1,
        in_channels=1,
        grey_from="mixed",
        use_hflip=False,
        use_rot=False,
        degradation={"type": "jpeg", "quality": 90},
    )
    seen = [int(np.array_equal(gt[0].numpy(), y[:, :, 0])) for b in data.batches(1, 40) for gt in b.gt]
    again = [int(np.array_equal(gt[0].numpy(), luma[:, :, 0])) for b in data.batches(1, 40) for gt in b.gt]
    assert [a + b for a, b in zip(seen, again, strict=True)] == [1] * 160
    assert 55 < sum(seen) < 105


def test_grey_from_of_sets(tmp_path, make_folder, open_data):
    (path,) = make_folder(tmp_path / "gt", [(16, 16, 3)])
    options = ValImagesOptions(dataroot_gt=tmp_path / "gt", grey_from="y")
    given: dict[str, Any] = {"scale": 1, "seed": 0}
    (pair,) = ValidationSet(options, degradation=JPEG(1, (40, 40)), in_channels=1, **given)
    assert np.array_equal(pair.gt, fit_channels(read_image(path).pixels, 1, "y"))
    with pytest.raises(UserError, match="grey_from y does nothing for a network of 3 channels"):
        ValidationSet(options, degradation=JPEG(1, (40, 40)), in_channels=3, **given)
    with pytest.raises(UserError, match="grey_from mixed does nothing"):
        open_data(tmp_path / "gt", scale=1, grey_from="mixed", degradation={"type": "jpeg"})
    with pytest.raises(ValidationError):
        ValImagesOptions(dataroot_gt=tmp_path, grey_from="mixed")
    assert TrainImagesOptions(dataroot_gt=tmp_path).grey_from == "luma"


def test_a_validation_set_with_a_degradation_of_its_own(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(20, 20, 3)] * 2)
    options = ValImagesOptions(
        dataroot_gt=tmp_path / "gt",
        degradation={"type": "gaussian_noise", "sigma": 15, "noise_seed": 0, "noise_order": "bgr"},
    )
    for run in (GaussianNoise(1, (50, 50)), None):
        for pair in ValidationSet(options, scale=1, degradation=run, seed=9, in_channels=3):
            clean = pair.gt.astype(np.float32) / np.float32(255)
            noise = protocol_noise(pair.gt.shape, 15, 0, "bgr")
            assert np.array_equal(pair.lq, (clean + noise).astype(np.float32))
    with pytest.raises(ValidationError, match="degradation does nothing with dataroot_lq"):
        ValImagesOptions(dataroot_gt=tmp_path, dataroot_lq=tmp_path, degradation="jpeg")


def test_validation_compresses_at_the_corner(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(24, 24, 3)] * 6)
    options = ValImagesOptions(dataroot_gt=tmp_path / "gt")
    pairs = ValidationSet(options, scale=1, degradation=JPEG(1, (10, 10), 0.0), seed=0, in_channels=3)
    for pair in pairs:
        plain = JPEG(1, (10, 10)).apply(pair.gt, {"quality": 10, "offset": [0, 0]}, None)  # type: ignore[arg-type]
        assert np.array_equal(pair.lq, plain)


class Inverted(Degradation):
    """lq is gt, and the target its negative."""

    scale = 1

    def draw(self, streams, shape):
        return {"level": int(streams("level").integers(1, 256))}

    def apply(self, gt, parameters, streams):
        return gt

    def target(self, gt, parameters, streams):
        return np.uint8(parameters["level"]) - gt  # wraps; only equality counts


def test_a_degradation_may_change_the_target(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", [(24, 24, 3)])
    options = ValImagesOptions(dataroot_gt=tmp_path / "gt")
    (pair,) = ValidationSet(options, scale=1, degradation=Inverted(), seed=0, in_channels=3)
    assert len(np.unique(pair.gt + pair.lq)) == 1
    data = open_data(tmp_path / "gt", scale=1, degradation={"type": "bsrgan", "variant": "bsrgan_plus"})
    plain = data.assembler.sample(1, 0)
    sharp = open_data(
        tmp_path / "gt",
        scale=1,
        degradation={"type": "bsrgan", "variant": "bsrgan_plus", "use_sharp": True},
    ).assembler.sample(1, 0)
    assert plain[2] == sharp[2] and not np.array_equal(plain[0], sharp[0])
    data.assembler.degradation = Inverted()
    gt, lq, _ = data.assembler.sample(1, 0)
    assert gt.shape == lq.shape and len(np.unique(gt + lq)) == 1
