"""RGB, luma and YCbCr of ITU-R BT.601 in studio range, as MATLAB and the field's metrics use them.

All values lie in [0, 1]; white has Y = 235/255, black 16/255, and grey has Cb = Cr = 128/255. Sums are
written out per channel, so neither mixed precision nor reduced-precision matrix products touch them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

T = TypeVar("T", bound="npt.NDArray[Any] | torch.Tensor")

# Rows Y, Cb, Cr over columns R, G, B, in 1/255 (BT.601-7 section 2.5, scaled to 219 and 224 steps).
_FORWARD = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255.0
_OFFSET = np.array([16.0, 128.0, 128.0]) / 255.0
_BACKWARD: npt.NDArray[np.float64] = np.linalg.inv(_FORWARD).astype(np.float64)


def _mix(image: T, matrix: npt.NDArray[np.float64], before: list[float], after: list[float]) -> T:
    """``matrix @ (channels - before) + after`` for each pixel, as a new picture of the same layout."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype.kind != "f":
            raise TypeError(
                "colour conversion takes numpy H×W×3 of floats in [0, 1], "
                f"not shape {image.shape} of {image.dtype}"
            )
        wide = image if image.dtype == np.float64 else image.astype(np.float32, copy=False)
        out = np.empty((*image.shape[:2], len(matrix)), wide.dtype)
        for k, row in enumerate(matrix.tolist()):
            constant = after[k] - sum(a * b for a, b in zip(row, before, strict=True))
            out[:, :, k] = wide[:, :, 0] * row[0] + wide[:, :, 1] * row[1] + wide[:, :, 2] * row[2] + constant
        return cast(T, out)
    import torch

    tensor = cast("torch.Tensor", image)
    if tensor.ndim < 3 or tensor.shape[-3] != 3 or not tensor.is_floating_point():
        raise TypeError(
            "colour conversion takes a floating torch tensor N×3×H×W in [0, 1], "
            f"not shape {tuple(tensor.shape)} of {tensor.dtype}"
        )
    red, green, blue = (tensor if tensor.dtype == torch.float64 else tensor.float()).unbind(-3)
    planes = []
    for k, row in enumerate(matrix.tolist()):
        constant = after[k] - sum(a * b for a, b in zip(row, before, strict=True))
        planes.append(red * row[0] + green * row[1] + blue * row[2] + constant)
    return cast(T, torch.stack(planes, dim=-3))


def rgb_to_y(image: T) -> T:
    """Luma (65.481 R + 128.553 G + 24.966 B + 16) / 255 of BT.601, not rounded.

    Args:
        image: numpy ``H×W×3`` or torch ``N×3×H×W``, floats in [0, 1]; it is not changed.

    Returns:
        One channel in the same layout, float32 (float64 stays float64), in [16/255, 235/255].

    Raises:
        TypeError: for integers (scale them first) or another number of channels.
    """
    return _mix(image, _FORWARD[:1], [0.0] * 3, _OFFSET[:1].tolist())


def rgb_to_ycbcr(image: T) -> T:
    """Y, Cb, Cr of BT.601 studio range; arguments, types and errors as :func:`rgb_to_y`."""
    return _mix(image, _FORWARD, [0.0] * 3, _OFFSET.tolist())


def ycbcr_to_rgb(image: T) -> T:
    """The exact inverse of :func:`rgb_to_ycbcr`; not clipped, so impossible colours leave [0, 1]."""
    return _mix(image, _BACKWARD, _OFFSET.tolist(), [0.0] * 3)
