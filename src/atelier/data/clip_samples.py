"""From drawn pixels to what a step gets: flips, changes of the lightness, LAB, and motion found in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from atelier.data.clip_batch import ClipBatch, Role
from atelier.data.clip_sources import RawClip, RawMotion
from atelier.images.lab import LabScale, rgb_to_lab
from atelier.images.tensors import to_tensor


class FoundMotion(Protocol):
    """What a source of flow gives: ``flow`` ``[N, 2, h, w]`` and ``confidence`` ``[N, 1, h, w]``."""

    @property
    def flow(self) -> Tensor:
        """Backward flow on the current grid, in pixels."""

    @property
    def confidence(self) -> Tensor:
        """In [0, 1]."""


class FindMotion(Protocol):
    """A source of flow that depends on lightness alone and can be sent to another process."""

    def __call__(self, current: Tensor, previous: Tensor, /) -> FoundMotion:
        """The motion between pairs of unit lightness ``[N, 1, h, w]``."""


class ClipShare(NamedTuple):
    """One rank's clips of a step on the CPU; the fields are those of :class:`ClipBatch`."""

    L: Tensor
    ab: Tensor
    reference: Tensor
    roles: tuple[Role, ...]
    samples: list[str]
    flow: Tensor | None
    confidence: Tensor | None
    true_flow: Tensor | None
    valid: Tensor | None
    direction: Literal["backward", "forward"]

    def batch(self, numbers: Sequence[int]) -> ClipBatch:
        """As a batch; ``numbers``: each clip's place in the whole step."""
        # torch's loader makes lists of tuples.
        return ClipBatch(**{**self._asdict(), "roles": tuple(self.roles)}, numbers=numbers)


@dataclass(frozen=True)
class LightnessDraw:
    """What is done to the lightness that the network sees: ``L -> L * gain + noise`` with L in 0...100."""

    gain: float = 1.0
    noise: float = 0.0
    stream: np.random.Generator | None = None


class Sample(NamedTuple):
    """One clip as tensors, without the batch axis; the names of :class:`ClipBatch`."""

    L: Tensor
    ab: Tensor
    reference: Tensor
    true_flow: Tensor | None
    valid: Tensor | None


def unit_lab(pictures: Sequence[Any]) -> Tensor:
    """RGB pictures ``h×w×3`` (uint8, uint16, or float32 in [0, 1]) of one size as ``[N, 3, h, w]`` in unit LAB."""
    rgb = torch.stack([to_tensor(np.ascontiguousarray(picture)) for picture in pictures])
    return LabScale.UNIT.normalise(rgb_to_lab(rgb))


def make_sample(clip: RawClip, *, flip: bool = False, lightness: LightnessDraw | None = None) -> Sample:
    """A drawn clip in LAB.

    Args:
        clip: as drawn.
        flip: mirror the clip, its motion and its anchors left-right. Exemplars stay: they give colours by meaning.
        lightness: change what the network sees; the true colours, the anchors and the motion stay.
    """
    frames = list(clip.frames)
    references = list(clip.references)
    motion = clip.motion
    if flip:
        frames = [frame[:, ::-1] for frame in frames]
        references = [
            picture if role == "exemplar" else picture[:, ::-1]
            for picture, role in zip(references, clip.roles, strict=True)
        ]
        motion = None if motion is None else _mirrored(motion)
    lab = unit_lab(frames)
    L = lab[:, :1] if lightness is None else _changed(lab[:, :1], lightness)
    flow = valid = None
    if motion is not None:
        flow = torch.from_numpy(np.ascontiguousarray(motion.flow))
        valid = torch.from_numpy(np.ascontiguousarray(motion.valid)).float()[:, None]
    return Sample(L.contiguous(), lab[:, 1:].contiguous(), unit_lab(references), flow, valid)


def find_motion(L: Tensor, find: FindMotion) -> tuple[Tensor, Tensor]:
    """Flow ``[T, 2, h, w]`` and confidence ``[T, 1, h, w]`` of a clip's lightness ``[T, 1, h, w]``; entry 0 is zero."""
    count, _, height, width = L.shape
    flow, confidence = torch.zeros(count, 2, height, width), torch.zeros(count, 1, height, width)
    if count > 1:
        with torch.no_grad():
            found = find(L[1:], L[:-1])
        flow[1:], confidence[1:] = found.flow, found.confidence
    return flow, confidence


def _mirrored(motion: RawMotion) -> RawMotion:
    flow = motion.flow[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    return RawMotion(flow, motion.valid[..., ::-1], motion.direction)


def _changed(L: Tensor, draw: LightnessDraw) -> Tensor:
    changed = (L + 1) * draw.gain - 1
    if draw.noise and draw.stream is not None:
        field = draw.stream.standard_normal(tuple(L.shape), dtype=np.float32)
        changed = changed + draw.noise * torch.from_numpy(field)
    return changed.clamp(-1, 1)
