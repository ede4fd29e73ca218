"""CIE LAB of sRGB pictures (D65, 2 degrees) as tensors, and the scales in which networks see it.

The constants are those of IEC 61966-2-1 and CIE 15 in the rounding that ``skimage.color.rgb2lab`` uses; the two
agree within 1e-4. Sums are written out per channel and every power takes an argument that is kept away from 0, so
neither mixed precision nor a black pixel spoils values or gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
# Linear RGB straight to XYZ over white, and back.
_TO_RELATIVE: list[list[float]] = (_TO_XYZ / _WHITE[:, None]).tolist()
_FROM_RELATIVE: list[list[float]] = (np.linalg.inv(_TO_XYZ) * _WHITE[None, :]).tolist()
# Where the curves change from a line to a power (sRGB encoded, sRGB linear, t and f(t) of CIE LAB).
_ENCODED, _LINEAR, _T, _F = 0.04045, 0.0031308, 0.008856, 0.2068966


@dataclass(frozen=True)
class LabScale:
    """The scale of LAB values inside a network: ``(L - lightness_offset) / lightness_scale``, ``ab / chroma_scale``."""

    lightness_offset: float
    lightness_scale: float
    chroma_scale: float

    UNIT: ClassVar[LabScale]
    CENTRED: ClassVar[LabScale]

    def _factors(self, lab: Tensor) -> tuple[Tensor, Tensor]:
        _three_channels(lab, "LAB")
        scale = lab.new_tensor([self.lightness_scale, self.chroma_scale, self.chroma_scale])
        offset = lab.new_tensor([self.lightness_offset, 0.0, 0.0])
        return scale[:, None, None], offset[:, None, None]

    def normalise(self, lab: Tensor) -> Tensor:
        """``[..., 3, H, W]`` in Lab units (L in 0...100) to this scale."""
        scale, offset = self._factors(lab)
        return (lab - offset) / scale

    def restore(self, lab_n: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`."""
        scale, offset = self._factors(lab_n)
        return lab_n * scale + offset


LabScale.UNIT = LabScale(50.0, 50.0, 127.0)
LabScale.CENTRED = LabScale(50.0, 1.0, 1.0)


def _three_channels(image: Tensor, what: str) -> None:
    if image.ndim < 3 or image.shape[-3] != 3 or not image.is_floating_point():
        raise TypeError(
            f"{what} must be floats [..., 3, H, W], not shape {tuple(image.shape)} of {image.dtype}"
        )


def _mix(planes: tuple[Tensor, ...], rows: list[list[float]]) -> list[Tensor]:
    first, second, third = planes
    return [first * row[0] + second * row[1] + third * row[2] for row in rows]


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB ``[..., 3, H, W]`` in [0, 1] to LAB in Lab units: L in 0...100, a and b within about ±110.

    float32 whatever comes in (float64 stays float64), differentiable, with finite gradients at black.

    Raises:
        TypeError: no floats, or another number of channels.
    """
    _three_channels(rgb, "a picture")
    wide = rgb if rgb.dtype == torch.float64 else rgb.float()
    power = ((wide.clamp(min=_ENCODED) + 0.055) / 1.055) ** 2.4
    linear = torch.where(wide > _ENCODED, power, wide / 12.92)
    x, y, z = (
        torch.where(t > _T, t.clamp(min=_T) ** (1 / 3), 7.787 * t + 16 / 116)
        for t in _mix(linear.unbind(-3), _TO_RELATIVE)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lab_to_rgb(lab: Tensor, *, clip: bool = True) -> Tensor:
    """LAB ``[..., 3, H, W]`` in Lab units to sRGB, clipped to [0, 1]; types and errors as :func:`rgb_to_lab`.

    Colours outside sRGB lose what the clip takes (without ``clip`` they show as values outside [0, 1]); a negative
    third value of the curve counts as 0 (skimage).
    """
    _three_channels(lab, "LAB")
    wide = lab if lab.dtype == torch.float64 else lab.float()
    lightness, a, b = wide.unbind(-3)
    y = (lightness + 16) / 116
    curves = (a / 500 + y, y, (y - b / 200).clamp(min=0))
    relative = tuple(torch.where(f > _F, f**3, (f - 16 / 116) / 7.787) for f in curves)
    linear = torch.stack(_mix(relative, _FROM_RELATIVE), dim=-3)
    power = 1.055 * linear.clamp(min=_LINEAR) ** (1 / 2.4) - 0.055
    rgb = torch.where(linear > _LINEAR, power, 12.92 * linear)
    return rgb.clamp(0, 1) if clip else rgb


def grey_rgb(lightness: Tensor) -> Tensor:
    """The grey sRGB picture ``[..., 3, H, W]`` in [0, 1] of a unit-scaled lightness ``[..., 1, H, W]`` (ab = 0)."""
    if lightness.ndim < 3 or lightness.shape[-3] != 1:
        raise TypeError(f"lightness must be [..., 1, H, W], not shape {tuple(lightness.shape)}")
    zero = torch.zeros_like(lightness)
    return lab_to_rgb(LabScale.UNIT.restore(torch.cat([lightness, zero, zero], dim=-3)))
