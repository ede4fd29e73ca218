"""Clips as callers hold them (lists of frames or batches) brought to one shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atelier.errors import UserError

#: ``[B, T, C, H, W]``; one clip ``[T, C, H, W]``; or a list over T of ``[C, H, W]`` or ``[B, C, H, W]``.
Frames = Tensor | Sequence[Tensor]


def as_clip(frames: Frames, channels: tuple[int, ...], name: str) -> Tensor:
    """``[B, T, C, H, W]`` in at least float32; gradients pass.

    Args:
        frames: in any of the forms of :data:`Frames`.
        channels: which C are right.
        name: what it is, for messages.

    Raises:
        UserError: no frames, frames of different sizes, or another shape.
    """
    if isinstance(frames, Tensor):
        clip = frames if frames.ndim == 5 else frames[None]
    else:
        listed = list(frames)
        if not listed:
            raise UserError(f"{name}: the clip has no frames")
        shapes = sorted({tuple(frame.shape) for frame in listed})
        if len(shapes) > 1:
            raise UserError(
                f"{name}: all frames of a clip must have one size, given {shapes[0]} and {shapes[1]}"
            )
        clip = torch.stack(listed, dim=1) if listed[0].ndim == 4 else torch.stack(listed)[None]
    if clip.ndim != 5 or clip.shape[2] not in channels or clip.shape[1] == 0:
        allowed = " or ".join(map(str, channels))
        raise UserError(
            f"{name}: expected frames [B, T, C, H, W], or a list of [C, H, W], with C = {allowed}; "
            f"given {tuple(clip.shape) if isinstance(frames, Tensor) else [tuple(f.shape) for f in frames][:1]}"
        )
    return clip if clip.dtype == torch.float64 else clip.float()
