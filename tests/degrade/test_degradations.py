from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from atelier.degrade.base import DEGRADATIONS, to_float
from atelier.degrade.bicubic import Bicubic, BicubicOptions
from atelier.degrade.noise import GaussianNoise, GaussianNoiseOptions
from atelier.errors import UserError
from atelier.images import imresize
from atelier.randomness import Streams

STREAMS = Streams(3, 5, 1)


def picture(height=24, width=36, channels=3, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top + 1, (height, width, channels)).astype(dtype)


def run(degradation, gt, streams=STREAMS):
    return degradation.apply(gt, degradation.draw(streams, gt.shape), streams)


@pytest.mark.parametrize("name", DEGRADATIONS.names())
def test_every_degradation_keeps_its_contract(name):
    """Pure, JSON-able, right size, able to travel to a worker; the input stays as it was."""
    degradation = DEGRADATIONS.options_class(name)(type=name).build(2)
    gt = picture()
    before = gt.copy()
    parameters = degradation.draw(STREAMS, gt.shape)
    assert json.loads(json.dumps(parameters)) == parameters
    lq = degradation.apply(gt, parameters, STREAMS)
    assert lq.shape == (12, 18, 3) and lq.dtype in (np.uint8, np.float32)
    again = pickle.loads(pickle.dumps(degradation))
    assert np.array_equal(again.apply(gt, again.draw(STREAMS, gt.shape), STREAMS), lq)
    assert np.array_equal(gt, before)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_context_is_as_large_as_it_must_be(scale):
    """Pixels further away than the context change nothing; the nearest ones inside of it do."""
    size = 16 * scale
    gt = picture(size, size)
    degradation = Bicubic(scale, lq_round=False)
    border = degradation.context * scale
    middle = slice(6 * scale, 10 * scale)
    far = picture(size, size, seed=1)
    reach = slice(6 * scale - border, 10 * scale + border)
    far[reach, reach] = gt[reach, reach]
    crop = slice(6, 10)
    assert np.array_equal(run(degradation, gt)[crop, crop], run(degradation, far)[crop, crop])
    near = gt.copy()
    near[middle.start - border : middle.start - border + scale] ^= 255
    assert not np.array_equal(run(degradation, gt)[crop, crop], run(degradation, near)[crop, crop])


def test_bicubic_is_imresize_rounded_or_not():
    gt = picture()
    rounded = run(Bicubic(2), gt)
    assert rounded.dtype == np.uint8 and np.array_equal(rounded, imresize(gt, scale=1 / 2))
    exact = run(Bicubic(2, lq_round=False), gt)
    assert exact.dtype == np.float32 and np.array_equal(exact, imresize(to_float(gt), scale=1 / 2))
    # MATLAB rounds uint8 after each of its two passes, so the bound is 1/2 and the gain of the second pass on 1/2.
    assert 0 < np.abs(exact.clip(0, 1) * 255 - rounded)[2:-2, 2:-2].max() <= 0.5 + 0.5 * 1.4
    wide = run(Bicubic(2), picture(dtype=np.uint16))
    assert wide.dtype == np.uint16
    floats = run(Bicubic(2), to_float(gt))
    assert floats.dtype == np.float32 and np.array_equal(floats, np.rint(floats * 255) / np.float32(255))


def test_unrounded_bicubic_is_not_clipped():
    gt = np.zeros((16, 16, 1), np.uint8)
    gt[:, 8:] = 255
    lq = run(Bicubic(2, lq_round=False), gt)
    assert lq.min() < 0 and lq.max() > 1


def test_noise_has_the_stated_strength_and_no_bias():
    gt = np.full((200, 200, 3), 128, np.uint8)
    lq = run(GaussianNoise(1, (25, 25)), gt)
    difference = (lq - to_float(gt)) * 255
    assert lq.dtype == np.float32
    assert abs(difference.std() - 25) < 4 * 25 / (2 * difference.size) ** 0.5
    assert abs(difference.mean()) < 4 * 25 / difference.size**0.5
    flat = difference.reshape(-1, 3)
    assert np.abs(np.corrcoef(flat.T) - np.eye(3)).max() < 4 / len(flat) ** 0.5
    assert abs(np.corrcoef(difference[:, 1:].ravel(), difference[:, :-1].ravel())[0, 1]) < 0.015


def test_noise_is_not_clipped():
    lq = run(GaussianNoise(1, (50, 50)), np.zeros((20, 20, 1), np.uint8))
    assert lq.min() < 0


def test_sigma_is_drawn_per_sample_within_its_range():
    degradation = GaussianNoise(1, (10, 30))
    sigmas = [degradation.draw(Streams(0, 1, k), (8, 8, 3))["sigma"] for k in range(400)]
    assert min(sigmas) >= 10 and max(sigmas) <= 30
    assert abs(np.mean(sigmas) - 20) < 4 * 20 / 12**0.5 / 20
    assert GaussianNoise(1, (15, 15)).draw(STREAMS, (8, 8, 3)) == {"sigma": 15}


def test_samples_get_different_noise_and_the_same_sample_the_same():
    degradation = GaussianNoise(1, (25, 25))
    gt = picture()
    one, other = run(degradation, gt, Streams(0, 1, 0)), run(degradation, gt, Streams(0, 1, 1))
    assert not np.array_equal(one, other)
    assert np.array_equal(one, run(degradation, gt, Streams(0, 1, 0)))


def test_noise_above_scale_1_is_added_after_the_reduction():
    gt = picture(64, 64)
    lq = run(GaussianNoise(2, (25, 25)), gt)
    field = STREAMS("noise").standard_normal((32, 32, 3), dtype=np.float32) * np.float32(25 / 255)
    assert np.array_equal(lq, imresize(to_float(gt), scale=1 / 2) + field)


def test_options():
    assert BicubicOptions(lq_round=False).build(4).lq_round is False
    with pytest.raises(UserError, match="bicubic needs a scale of 2 or more"):
        BicubicOptions().build(1)
    assert GaussianNoiseOptions(sigma=[0, 50]).build(1).sigma == (0, 50)
    for sigma in (-1, 300, [30, 10], [1, 2, 3]):
        with pytest.raises(ValidationError):
            GaussianNoiseOptions(sigma=sigma)
    with pytest.raises(ValidationError, match="lq_rounds"):
        BicubicOptions(lq_rounds=True)


def test_options_need_no_torch_and_no_opencv():
    code = (
        "import sys; from atelier.degrade.base import DEGRADATIONS as d; "
        "[d.options_class(n) for n in d]; import atelier.data.options; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'skimage')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
