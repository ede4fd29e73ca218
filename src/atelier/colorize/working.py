"""The size at which colours are found, and the way back: chroma enlarged and joined with the full-size lightness.

Motion, matching and fusion see a frame whose shorter side is at most ``short_side``, aspect kept, mirrored on the right
and below up to multiples of 32. Lightness never takes that way: the result holds that of the source, pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.errors import UserError
from atelier.images.lab import LabScale, lab_to_rgb, rgb_to_lab
from atelier.images.tensors import from_tensor, to_tensor

#: Sides of working pictures are multiples of this (the Swin transformer needs it).
MULTIPLE = 32
ChromaUpsample = Literal["bilinear", "guided"]
# The guided filter's window (working pixels each way) and regulariser (unit lightness, squared): a step of lightness
# of about 0.03, 1.5 of L's 100, is the least that chroma follows.
_RADIUS, _EPSILON = 4, 1e-3
# A component so far outside [0, 1] is not rounded to the same 8-bit value as the nearest one inside.
_HALF_LEVEL = 0.5 / 255


@dataclass(frozen=True)
class WorkingSize:
    """Sizes (height, width) of a film's frames on their way: as they are, made smaller, mirrored to multiples."""

    full: tuple[int, int]
    content: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int, short_side: int) -> WorkingSize:
        """Frames of ``width`` x ``height`` whose shorter side becomes ``short_side``; smaller ones are not enlarged.

        Raises:
            UserError: ``short_side`` is no positive multiple of 32.
        """
        if short_side < MULTIPLE or short_side % MULTIPLE:
            raise UserError(f"--short-side must be a multiple of {MULTIPLE}, such as 256, not {short_side}")
        factor = min(1.0, short_side / min(height, width))
        content = max(1, round(height * factor)), max(1, round(width * factor))
        padded = content[0] + -content[0] % MULTIPLE, content[1] + -content[1] % MULTIPLE
        return cls((height, width), content, padded)

    @property
    def positions(self) -> int:
        """Places of a frame that are compared with the references."""
        return self.padded[0] * self.padded[1] // 16

    def shrink(self, planes: Tensor) -> Tensor:
        """``[B, C, H, W]`` of full size to ``padded``: made smaller with antialiasing, then mirrored."""
        return self.pad(resized(planes, self.content))

    def pad(self, planes: Tensor) -> Tensor:
        """``[B, C, h, w]`` of ``content`` to ``padded``, mirrored about the last row and column."""
        rows = _mirror(self.content[0], self.padded[0]).to(planes.device)
        columns = _mirror(self.content[1], self.padded[1]).to(planes.device)
        return planes.index_select(-2, rows).index_select(-1, columns)

    def crop(self, planes: Tensor) -> Tensor:
        """``[B, C, H, W]`` of ``padded`` to ``content``."""
        return planes[..., : self.content[0], : self.content[1]]


def resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, C, H, W]`` at ``size``, bilinear (align_corners=False), with antialiasing where it shrinks."""
    if tuple(planes.shape[-2:]) == size:
        return planes
    return F.interpolate(planes.float(), size=size, mode="bilinear", align_corners=False, antialias=True)


@lru_cache(maxsize=16)
def _mirror(length: int, padded: int) -> Tensor:
    """Indices 0, 1, ..., length - 1, length - 2, ..., 0, 1, ... of ``padded`` entries."""
    period = max(2 * length - 2, 1)
    place = torch.arange(padded) % period
    return torch.minimum(place, period - place) if length > 1 else torch.zeros_like(place)


@lru_cache(maxsize=2)
def _grey_table(levels: int) -> npt.NDArray[np.float32]:
    """Unit lightness of the grey values 0 ... levels - 1."""
    grey = torch.linspace(0, 1, levels, dtype=torch.float64).expand(3, 1, levels)
    table: npt.NDArray[np.float32] = (rgb_to_lab(grey)[0, 0] / 50 - 1).float().numpy()
    return table


def lightness(pixels: npt.NDArray[Any]) -> Tensor:
    """Unit lightness ``[1, 1, H, W]`` float32 of a picture ``H×W×3`` (uint8, uint16 or float32 in [0, 1]).

    Of a tinted picture only this is ever used.
    """
    first = pixels[..., 0]
    if pixels.dtype != np.float32 and not (
        (first != pixels[..., 1]).any() or (first != pixels[..., 2]).any()
    ):
        # A film without colour is nearly always meant: a table instead of powers for every pixel.
        levels = int(np.iinfo(pixels.dtype).max) + 1
        return torch.from_numpy(_grey_table(levels)[first])[None, None]
    return LabScale.UNIT.normalise(rgb_to_lab(to_tensor(pixels)))[None, :1]


def enlarge(ab: Tensor, size: WorkingSize, whole: Tensor, work: Tensor, how: ChromaUpsample) -> Tensor:
    """Chroma at full size.

    Args:
        ab: ``[1, 2, h, w]`` of ``size.padded``, unit scale.
        whole: unit lightness ``[1, 1, H, W]`` of full size.
        work: the same of ``size.padded``.
        how: "bilinear"; or "guided", which follows the edges of lightness: a guided filter (He, Sun and Tang, PAMI
            2013) whose coefficients are found at working size (He and Sun, arXiv 1505.00996) and applied at full size.

    Returns:
        ``[1, 2, H, W]`` float32 in [-1, 1].
    """
    if how == "guided":
        guide = size.crop(work).float()
        chroma = size.crop(ab).float()
        mean_guide, mean_chroma = _box(guide), _box(chroma)
        slope = (_box(guide * chroma) - mean_guide * mean_chroma) / (
            _box(guide * guide) - mean_guide * mean_guide + _EPSILON
        )
        offset = _box(mean_chroma - slope * mean_guide)
        slope = _box(slope)
        return (resized(slope, size.full) * whole + resized(offset, size.full)).clamp(-1, 1)
    return resized(size.crop(ab).float(), size.full).clamp(-1, 1)


def _box(planes: Tensor) -> Tensor:
    """Mean of the window around each pixel, as much of it as lies inside."""
    side = 2 * _RADIUS + 1
    return F.avg_pool2d(planes, side, stride=1, padding=_RADIUS, count_include_pad=False)


def join(whole: Tensor, ab: Tensor, dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], int]:
    """The coloured picture.

    Args:
        whole: unit lightness ``[1, 1, H, W]``.
        ab: unit chroma ``[1, 2, H, W]``.
        dtype: ``uint8`` or ``uint16``; values are rounded.

    Returns:
        (pixels ``H×W×3``, how many of them lie outside sRGB and were clipped).
    """
    rgb = lab_to_rgb(LabScale.UNIT.restore(torch.cat([whole, ab], dim=1)), clip=False)
    outside = ((rgb < -_HALF_LEVEL) | (rgb > 1 + _HALF_LEVEL)).any(dim=1)
    return from_tensor(rgb, dtype), int(outside.sum())
