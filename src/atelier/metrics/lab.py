"""Pictures as LAB for the metrics of colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from atelier.errors import UserError
from atelier.metrics.prepare import Planes, comparable


def lab_pair(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> tuple[Planes, Planes]:
    """Two RGB pictures ``H×W×3`` as CIE LAB (D65) in Lab units, float64.

    Raises:
        UserError: they differ in shape or type, or are not RGB.
    """
    first, second, peak = comparable(restored, gt, crop_border=0, y=False, least=1)
    if first.shape[2] != 3:
        raise UserError("colour is measured on RGB pictures; given grey ones")
    return lab_of(first / peak), lab_of(second / peak)


def lab_of(rgb: npt.NDArray[Any]) -> Planes:
    """sRGB ``H×W×3`` of floats in [0, 1] (or uint8) as LAB, float64."""
    import torch

    from atelier.images.lab import rgb_to_lab

    values = rgb / 255 if rgb.dtype == np.uint8 else rgb
    planes = torch.from_numpy(np.ascontiguousarray(values, np.float64)).movedim(-1, -3)
    result: Planes = np.ascontiguousarray(rgb_to_lab(planes).movedim(-3, -1).numpy())
    return result
