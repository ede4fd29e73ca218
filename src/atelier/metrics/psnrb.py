"""PSNR-B: PSNR that counts visible block edges as an error of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from atelier.metrics.options import MetricOptions

if TYPE_CHECKING:
    import numpy.typing as npt

    from atelier.metrics.prepare import Planes

_BLOCK = 8
#: Two blocks a side: one edge between them.
_LEAST = 2 * _BLOCK


def psnrb(
    restored: npt.NDArray[Any], gt: npt.NDArray[Any], *, crop_border: int = 0, y: bool = False
) -> float:
    """10 log10(peak² / (MSE + BEF)) in dB (Yim & Bovik, IEEE TIP 20(1), 2011), mean over the channels.

    BEF, the blocking effect factor of ``restored`` alone, is ``log2(8) / log2(min(H, W)) · (D_b - D_n)`` where D_b, the
    mean squared step between neighbouring pixels on either side of an edge of 8×8 blocks, exceeds D_n, the same inside
    of blocks; else 0. The edges are counted as ``H (⌊W/8⌋ - 1) + W (⌊H/8⌋ - 1)``, also where a side is no multiple of 8
    and has one edge more: the published numbers of the field are computed so.

    Args:
        restored: picture ``H×W×C``, C = 1 or 3: uint8 (peak 255), uint16 (65535) or floats in [0, 1] (1).
        gt: the clean picture, of the same shape and type. The order matters.
        crop_border: pixels cut off every side first; the blocks are counted from the new corner.
        y: measure the luma of BT.601 (studio range, not rounded) of RGB pictures; grey ones are taken as they are.

    Raises:
        UserError: where the pictures differ in shape or type, have alpha, or less than 16×16 is left after the cut.
    """
    from atelier.metrics.prepare import comparable

    first, second, peak = comparable(restored, gt, crop_border=crop_border, y=y, least=_LEAST)
    total = 0.0
    for k in range(first.shape[2]):
        plane, difference = first[:, :, k], first[:, :, k] - second[:, :, k]
        error = float((difference * difference).mean()) + _blocking(plane)
        total += math.inf if error == 0 else 10 * math.log10(peak * peak / error)
    channels: int = first.shape[2]
    return total / channels


def _blocking(plane: Planes) -> float:
    """The blocking effect factor of one plane ``H×W``, in its own squared units."""
    height, width = plane.shape
    at_edges = everywhere = 0.0
    for rows in (plane, plane.T):
        steps = rows[:, 1:] - rows[:, :-1]
        steps *= steps
        everywhere += float(steps.sum())
        at_edges += float(steps[:, _BLOCK - 1 :: _BLOCK].sum())
    edges = height * (width // _BLOCK - 1) + width * (height // _BLOCK - 1)
    others = height * (width - 1) + width * (height - 1) - edges
    excess = at_edges / edges - (everywhere - at_edges) / others
    return math.log2(_BLOCK) / math.log2(min(height, width)) * excess if excess > 0 else 0.0


class PSNRBOptions(MetricOptions):
    """PSNR-B in dB for JPEG artefact removal, mean over channels."""

    type: Literal["calculate_psnrb", "psnrb"] = "calculate_psnrb"
    crop_border: int | None = Field(
        0, ge=0, description="pixels cut off every side; a multiple of 8, so that JPEG's blocks stay blocks"
    )
    label: ClassVar[str] = "PSNR-B"
    smallest: ClassVar[int] = _LEAST

    @field_validator("crop_border")
    @classmethod
    def _whole_blocks(cls, value: int | None) -> int | None:
        if value is None or value % _BLOCK:
            raise ValueError("crop_border must be a multiple of 8, so that JPEG's blocks stay where they are")
        return value

    def function(self) -> Callable[..., float]:
        """:func:`psnrb`."""
        return psnrb
