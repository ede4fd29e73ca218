"""How far a motion field may be believed, from 0 to 1, the same for every source of flow."""

from __future__ import annotations

import torch
from torch import Tensor

from atelier.images.warp import inside, warp

# A disagreement of this much lowers the confidence to 1/e: pixels of displacement, units of L/50 - 1.
CYCLE_PIXELS = 1.0
PHOTOMETRIC_LIGHTNESS = 0.1


def photometric_confidence(flow_cp: Tensor, lightness_c: Tensor, lightness_p: Tensor) -> Tensor:
    """``exp(-|L_c - warp(L_p, F_cp)| / 0.1)``: do the two frames look alike along the motion?

    Args:
        flow_cp: backward flow ``[B, 2, H, W]`` on the current grid, into the previous frame, in pixels.
        lightness_c: unit lightness of the current frame ``[B, 1, H, W]``.
        lightness_p: the previous frame's.

    Returns:
        ``[B, 1, H, W]`` in [0, 1], float32.
    """
    difference = (lightness_c.float() - warp(lightness_p, flow_cp)).abs()
    return torch.exp(-difference / PHOTOMETRIC_LIGHTNESS)


def cycle_confidence(flow_cp: Tensor, flow_pc: Tensor, lightness_c: Tensor, lightness_p: Tensor) -> Tensor:
    """Agreement of the flow with its opposite, times that of the pictures, times whether the target exists.

    ``exp(-||F_cp + warp(F_pc, F_cp)|| / 1 px) · photometric · [target inside the picture]``. The forward-backward
    check finds pixels that the previous frame does not show: their way there and back does not end where it began.

    Args:
        flow_cp: backward flow ``[B, 2, H, W]`` on the current grid, into the previous frame, in pixels.
        flow_pc: the opposite, on the previous grid.
        lightness_c: unit lightness of the current frame ``[B, 1, H, W]``.
        lightness_p: the previous frame's.

    Returns:
        ``[B, 1, H, W]`` in [0, 1], float32.
    """
    apart = torch.linalg.vector_norm(flow_cp.float() + warp(flow_pc, flow_cp), dim=1, keepdim=True)
    agreement = torch.exp(-apart / CYCLE_PIXELS)
    return agreement * photometric_confidence(flow_cp, lightness_c, lightness_p) * inside(flow_cp)
