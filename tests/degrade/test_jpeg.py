"""JPEG: the encoder, the grid and the draws."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from atelier.degrade.codec import jpeg_round_trip
from atelier.degrade.jpeg import JPEG, JPEGOptions
from atelier.errors import UserError
from atelier.randomness import Streams

STREAMS = Streams(3, 5, 1)


def picture(height: int = 64, width: int = 48, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth waves with a little texture, different in every channel."""
    rng = np.random.default_rng(seed)
    y, x, k = np.mgrid[0:height, 0:width, 0:channels]
    values = 127 + 90 * np.sin(x / 6 + k) * np.cos(y / 9 - k) + rng.normal(0, 12, y.shape)
    return values.clip(0, 255).astype(np.uint8)


def run(gt: np.ndarray, quality: int, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    return JPEG(1, (quality, quality)).apply(gt, {"quality": quality, "offset": list(offset)}, STREAMS)


@pytest.mark.parametrize("quality", [10, 40, 90])
@pytest.mark.parametrize("channels", [1, 3])
def test_agrees_with_pillow(channels, quality):
    gt = picture(channels=channels)
    buffer = io.BytesIO()
    Image.fromarray(gt.squeeze()).save(buffer, "jpeg", quality=quality, subsampling=2)
    expected = np.asarray(Image.open(buffer)).reshape(gt.shape)
    got = jpeg_round_trip(gt, quality)
    assert got.dtype == np.uint8 and got.shape == gt.shape
    # Both are libjpeg, maybe with another colour conversion or inverse transform.
    assert np.abs(got.astype(int) - expected).max() <= 2
    assert np.abs(got.astype(int) - expected).mean() < 0.05


def test_colour_is_not_swapped():
    gt = np.zeros((32, 32, 3), np.uint8)
    gt[:, :, 0] = 250
    assert np.abs(run(gt, 95).astype(int) - gt).max() < 12


def test_worse_quality_is_worse():
    gt = picture()
    errors = [np.square(run(gt, q).astype(float) - gt).mean() for q in (95, 60, 30, 10)]
    assert errors == sorted(errors)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 3))
def test_the_grid_lies_where_the_offset_says(top, left, seed):
    """A crop with the right offset equals the crop of the whole encoded picture wherever its blocks are whole."""
    gt = picture(48, 56, 1, seed)
    whole, cut = run(gt, 20), run(np.ascontiguousarray(gt[top:, left:]), 20, (top, left))
    first = 8 - top if top else 0, 8 - left if left else 0
    assert np.array_equal(cut[first[0] :, first[1] :], whole[top:, left:][first[0] :, first[1] :])
    moved = (top + 1) % 8, left
    assert not np.array_equal(run(gt[top:, left:], 20, moved)[8:, 8:], cut[8:, 8:])  # teeth


def test_draws():
    degradation = JPEG(1, (10, 40), aligned_prob=0.5)
    drawn = [degradation.draw(Streams(0, 1, k), (64, 64, 3)) for k in range(4000)]
    qualities = np.array([d["quality"] for d in drawn])
    assert set(qualities) == set(range(10, 41))
    counts = np.bincount(qualities)[10:]
    assert np.abs(counts - 4000 / 31).max() < 4.5 * (4000 / 31) ** 0.5
    offsets = np.array([d["offset"] for d in drawn])
    assert offsets.min() == 0 and offsets.max() == 7
    aligned = np.mean(~offsets.any(axis=1))
    expected = 0.5 + 0.5 / 64
    assert abs(aligned - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5
    rows = offsets[offsets.any(axis=1)]
    assert abs(np.corrcoef(rows.T)[0, 1]) < 0.1


def test_whole_pictures_have_their_grid_at_the_corner():
    degradation = JPEG(1, (10, 40), aligned_prob=0.0)
    assert any(any(degradation.draw(Streams(0, 0, k), (8, 8, 1))["offset"]) for k in range(9))
    whole = degradation.for_whole_pictures()
    assert all(whole.draw(Streams(0, 0, k), (8, 8, 1))["offset"] == [0, 0] for k in range(99))
    assert whole.quality == (10, 40)


def test_small_pictures_and_other_depths():
    assert run(picture(1, 1), 40, (7, 7)).shape == (1, 1, 3)
    gt = picture()
    assert np.array_equal(run(gt.astype(np.float32) / 255, 40), run(gt, 40))
    assert np.array_equal(run(gt.astype(np.uint16) * 257, 40), run(gt, 40))
    with pytest.raises(UserError, match="grey or RGB pictures, not 4 channels"):
        run(np.zeros((8, 8, 4), np.uint8), 40)


def test_options():
    assert JPEGOptions(quality=10).build(1).quality == (10, 10)
    assert JPEGOptions(quality=[10, 95]).build(2).quality == (10, 95)
    for quality in (0, 101, [40, 10], 10.5, [0, 40]):
        with pytest.raises(ValidationError):
            JPEGOptions(quality=quality)
    with pytest.raises(ValidationError):
        JPEGOptions(aligned_prob=1.5)
