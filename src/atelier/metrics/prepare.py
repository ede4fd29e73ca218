"""Two pictures made ready for a metric: checked, cropped, float64, on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from atelier.errors import UserError

Planes = npt.NDArray[np.float64]


def comparable(
    a: npt.NDArray[Any], b: npt.NDArray[Any], *, crop_border: int, y: bool, least: int
) -> tuple[Planes, Planes, float]:
    """The two pictures as float64 ``H×W×C`` in their own units, and the largest value those units allow.

    Args:
        a: picture ``H×W×C``, C = 1 or 3; uint8 (peak 255), uint16 (65535) or floats in [0, 1] (1).
        b: the other, of the same shape and type.
        crop_border: pixels cut off every side first.
        y: take the luma of RGB pictures (BT.601, studio range, not rounded); grey pictures are luma already.
        least: the smallest height and width, after the cut, that the metric is defined for.

    Raises:
        UserError: where shapes or types differ, there is an alpha channel, or too little is left.
        ValueError: for a negative ``crop_border``.
    """
    if crop_border < 0:
        raise ValueError(f"crop_border must not be negative, not {crop_border}")
    if a.shape != b.shape or a.dtype != b.dtype:
        raise UserError(
            f"pictures to compare must agree in size, channels and type; given {_kind(a)} and {_kind(b)}"
        )
    if a.ndim != 3 or a.shape[2] not in (1, 3):
        raise UserError(f"a metric needs grey or RGB pictures H×W×C without alpha; given {_kind(a)}")
    if a.dtype.kind == "f":
        peak = 1.0
    elif a.dtype in (np.uint8, np.uint16):
        peak = float(np.iinfo(a.dtype).max)
    else:
        raise UserError(f"a metric needs pictures of uint8, uint16 or floats in [0, 1]; given {_kind(a)}")
    height, width = a.shape[0] - 2 * crop_border, a.shape[1] - 2 * crop_border
    if min(height, width) < least:
        raise UserError(
            f"pictures of {a.shape[1]}×{a.shape[0]} are too small for this metric: after cutting {crop_border} "
            f"pixels off every side at least {least}×{least} must be left"
        )
    inside = slice(crop_border, crop_border + height), slice(crop_border, crop_border + width)
    first, second = (_planes(picture[inside], y, peak) for picture in (a, b))
    return first, second, peak


def _planes(picture: npt.NDArray[Any], y: bool, peak: float) -> Planes:
    values = picture.astype(np.float64)
    if y and picture.shape[2] == 3:
        from atelier.images.colour import rgb_to_y

        values = rgb_to_y(values / peak) * peak
    return values


def _kind(picture: npt.NDArray[Any]) -> str:
    return f"{'×'.join(map(str, picture.shape))} {picture.dtype}"
