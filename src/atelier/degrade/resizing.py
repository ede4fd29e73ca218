"""Resizing with the interpolations of random degradation pipelines, without antialiasing.

:func:`resize` is OpenCV's, which BSRGAN's program uses; :func:`interpolate` is torch's ``interpolate``, which
Real-ESRGAN's uses. They differ in ``area`` and in where the samples of an odd factor lie.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from atelier.degrade.base import Pixels

Mode = Literal["bilinear", "bicubic", "area"]
MODES: tuple[Mode, ...] = get_args(Mode)


def resize(picture: Pixels, size: tuple[int, int], mode: Mode) -> Pixels:
    """A float32 picture ``H x W x C`` at ``size = (h, w)``; ``bicubic`` may overshoot, nothing is clipped."""
    import cv2

    height, width = size
    if (height, width) == picture.shape[:2]:
        return picture
    flag = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}[mode]
    resized = cv2.resize(picture, (width, height), interpolation=flag)
    return resized.reshape(height, width, picture.shape[2])


def interpolate(picture: Pixels, size: tuple[int, int], mode: Mode, factor: float | None = None) -> Pixels:
    """A float32 picture ``H x W x C`` at ``size = (h, w)``, as ``torch.nn.functional.interpolate`` makes it.

    Args:
        picture: not changed.
        size: of the result.
        mode: ``bilinear`` and ``bicubic`` (a = -0.75, may overshoot) sample without antialiasing, corners not aligned;
            ``area`` is the plain mean of all pixels that touch a result pixel's bin.
        factor: result pixel i lies at ``(i + 0.5) / factor - 0.5``; None: the ratio of the sizes. ``size`` must be
            ``floor(side * factor)``, at least 1. No part of ``area``.
    """
    import cv2

    height, width = size
    if size == picture.shape[:2] and factor in (None, 1):
        return picture
    if mode == "area":
        return _bin_means(picture, size)
    flag = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[mode]
    if factor is None:
        resized = cv2.resize(picture, (width, height), interpolation=flag)
    else:
        # OpenCV rounds the size where torch cuts it; the places of the samples do not depend on it.
        resized = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=flag)[:height, :width]
    return resized.reshape(height, width, picture.shape[2])


def _bin_means(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """Means over bins from ``floor(i H / h)`` up to ``ceil((i + 1) H / h)``, by differences of running sums."""
    import cv2

    height, width = size
    (top, bottom), (left, right) = (_bins(old, new) for old, new in zip(picture.shape[:2], size, strict=True))
    sums = cv2.integral(picture, sdepth=cv2.CV_64F).reshape(
        picture.shape[0] + 1, picture.shape[1] + 1, picture.shape[2]
    )
    rows = sums[bottom] - sums[top]
    totals = rows[:, right] - rows[:, left]
    counts = (bottom - top)[:, None] * (right - left)[None, :]
    means: Pixels = (totals / counts[:, :, None]).astype(np.float32)
    return means.reshape(height, width, picture.shape[2])


def _bins(old: int, new: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    index = np.arange(new)
    return index * old // new, -(-(index + 1) * old // new)
