"""What a thermal camera does to a picture: steps of :mod:`atelier.degrade.steps` for grey float32 ``H x W x 1``."""

from __future__ import annotations

from typing import Any

import numpy as np

from atelier.degrade.base import Pixels
from atelier.randomness import Streams

Record = dict[str, Any]


def contrast(picture: Pixels, step: Record, streams: Streams) -> Pixels:
    """``gain x^gamma + offset``."""
    curved = np.power(np.clip(picture, 0, 1), np.float32(step["gamma"]))
    spread: Pixels = curved * np.float32(step["gain"]) + np.float32(step["offset"])
    return spread


def stripes(picture: Pixels, step: Record, streams: Streams) -> Pixels:
    """Fixed-pattern noise of the read-out: an offset a column, N(0, ``column``^2), and a row, N(0, ``row``^2)."""
    generator = streams(step["field"])
    height, width, _ = picture.shape
    columns = generator.standard_normal((1, width, 1), dtype=np.float32) * np.float32(step["column"])
    rows = generator.standard_normal((height, 1, 1), dtype=np.float32) * np.float32(step["row"])
    striped: Pixels = picture + columns + rows
    return striped


def pixel_gain(picture: Pixels, step: Record, streams: Streams) -> Pixels:
    """Every detector pixel's own gain, N(1, ``sigma``^2)."""
    field = streams(step["field"]).standard_normal(picture.shape, dtype=np.float32)
    return picture * (1 + field * np.float32(step["sigma"]))


def dead_pixels(picture: Pixels, step: Record, streams: Streams) -> Pixels:
    """Each pixel is stuck with ``probability``, half of them at black, half at white."""
    generator = streams(step["field"])
    chance = generator.random(picture.shape, dtype=np.float32)
    stuck, half = np.float32(step["probability"]), np.float32(step["probability"] / 2)
    return np.where(chance < stuck, (chance < half).astype(np.float32), picture)


def sensor_noise(picture: Pixels, step: Record, streams: Streams) -> Pixels:
    """Temporal noise of variance ``read^2 + shot^2 x``, Gaussian: a thermal detector counts very many photons."""
    field = streams(step["field"]).standard_normal(picture.shape, dtype=np.float32)
    variance = np.float32(step["read"] ** 2) + np.float32(step["shot"] ** 2) * np.maximum(picture, 0)
    noisy: Pixels = picture + np.sqrt(variance) * field
    return noisy


def vignette(picture: Pixels, step: Record, streams: Streams) -> Pixels:
    """Times ``1 + amount (2 d - 1)``, d the squared distance from ``centre`` in parts of its largest value."""
    height, width, _ = picture.shape
    y, x = step["centre"]
    down = (np.linspace(0, 1, height, dtype=np.float32) - np.float32(y))[:, None, None] ** 2
    across = (np.linspace(0, 1, width, dtype=np.float32) - np.float32(x))[None, :, None] ** 2
    distance = (down + across) / np.float32(max(y, 1 - y) ** 2 + max(x, 1 - x) ** 2)
    return picture * (1 + np.float32(step["amount"]) * (2 * distance - 1))


def quantise(picture: Pixels, step: Record, streams: Streams) -> Pixels:
    """Clipped to [0, 1] and rounded to ``bits`` bits."""
    white = np.float32(2 ** step["bits"] - 1)
    return np.rint(np.clip(picture, 0, 1) * white) / white
