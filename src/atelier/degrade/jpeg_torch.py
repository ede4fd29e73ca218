"""JPEG's loss as batched tensor arithmetic, on any device and with a gradient if wanted; there is no code stream.

``libjpeg``: what the library does, in float32: ITU-T T.81 Annex K tables with whole entries, samples rounded to
levels, borders repeated to whole blocks, chroma halved by 2x2 means and restored with the library's triangle filter.

``reference``: the arithmetic of Real-ESRGAN's program: both tables transposed, entries neither rounded nor limited,
samples not rounded, black instead of repeated borders, and chroma repeated. For those who must repeat its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Arithmetic = Literal["libjpeg", "reference"]

_LUMA = """16 11 10 16 24 40 51 61   12 12 14 19 26 58 60 55   14 13 16 24 40 57 69 56   14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77   24 35 55 64 81 104 113 92   49 64 78 87 103 121 120 101   72 92 95 98 112 100 103 99"""
_CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))


def jpeg_round_trip_torch(
    pictures: Tensor,
    quality: Tensor,
    *,
    arithmetic: Arithmetic = "libjpeg",
    differentiable: bool = False,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Encode and decode with 4:2:0 colour.

    Args:
        pictures: ``N x C x H x W`` float32, C = 1 (grey) or 3 (RGB); clamped to [0, 1] first.
        quality: N real qualities in (0, 100]; ``libjpeg`` rounds them half up, as the workers' encoder does.
        arithmetic: see the module.
        differentiable: rounding ``round(x) + (x - round(x))^3`` (Shin and Song, "JPEG-resistant adversarial images",
            2017), whose gradient is not zero.
        sizes: ``(h, w)`` of pictures that lie on a larger canvas, whole blocks and carried on over theirs as
            :func:`whole_blocks` does; None: each fills ``pictures``.

    Returns:
        Of the shape of ``pictures``, in [0, 1]; whole 8-bit levels with ``libjpeg`` unless differentiable, when samples
        are not rounded at all (the gradient would be zero at whole levels).
    """
    _, channels, height, width = pictures.shape
    exact = arithmetic == "libjpeg"
    whole = exact and not differentiable  # samples, not only coefficients, are rounded
    rounding = _soft_round if differentiable else torch.round
    levels = pictures.clamp(0, 1) * 255
    if whole:
        levels = torch.round(levels)
    levels = whole_blocks(levels, arithmetic)
    percent = _percent(quality.to(levels.device), exact)
    luma, chroma = _tables(levels.device)
    if not exact:
        luma, chroma = luma.T, chroma.T
    if channels == 1:
        result = _quantise(levels, _entries(luma, percent, exact), rounding)
    else:
        planes = _to_ycc(levels)
        if whole:
            planes = torch.round(planes)
        y, small = planes[:, :1], F.avg_pool2d(planes[:, 1:], 2)
        if whole:
            small = _floor(small, 1 / 4, 2 / 4)
        y = _quantise(y, _entries(luma, percent, exact), rounding)
        small = _quantise(small, _entries(chroma, percent, exact), rounding)
        if whole:
            y, small = torch.round(y.clamp(0, 255)), torch.round(small.clamp(0, 255))
        if exact:
            for k, size in enumerate(sizes or ()):
                _repeat_edge(small[k], size)
            large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
            # The library's triangle filter: 3/4 of the nearer and 1/4 of the farther sample each way.
            large = _floor(large, 8 / 16, 7 / 16) if whole else large
        else:
            large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        result = _to_rgb(y, large)
    if whole:
        result = torch.round(result)
    return result[:, :, :height, :width].clamp(0, 255) / 255


def whole_blocks(pictures: Tensor, arithmetic: Arithmetic = "libjpeg") -> Tensor:
    """``N x C x H x W`` carried on at the right and below to a multiple of 16 (grey: 8), with its edge or black."""
    height, width = pictures.shape[2:]
    unit = 8 if pictures.shape[1] == 1 else 16
    border = (0, -width % unit, 0, -height % unit)
    if not any(border):
        return pictures
    return F.pad(pictures, border, mode="replicate") if arithmetic == "libjpeg" else F.pad(pictures, border)


def _repeat_edge(chroma: Tensor, size: tuple[int, int]) -> None:
    """Let the triangle filter see, beside the last row and column of a picture on a canvas, those again.

    A side that is no multiple of 16 needs none: its last sample is restored from within its block, or cut off.
    """
    height, width = (side // 2 for side in size)
    if size[0] % 16 == 0 and height < chroma.shape[1]:
        chroma[:, height] = chroma[:, height - 1]
    if size[1] % 16 == 0 and width < chroma.shape[2]:
        chroma[:, :, width] = chroma[:, :, width - 1]


def _soft_round(x: Tensor) -> Tensor:
    nearest = torch.round(x).detach()
    return nearest + (x - nearest) ** 3


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Annex K's tables, rows by vertical frequency; kept there, for a copy would wait for the device."""
    luma = torch.tensor([float(entry) for entry in _LUMA.split()]).view(8, 8)
    chroma = torch.full((8, 8), 99.0)
    chroma[:4, :4] = torch.tensor(_CHROMA_CORNER, dtype=torch.float32)
    return luma.to(device), chroma.to(device)


def _percent(quality: Tensor, exact: bool) -> Tensor:
    """Percent by which the tables are scaled, N x 1 x 1 (libjpeg's rule)."""
    q = torch.floor(quality.to(torch.float32) + 0.5) if exact else quality.to(torch.float32)
    percent = torch.where(q < 50, 5000 / q, 200 - 2 * q)
    if exact:
        percent = torch.floor(percent)
    return percent.view(-1, 1, 1)


def _entries(table: Tensor, percent: Tensor, exact: bool) -> Tensor:
    """N x 8 x 8 quantiser steps."""
    if exact:
        return torch.floor((table * percent + 50) / 100).clamp(1, 255)
    return table * percent / 100


@lru_cache(maxsize=4)
def _dct(device: torch.device) -> Tensor:
    """The orthonormal DCT-II of eight samples, as a matrix."""
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(device=device, dtype=torch.float32)


def _quantise(planes: Tensor, entries: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """``N x C x H x W`` planes of levels through the transform, the quantiser and back."""
    count, channels, height, width = planes.shape
    d = _dct(planes.device)
    blocks = (planes - 128).reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    spread = entries.view(count, 1, 1, 1, 8, 8)
    spectrum = rounding(d @ blocks @ d.T / spread) * spread
    back: Tensor = d.T @ spectrum @ d
    return back.transpose(3, 4).reshape(planes.shape) + 128


def _floor(planes: Tensor, even: float, odd: float) -> Tensor:
    """Rounded down after adding ``even`` or ``odd`` by column, as libjpeg does to favour neither way."""
    column = torch.arange(planes.shape[-1], device=planes.device)
    return torch.floor(planes + torch.where(column % 2 == 0, even, odd))


def _to_ycc(rgb: Tensor) -> Tensor:
    """JFIF's full-range YCbCr, 0..255."""
    r, g, b = rgb[:, :1], rgb[:, 1:2], rgb[:, 2:]
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb = -0.168736 * r - 0.331264 * g + 0.5 * b + 128
    cr = 0.5 * r - 0.418688 * g - 0.081312 * b + 128
    return torch.cat([y, cb, cr], dim=1)


def _to_rgb(y: Tensor, chroma: Tensor) -> Tensor:
    cb, cr = chroma[:, :1] - 128, chroma[:, 1:] - 128
    return torch.cat([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], dim=1)
