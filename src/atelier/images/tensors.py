"""Between pictures (numpy ``H×W×C``) and network tensors (torch, float32 in [0, 1])."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from atelier.errors import UserError

if TYPE_CHECKING:
    import torch


def to_tensor(pixels: npt.NDArray[Any]) -> torch.Tensor:
    """A picture as a new contiguous ``C×H×W`` float32 tensor: uint8 / 255, uint16 / 65535, float32 unchanged.

    Raises:
        TypeError: for another type or number of dimensions.
    """
    import torch

    if pixels.ndim != 3 or str(pixels.dtype) not in ("uint8", "uint16", "float32"):
        raise TypeError(
            f"a picture is H×W×C of uint8, uint16 or float32, not shape {pixels.shape} of {pixels.dtype}"
        )
    planes = pixels.transpose(2, 0, 1)
    tensor = torch.from_numpy(np.array(planes, dtype=np.float32, order="C"))
    return tensor if pixels.dtype == np.float32 else tensor.div_(float(np.iinfo(pixels.dtype).max))


def from_tensor(tensor: torch.Tensor, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    """A tensor as a picture ``H×W×C``, clamped to [0, 1]; integers are rounded half to even.

    Args:
        tensor: ``C×H×W`` or ``1×C×H×W``, floating, on any device; it is not changed.
        dtype: ``uint8``, ``uint16`` or ``float32``.

    Raises:
        UserError: where the tensor holds NaN or infinity, which no picture can (a network that overflowed).
        TypeError: for another shape or type.
    """
    import torch

    kind = np.dtype(dtype)
    if str(kind) not in ("uint8", "uint16", "float32"):
        raise TypeError(f"a picture is of uint8, uint16 or float32, not {kind}")
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or not tensor.is_floating_point():
        raise TypeError(f"one floating C×H×W tensor is needed, not {tuple(tensor.shape)} of {tensor.dtype}")
    values = tensor.detach()
    if not bool(torch.isfinite(values).all()):
        raise UserError(
            "the network's output holds NaN or infinite values and cannot become a picture; "
            "use a wider number format (fp32 instead of fp16), or check the weights"
        )
    values = values.float().clamp(0, 1).permute(1, 2, 0)
    if kind == np.float32:
        return np.ascontiguousarray(values.cpu().numpy())
    # Rounded where the tensor lives; 16 bits travel as int32 because torch's uint16 knows few operations.
    values = values.mul_(float(np.iinfo(kind).max)).round_()
    whole = values.to(torch.uint8 if kind == np.uint8 else torch.int32).contiguous().cpu().numpy()
    return whole.astype(kind, copy=False)
