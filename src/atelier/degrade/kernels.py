"""Blur kernels from their closed forms, and the blur."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from atelier.degrade.base import Pixels

Kernel = np.ndarray[Any, np.dtype[np.float64]]
Shape = Literal["gaussian", "generalized", "plateau"]

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
    u = _distance(size, variances, theta, centre)
    kernel: Kernel = np.exp((u.min() - u) / 2)  # relative to the largest, which therefore never underflows
    kernel /= kernel.sum()
    return kernel


def shaped_kernel(
    size: int, variances: tuple[float, float], theta: float = 0.0, *, shape: Shape, beta: float = 1.0
) -> Kernel:
    """A bell of one of three shapes over ``u = p^T covariance^-1 p``; sums to one.

    ``gaussian`` exp(-u/2), ``generalized`` exp(-u^beta/2), ``plateau`` 1/(1 + u^beta) (Liu et al., "Estimating
    generalized Gaussian blur kernels", 2020; Wang et al., Real-ESRGAN, 2021).

    Args:
        size: side in pixels, odd.
        variances, theta: see :func:`covariance`.
        shape: see above.
        beta: exponent; no part of ``gaussian``.
    """
    if shape == "gaussian":
        return gaussian_kernel(size, variances, theta)
    u = _distance(size, variances, theta)
    kernel: Kernel = np.exp(u**beta / -2) if shape == "generalized" else 1 / (1 + u**beta)
    kernel /= kernel.sum()
    return kernel


def sinc_kernel(size: int, cutoff: float) -> Kernel:
    """The ideal circular low pass, cut off to a square: ``w J1(w r) / (2 pi r)``, ``w^2 / (4 pi)`` at 0; sums to one.

    Args:
        size: side in pixels, odd.
        cutoff: w, the highest frequency let through, in radians per pixel; up to pi.
    """
    _check_odd(size)
    axis = np.arange(size) - size // 2
    squares, places = np.unique(axis[:, None] ** 2 + axis[None, :] ** 2, return_inverse=True)
    radius = np.sqrt(squares[1:].astype(np.float64))
    values = np.concatenate(
        [[cutoff**2 / (4 * math.pi)], cutoff * bessel_j1(cutoff * radius) / (2 * math.pi * radius)]
    )
    kernel: Kernel = values[places].reshape(size, size)
    kernel /= kernel.sum()
    return kernel


def bessel_j1(x: Kernel) -> Kernel:
    """The Bessel function J1 by Bessel's integral, the mean of ``cos(t - x sin t)`` over a period of t.

    The trapezoidal rule with n points is off by J_(n-1)(x) and beyond, less than 1e-15 for the n chosen here.
    """
    count = int(1.5 * float(np.abs(x).max(initial=0))) + 50
    t = np.arange(count) * (2 * math.pi / count)
    values: Kernel = np.cos(t - np.multiply.outer(x, np.sin(t))).mean(axis=-1)
    return values


def _distance(
    size: int, variances: tuple[float, float], theta: float, centre: tuple[float, float] = (0.0, 0.0)
) -> Kernel:
    """u, the squared Mahalanobis distance of every grid point from ``centre``."""
    _check_odd(size)
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis - centre[0], axis - centre[1])
    inverse = np.linalg.inv(covariance(variances, theta))
    u: Kernel = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
    return u


def _check_odd(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a kernel's size must be odd, not {size}")


def blur(picture: Pixels, kernel: Kernel) -> Pixels:
    """Correlation of every channel with ``kernel``; the border is mirrored without repeating the edge.

    Args:
        picture: float32 ``H x W x C``.
        kernel: its middle lies on the pixel. Symmetric kernels correlate as they convolve.
    """
    import cv2

    blurred = cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(picture.shape)  # OpenCV drops a single channel's axis


def blur_separably(picture: Pixels, variance: float, size: int) -> Pixels:
    """:func:`blur` with the isotropic Gaussian of ``variance`` as two passes of one dimension.

    ``exp(-(x^2 + y^2) / 2 v)`` is a product, so the result is that of the square kernel but for rounding.
    """
    import cv2

    taps = gaussian_kernel(size, (variance, variance))[size // 2]
    taps = taps / taps.sum()
    blurred = cv2.sepFilter2D(picture, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(picture.shape)
