"""Noise fields of random degradation pipelines: pure functions of a picture, their parameters and a generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from atelier.degrade.base import Pixels

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of BT.601's full-range luma."""


def gaussian_field(
    shape: tuple[int, int, int], sigma: float, generator: np.random.Generator, *, grey: bool = False
) -> Pixels:
    """Float32 N(0, sigma^2), independent per value; ``grey`` draws one field for all channels.

    Args:
        shape: ``(H, W, C)``.
        sigma: with 1.0 as white.
        generator: where the numbers come from.
        grey: see above; the result is ``H x W x 1`` then.
    """
    height, width, channels = shape
    field = generator.standard_normal((height, width, 1 if grey else channels), dtype=np.float32)
    return field * np.float32(sigma)


def correlated_field(
    shape: tuple[int, int, int], covariance: Sequence[Sequence[float]], generator: np.random.Generator
) -> Pixels:
    """Float32 N(0, covariance) between the channels, independent per pixel.

    Args:
        shape: ``(H, W, C)``.
        covariance: ``C x C``, symmetric and without negative eigenvalues, with 1.0 as white.
        generator: where the numbers come from.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    white = generator.standard_normal(shape, dtype=np.float32)
    mixed: Pixels = np.matmul(white, root.T)
    return mixed


def poisson_noise(
    picture: Pixels, photons: float, generator: np.random.Generator, *, grey: bool = False
) -> Pixels:
    """The picture as counts of light: ``Poisson(x * photons) / photons`` of its 8-bit levels x, float32.

    Args:
        picture: float32 ``H x W x C``; rounded to whole 8-bit levels, as the published pipelines do.
        photons: mean count at white.
        generator: where the numbers come from.
        grey: the noise of the picture's luma is added to all channels alike (RGB; a grey picture is its own).
    """
    levels = _levels(picture)
    if not grey or picture.shape[2] != 3:
        return (generator.poisson(levels * photons) / photons).astype(np.float32)
    luma = _levels((levels * LUMA).sum(axis=2, keepdims=True))
    noise = generator.poisson(luma * photons) / photons - luma
    return (levels + noise).astype(np.float32)


def level_poisson_noise(
    picture: Pixels, scale: float, generator: np.random.Generator, *, grey: bool = False
) -> Pixels:
    """Real-ESRGAN's Poisson noise: ``x + scale n``, float32, not clipped.

    ``n = Poisson(y V) / V - y`` with y the picture's 8-bit levels and V the number of different levels in it, rounded
    up to a power of two (Wang et al., Real-ESRGAN, 2021; BasicSR's ``random_add_poisson_noise``).

    Args:
        picture: float32 ``H x W x C``.
        scale: strength.
        generator: where the numbers come from.
        grey: n is made of the luma (of RGB pictures; a grey picture is its own) and added to all channels alike.
    """
    of = (picture @ LUMA)[:, :, None] if grey and picture.shape[2] == 3 else picture
    levels = np.rint(np.clip(of, 0, 1) * np.float32(255)).astype(np.uint8)
    different = int(np.count_nonzero(np.bincount(levels.ravel(), minlength=256)))
    white = 1 << (different - 1).bit_length()
    counts = generator.poisson((np.arange(256) * (white / 255))[levels])
    noise = counts.astype(np.float32) / np.float32(white) - levels.astype(np.float32) / np.float32(255)
    return picture + noise * np.float32(scale)


def _levels(picture: Pixels) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.rint(np.clip(picture.astype(np.float64), 0, 1) * 255) / 255
