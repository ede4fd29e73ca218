"""The thermal camera's pipeline: ranges, purity, and each step against its definition."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from atelier.degrade import sensor
from atelier.degrade.infrared import InfraredOptions
from atelier.randomness import Streams

STREAMS = Streams(3, 1, 4)


def scene(height: int = 64, width: int = 48, channels: int = 1, dtype: type = np.uint8) -> np.ndarray:
    y, x, _ = np.mgrid[0:height, 0:width, 0:channels]
    levels = 0.5 + 0.2 * np.sin(x / 5) + 0.2 * np.cos(y / 7)
    return np.rint(levels * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_every_draw_can_be_applied(scale, channels):
    camera = InfraredOptions().build(scale)
    gt = scene(16 * scale, 12 * scale, channels)
    for k in range(15):
        streams = Streams(1, 2, k)
        parameters = camera.draw(streams, gt.shape)
        assert json.loads(json.dumps(parameters)) == parameters
        lq = camera.apply(gt, parameters, streams)
        assert lq.shape == (16, 12, channels) and lq.dtype == np.float32 and 0 <= lq.min() <= lq.max() <= 1
        assert np.array_equal(camera.apply(gt, json.loads(json.dumps(parameters)), streams), lq)
        assert channels == 1 or np.array_equal(lq[:, :, 0], lq[:, :, 2])
        *_, (_, last) = camera.stages(gt, parameters, streams)
        assert np.array_equal(np.repeat(last[:, :, :1], channels, axis=2), lq)


def test_ranges_and_frequencies():
    camera = InfraredOptions().build(2)
    plans = [camera.draw(Streams(0, 1, k), (64, 64, 1)) for k in range(2000)]
    for flags in (
        [plan["invert"] for plan in plans],
        [plan["steps"][-1]["op"] == "jpeg" for plan in plans],
        [plan["steps"][3]["row"] > 0 for plan in plans],
    ):
        assert abs(np.mean(flags) - 0.5) < 4 * 0.5 / len(plans) ** 0.5
    by_name = {step["op"]: [] for step in plans[0]["steps"]} | {"jpeg": []}
    for plan in plans:
        for step in plan["steps"]:
            by_name[step["op"]].append(step)

    def within(op: str, key: str, low: float, high: float, unit: float = 1.0) -> None:
        values = np.array([step[key] for step in by_name[op]]) * unit
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high >= values.max() > high - 0.05 * (high - low)

    within("contrast", "gain", 0.3, 1)
    within("contrast", "gamma", 0.7, 1.4)
    within("stripes", "column", 0, 4, 255)
    within("dead_pixels", "probability", 0, 1e-3)
    within("sensor_noise", "read", 0.5, 6, 255)
    within("vignette", "amount", -0.05, 0.05)
    within("jpeg", "quality", 50, 95)
    assert {step["bits"] for step in by_name["quantise"]} == {8, 9, 10, 11, 12}
    sigmas = [step["sigma"][0] for step in by_name["filter"]]
    assert min(sigmas) >= 0.4 and max(sigmas) <= 2
    assert all(step["gain"] + step["offset"] <= 1 for step in by_name["contrast"])


def test_gt_is_normalised_and_inverted_together_with_lq():
    camera = InfraredOptions().build(1)
    raw = (scene(dtype=np.uint16) // 40 + 20_000).astype(np.uint16)  # a narrow band of a 16-bit camera
    plan = {"percentiles": [1, 99], "invert": False, "grid": [0, 0], "steps": []}
    target = camera.target(raw, plan, STREAMS)
    low, high = np.percentile(raw, (1, 99))
    expected = np.clip((raw - low) / (high - low), 0, 1) * 65535
    assert target.dtype == np.uint16 and np.abs(target - expected).max() < 30
    assert np.abs(camera.apply(raw, plan, STREAMS) * 65535 - expected).max() < 30
    black_hot = camera.target(raw, {**plan, "invert": True}, STREAMS)
    assert np.abs(black_hot.astype(int) + target - 65535).max() <= 1
    eight_bit = scene()
    assert np.array_equal(camera.target(eight_bit, plan, STREAMS), eight_bit)


def test_whole_pictures_are_not_inverted():
    camera = InfraredOptions(invert_prob=1.0).build(2)
    assert camera.draw(STREAMS, (64, 64, 1))["invert"]
    still = camera.for_whole_pictures().draw(STREAMS, (64, 64, 1))
    assert not still["invert"] and still["grid"] == [0, 0]


def test_steps_are_their_formulas():
    flat = np.full((200, 300, 1), 0.5, np.float32)
    striped = sensor.stripes(flat, {"field": "f", "column": 0.01, "row": 0.03}, STREAMS) - flat
    assert np.abs(striped - striped.mean(0) - striped.mean(1, keepdims=True) + striped.mean()).max() < 1e-6
    assert striped.mean(0).std() == pytest.approx(0.01, rel=0.2)
    assert striped.mean(1).std() == pytest.approx(0.03, rel=0.2)
    gained = sensor.pixel_gain(flat, {"field": "f", "sigma": 0.01}, STREAMS) / flat
    assert gained.mean() == pytest.approx(1, abs=1e-4) and gained.std() == pytest.approx(0.01, rel=0.02)
    dead = sensor.dead_pixels(flat, {"field": "f", "probability": 0.1}, STREAMS)
    for value in (0, 1):
        assert abs((dead == value).mean() - 0.05) < 4 * (0.05 * 0.95 / flat.size) ** 0.5
    noisy = sensor.sensor_noise(flat, {"field": "f", "read": 0.01, "shot": 0.02}, STREAMS)
    assert noisy.std() == pytest.approx((0.01**2 + 0.02**2 * 0.5) ** 0.5, rel=0.02)
    shaded = sensor.vignette(flat, {"amount": 0.05, "centre": [0.5, 0.5]}, STREAMS) / flat
    assert shaded.max() == pytest.approx(1.05) and shaded.min() == pytest.approx(0.95, abs=1e-3)
    curved = sensor.contrast(flat, {"gain": 0.5, "offset": 0.2, "gamma": 2.0}, STREAMS)
    assert np.allclose(curved, 0.5 * 0.25 + 0.2)
    ramp = np.linspace(-0.1, 1.1, 5000, dtype=np.float32).reshape(50, 100, 1)
    levels = sensor.quantise(ramp, {"bits": 8}, STREAMS)
    assert len(np.unique(levels)) == 256 and np.abs(levels - ramp.clip(0, 1)).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gain_range": (1, 0.3)}, "gain_range must be"),
        ({"bits_range": (8, 20)}, "bits_range must be .* within 1..16"),
        ({"percentiles": (50, 50)}, "percentiles must differ"),
        ({"jpeg_prob": 2}, "jpeg_prob"),
    ],
)
def test_wrong_values_are_named(given, said):
    with pytest.raises(ValidationError, match=said):
        InfraredOptions(**given)
