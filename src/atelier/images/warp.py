"""Motion fields as tensors: sampling a picture along one, where it leaves the picture, and resizing it.

A field ``[B, 2, H, W]`` holds (x, y) displacements in pixels of the picture it is applied to. To bring the previous
frame onto the current one it is the *backward* flow: on the current frame's grid, pointing into the previous one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _checked(flow: Tensor) -> Tensor:
    if flow.ndim != 4 or flow.shape[1] != 2 or not flow.is_floating_point():
        raise TypeError(f"flow must be floats [B, 2, H, W], not shape {tuple(flow.shape)} of {flow.dtype}")
    return flow.float()


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel looks, in pixels: x and y ``[B, H, W]``, float32."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    return flow[:, 0] + x, flow[:, 1] + y[:, None]


def warp(src: Tensor, flow: Tensor) -> Tensor:
    """``src`` sampled bilinearly at ``x + flow(x)``; outside, the nearest border pixel counts.

    Computed in float32 whatever autocast says: a coordinate in bfloat16 would be off by whole pixels.

    Args:
        src: ``[B, C, H, W]``, any values.
        flow: ``[B, 2, H, W]``, (x, y) in pixels of ``src``.

    Returns:
        ``[B, C, H, W]``, float32; gradients flow to both.
    """
    flow = _checked(flow)
    if src.ndim != 4 or src.shape[0] != flow.shape[0] or src.shape[-2:] != flow.shape[-2:]:
        raise TypeError(
            f"the picture {tuple(src.shape)} and the flow {tuple(flow.shape)} differ in batch or size"
        )
    height, width = flow.shape[-2:]
    x, y = _targets(flow)
    with torch.autocast(src.device.type, enabled=False):
        grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
        return F.grid_sample(src.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def inside(flow: Tensor) -> Tensor:
    """Where ``x + flow(x)`` lies on the picture: ``[B, 1, H, W]`` bool.

    The picture is the area of its pixels, half a pixel wider than their centres: noise of a thousandth of a pixel at
    the border of a still picture does not count as leaving it.
    """
    flow = _checked(flow)
    height, width = flow.shape[-2:]
    x, y = _targets(flow)
    return ((x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5))[:, None]


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """The field at ``size`` (height, width), bilinear, its displacements in pixels of the new size; float32."""
    flow = _checked(flow)
    height, width = flow.shape[-2:]
    if (height, width) == tuple(size):
        return flow
    resized = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
    factors = resized.new_tensor([size[1] / width, size[0] / height])
    return resized * factors[:, None, None]
