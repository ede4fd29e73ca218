"""Reference pictures at the edge of the package: PIL images and RGB tensors become unit LAB."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.errors import UserError
from atelier.images.lab import LabScale, rgb_to_lab
from atelier.images.tensors import to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def reference_rgb(picture: Image | Tensor) -> Tensor:
    """A picture as sRGB floats ``[1 or B, 3, h, w]`` in [0, 1].

    Args:
        picture: a PIL image of any mode, or an RGB tensor ``[3, h, w]`` or ``[B, 3, h, w]`` in [0, 1].

    Raises:
        UserError: neither, or values outside [0, 1] (LAB belongs into ``references=``).
    """
    if not isinstance(picture, Tensor):
        if not hasattr(picture, "convert"):
            raise UserError(f"a reference is a PIL image or a tensor, not {type(picture).__name__}")
        return to_tensor(np.asarray(picture.convert("RGB")))[None]
    rgb = picture[None] if picture.ndim == 3 else picture
    if rgb.ndim != 4 or rgb.shape[1] != 3 or not rgb.is_floating_point():
        raise UserError(
            f"a reference tensor must be RGB floats [3, h, w] or [B, 3, h, w], not {tuple(picture.shape)} of "
            f"{picture.dtype}"
        )
    low, high = float(rgb.min()), float(rgb.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"a reference tensor must be RGB in [0, 1], its values go from {low:g} to {high:g}; give LAB as "
            "references=References(...)"
        )
    return rgb


def reference_lab(rgb: Tensor, shorter: int) -> Tensor:
    """Unit LAB of an sRGB picture ``[B, 3, h, w]``, made smaller where its shorter side is longer than ``shorter``.

    A larger picture than the frame adds no colours, only positions to compare with.
    """
    height, width = rgb.shape[-2:]
    factor = shorter / min(height, width)
    if factor < 1:
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        rgb = F.interpolate(rgb.float(), size=size, mode="bilinear", antialias=True).clamp(0, 1)
    return LabScale.UNIT.normalise(rgb_to_lab(rgb))


def fingerprint(rgb: Tensor) -> Any:
    """Equal for equal pictures."""
    values = rgb.detach().to("cpu", torch.float32).contiguous().numpy()
    return values.shape, hashlib.sha256(values.tobytes()).digest()
