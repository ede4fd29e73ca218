"""Blur kernels from their closed forms, and the blur."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from atelier.degrade.base import Pixels

Kernel = np.ndarray[Any, np.dtype[np.float64]]

_LEAST_VARIANCE = 1e-4
"""Below this (pixels squared) a Gaussian on the pixel grid is a single one; keeps the inverse finite."""


def covariance(variances: tuple[float, float], theta: float) -> Kernel:
    """``R(theta) diag(variances) R(theta)^T``: the 2x2 covariance over (x, y) of a rotated Gaussian.

    Args:
        variances: along the two axes, in pixels squared; floored at 1e-4.
        theta: angle of the first axis from x towards y (downwards), radians.
    """
    c, s = math.cos(theta), math.sin(theta)
    rotation = np.array([[c, -s], [s, c]])
    spread: Kernel = rotation @ np.diag(np.maximum(variances, _LEAST_VARIANCE)) @ rotation.T
    return spread


def gaussian_kernel(
    size: int, variances: tuple[float, float], theta: float = 0.0, centre: tuple[float, float] = (0.0, 0.0)
) -> Kernel:
    """``exp(-u/2)``, ``u = (p - centre)^T covariance^-1 (p - centre)``, on the pixel grid around 0; sums to one.

    Args:
        size: side in pixels, odd.
        variances, theta: see :func:`covariance`; equal variances give the isotropic kernel.
        centre: ``(x, y)`` of the peak in pixels from the middle.

    Returns:
        float64 ``size x size``, rows are y.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a kernel's size must be odd, not {size}")
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis - centre[0], axis - centre[1])
    inverse = np.linalg.inv(covariance(variances, theta))
    u = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
    kernel: Kernel = np.exp((u.min() - u) / 2)  # relative to the largest, which therefore never underflows
    kernel /= kernel.sum()
    return kernel


def blur(picture: Pixels, kernel: Kernel) -> Pixels:
    """Correlation of every channel with ``kernel``; the border is mirrored without repeating the edge.

    Args:
        picture: float32 ``H x W x C``.
        kernel: its middle lies on the pixel. Symmetric kernels correlate as they convolve.
    """
    import cv2

    blurred = cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(picture.shape)  # OpenCV drops a single channel's axis
