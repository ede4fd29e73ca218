"""What networks that were trained on photographs are shown of a coloured frame."""

from __future__ import annotations

import torch
from torch import Tensor

from atelier.images.lab import LabScale, lab_to_rgb


def lab_picture(lightness: Tensor, ab: Tensor) -> Tensor:
    """The sRGB picture ``[..., 3, H, W]`` in [0, 1] of unit-scaled LAB (L/50 - 1 and ab/127), differentiable.

    Args:
        lightness: ``[..., 1, H, W]``.
        ab: ``[..., 2, H, W]``; colours outside sRGB are clipped and get no gradient from the channel clipped.
    """
    return lab_to_rgb(LabScale.UNIT.restore(torch.cat([lightness, ab], dim=-3)))
