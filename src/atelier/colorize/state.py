"""What is carried from frame to frame, and what a pass over frames gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from atelier.colorize.system_options import Mode
from atelier.errors import UserError

MODES: tuple[Mode, ...] = get_args(Mode)


class ClipFlow(NamedTuple):
    """Motion found beforehand: flow and confidence depend on lightness alone for most sources.

    Attributes:
        flow: ``[B, T, 2, H, W]``, entry t from frame t into frame t - 1, in pixels; entry 0 counts only where a state
            brings a previous frame.
        confidence: ``[B, T, 1, H, W]`` in [0, 1].
    """

    flow: Tensor
    confidence: Tensor


class Teacher(NamedTuple):
    """Scheduled sampling: frames whose true colours are handed on instead of those just made.

    Attributes:
        ab: true colours ``[B, T, 2, H, W]``, unit scale; entry t is read after frame t was coloured, so that frame t
            sees true colours of frames before t only.
        mask: ``[B, T]`` bool.
    """

    ab: Tensor
    mask: Tensor


@dataclass(frozen=True)
class SequenceState:
    """Everything that the next frame needs. Its size does not depend on how many frames came before.

    Attributes:
        lightness: of the previous frame ``[B, 1, H, W]``, unit scale; None at the beginning of a scene.
        ab: its colours as they were made, ``[B, 2, H, W]`` float, never rounded to 8 bits.
        flow: what the source of flow remembers.
        frame: number of the next frame, from the beginning of the film (anchors are named by it).
        scene: number of the scene.
        anchor: the last frame whose colours were given; None where there was none.
    """

    lightness: Tensor | None = None
    ab: Tensor | None = None
    flow: Mapping[str, Tensor] | None = None
    frame: int = 0
    scene: int = 0
    anchor: int | None = None

    def new_scene(self) -> SequenceState:
        """The state after a cut: nothing of the frames before is left but their number."""
        return SequenceState(frame=self.frame, scene=self.scene + 1)

    def to(self, device: torch.device | str) -> SequenceState:
        """The same on ``device``."""
        return replace(
            self,
            lightness=None if self.lightness is None else self.lightness.to(device),
            ab=None if self.ab is None else self.ab.to(device),
            flow=None if self.flow is None else {key: value.to(device) for key, value in self.flow.items()},
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        named = {f"flow.{key}": value for key, value in (self.flow or {}).items()}
        if self.lightness is not None and self.ab is not None:
            named |= {"lightness": self.lightness, "ab": self.ab}
        return named

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, which :func:`torch.load` reads with ``weights_only=True``."""
        return {
            "lightness": self.lightness,
            "ab": self.ab,
            "flow": None if self.flow is None else dict(self.flow),
            "frame": self.frame,
            "scene": self.scene,
            "anchor": self.anchor,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> SequenceState:
        """The reverse of :meth:`state_dict`.

        Raises:
            UserError: names are missing or unknown.
        """
        expected = set(cls().state_dict())
        if set(state) != expected:
            wrong = ", ".join(sorted(set(state) ^ expected))
            raise UserError(f"this is no state of a colour sequence: missing or unknown {wrong}")
        return cls(**state)


@dataclass(frozen=True)
class SequenceOutput:
    """Colours of a clip and where they came from; what the mode does not need is not computed.

    Attributes:
        ab: the colours ``[B, T, 2, H, W]``, unit scale, in [-1, 1].
        flow_ab: the previous frame's colours along the motion; ``exemplar_ab`` where there is no previous frame or
            the mode uses no flow.
        flow_conf: ``[B, T, 1, H, W]`` in [0, 1]; 0 there.
        flow: backward flow ``[B, T, 2, H, W]`` in pixels; 0 there.
        exemplar_ab: colours from the references; ``flow_ab`` where the mode uses none.
        exemplar_sim: cosine similarity ``[B, T, 1, H, W]``; 0 there.
        state: for the frame after the last, detached.
    """

    ab: Tensor
    flow_ab: Tensor
    flow_conf: Tensor
    flow: Tensor
    exemplar_ab: Tensor
    exemplar_sim: Tensor
    state: SequenceState
