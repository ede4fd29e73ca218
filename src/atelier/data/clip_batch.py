"""What a training step of video colouring gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

#: What a reference picture is used for: colours by meaning, or the true colours of the clip's frame of this number.
Role = Literal["exemplar"] | int


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one step in unit LAB (``L/50 - 1``, ``ab/127``), float32 on the device.

    Attributes:
        L: lightness ``[B, T, 1, h, w]``: what the network sees.
        ab: true colours ``[B, T, 2, h, w]``.
        reference: ``[B, R, 3, h, w]``, one choice for the whole clip.
        roles: one for each of the R pictures, the same for all clips.
        samples: one ``film, frames, reference`` string a clip, for messages.
        numbers: each clip's place in the step's batch over all ranks (``Streams(seed, step, number)``).
        flow: backward flow found in ``L``, ``[B, T, 2, h, w]`` in pixels; entry 0 is zero. None: not asked for.
        confidence: how far it is believed, ``[B, T, 1, h, w]`` in [0, 1]; entry 0 is zero. None with ``flow``.
        true_flow: known motion ``[B, T, 2, h, w]``; entry t lies between frames t - 1 and t, entry 0 is zero.
        valid: where it holds, ``[B, T, 1, h, w]``, 0 or 1. None with ``true_flow``.
        direction: the grid of ``true_flow``: ``backward``, the current frame's, into the previous one; ``forward``,
            the previous frame's, into the current one.
    """

    L: Tensor
    ab: Tensor
    reference: Tensor
    roles: tuple[Role, ...]
    samples: Sequence[str]
    numbers: Sequence[int] = ()
    flow: Tensor | None = None
    confidence: Tensor | None = None
    true_flow: Tensor | None = None
    valid: Tensor | None = None
    direction: Literal["backward", "forward"] = "backward"

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lab(self) -> Tensor:
        """The true frames ``[B, T, 3, h, w]``."""
        return torch.cat([self.L, self.ab], dim=2)

    def split(self, parts: int) -> list[ClipBatch]:
        """``parts`` equal micro-batches in order; raises ValueError where the clips do not divide."""
        if parts < 1 or len(self) % parts:
            raise ValueError(f"{len(self)} clips cannot be split into {parts} equal parts")
        size = len(self) // parts
        shared = {"roles", "direction"}
        return [
            replace(
                self,
                **{
                    field.name: value[start : start + size]
                    for field in fields(self)
                    if field.name not in shared and (value := getattr(self, field.name)) is not None
                },
            )
            for start in range(0, len(self), size)
        ]

    def to(self, *args: Any, **kwargs: Any) -> ClipBatch:
        """The same clips after ``Tensor.to`` (device; a memory format is left alone by clips)."""
        kwargs.pop("memory_format", None)  # channels_last is for four dimensions
        moved: dict[str, Any] = {
            field.name: value.to(*args, **kwargs)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)
