"""Pictures of one channel count for networks of another: what is done, and what is refused."""

from __future__ import annotations

from typing import Literal

import numpy as np

from atelier.degrade.base import Pixels

Grey = Literal["luma", "y"]
"""How RGB becomes grey: full-range luma, or Y of studio range (16 to 235 of 255)."""

_NAMES = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}


def channel_problem(channels: int, wanted: int, convert: bool) -> str | None:
    """Why a picture cannot feed a network of ``wanted`` channels, or None when it can.

    RGB always feeds a grey network (as luma). Grey feeds an RGB network, and alpha is dropped, only when ``convert``
    says so: both would otherwise silently train on something the user did not look at.
    """
    if channels == wanted or (channels == 3 and wanted == 1):
        return None
    fits = wanted in (1, 3)
    if fits and convert:
        return None
    remedy = "; convert_channels: true accepts it" if fits else ""
    return f"{_NAMES.get(channels, f'{channels} channels')}, but the network takes {wanted} channels{remedy}"


def fit_channels(pixels: Pixels, wanted: int, grey_from: Grey = "luma") -> Pixels:
    """``H x W x C`` with C = ``wanted``: alpha dropped, RGB to grey, grey repeated, in this order; dtype kept.

    ``luma`` is BT.601's full-range ``0.299 R + 0.587 G + 0.114 B``, rounded half up for integers (what picture
    libraries do when they decode to grey). ``y`` is BT.601's Y of studio range, ``(65.481 R + 128.553 G + 24.966 B) /
    255 + 16`` in units of 255, rounded half to even for integers (what JPEG artefact removal is measured on). Which
    of these changes are allowed is decided by :func:`channel_problem`.
    """
    channels = pixels.shape[2]
    if channels == wanted:
        return pixels
    if channels in (2, 4):
        pixels = pixels[:, :, : channels - 1]
    if wanted == 1 and pixels.shape[2] == 3:
        pixels = _luma(pixels) if grey_from == "luma" else _studio_y(pixels)
    elif wanted == 3 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _luma(pixels: Pixels) -> Pixels:
    if pixels.dtype.kind == "f":
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        luma: Pixels = (pixels * weights).sum(axis=2, keepdims=True, dtype=np.float32)
        return luma
    wide = pixels.astype(np.uint32)
    grey: Pixels = (299 * wide[:, :, 0:1] + 587 * wide[:, :, 1:2] + 114 * wide[:, :, 2:3] + 500) // 1000
    return grey.astype(pixels.dtype, copy=False)


def _studio_y(pixels: Pixels) -> Pixels:
    if pixels.dtype.kind == "f":
        from atelier.images import rgb_to_y

        return rgb_to_y(pixels)
    white = np.iinfo(pixels.dtype).max
    wide = pixels.astype(np.int64)
    # Exact thousandths, so that a tie is a tie.
    total = 65481 * wide[:, :, 0:1] + 128553 * wide[:, :, 1:2] + 24966 * wide[:, :, 2:3] + 16000 * white
    return np.rint(total / 255000).astype(pixels.dtype)
