"""JPEG through OpenCV's encoder (libjpeg), there and back."""

from __future__ import annotations

import numpy as np

from atelier.degrade.base import Pixels, to_uint8
from atelier.errors import UserError


def jpeg_round_trip(pixels: Pixels, quality: int) -> Pixels:
    """Encode and decode a picture.

    Args:
        pixels: ``H x W x C``, C = 1 (grey) or 3 (RGB); anything but uint8 is clipped and rounded first.
        quality: libjpeg's quality, 1 to 100. Colour is stored with halved chroma (4:2:0), OpenCV's default.

    Returns:
        uint8 ``H x W x C``.

    Raises:
        UserError: for other channel counts, and for sides above 65500, which the format cannot hold.
    """
    import cv2

    height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise UserError(f"JPEG holds grey or RGB pictures, not {channels} channels")
    if max(height, width) > 65500:
        raise UserError(f"JPEG holds pictures of at most 65500 pixels a side, not {height}x{width}")
    levels = to_uint8(pixels)
    setting = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if channels == 1:
        _, code = cv2.imencode(".jpg", levels[:, :, 0], setting)
        decoded: Pixels = np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))[:, :, None]
        return decoded
    _, code = cv2.imencode(".jpg", cv2.cvtColor(levels, cv2.COLOR_RGB2BGR), setting)
    return cv2.cvtColor(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
