"""Resizing with the interpolations of random degradation pipelines (OpenCV's, without antialiasing)."""

from __future__ import annotations

from typing import Literal, get_args

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
