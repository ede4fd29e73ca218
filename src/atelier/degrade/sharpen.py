"""Unsharp masking as the training pipelines of Real-ESRGAN and BSRGAN use it."""

from __future__ import annotations

import numpy as np

from atelier.degrade.base import Pixels


def usm_sharpen(picture: Pixels, *, weight: float = 0.5, size: int = 51, threshold: float = 10.0) -> Pixels:
    """Sharpen where the picture differs from its blur by more than ``threshold``, with soft borders of that region.

    ``r = x - G*x``; ``soft = G*[255 |r| > threshold]``; result ``soft * clip(x + weight r, 0, 1) + (1 - soft) x``
    (Wang et al., Real-ESRGAN, ICCV Workshops 2021). G is Gaussian with OpenCV's sigma for the size: 0.3 ((size - 1) / 2
    - 1) + 0.8, 8.0 for 51; its border is mirrored without repeating the edge, and it is run as two passes of one
    dimension.

    Args:
        picture: float32 ``H x W x C`` in [0, 1].
        weight: strength.
        size: side of G in pixels, odd.
        threshold: in units of 0..255.

    Returns:
        float32 in [0, 1], a new array.
    """
    residual = picture - _smooth(picture, size)
    mask = (np.abs(residual) * 255 > threshold).astype(np.float32)
    soft = _smooth(mask, size)
    sharp = np.clip(picture + np.float32(weight) * residual, 0, 1)
    mixed: Pixels = soft * sharp + (1 - soft) * picture
    return np.clip(mixed, 0, 1)


def _smooth(picture: Pixels, size: int) -> Pixels:
    import cv2

    smooth = cv2.GaussianBlur(picture, (size, size), 0, borderType=cv2.BORDER_REFLECT_101)
    return smooth.reshape(picture.shape)
