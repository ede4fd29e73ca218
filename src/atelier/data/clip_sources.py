"""Where clips come from, whatever the layout: a numbered list of clips that can be drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from atelier.data.clip_batch import Role
from atelier.randomness import Streams

Colours = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class RawMotion:
    """Known motion of a clip of T frames.

    Attributes:
        flow: float32 ``[T, 2, h, w]`` in pixels; entry 0 is zero.
        valid: bool ``[T, h, w]``; entry 0 is False.
        direction: the grid it lies on, see :class:`atelier.data.clip_batch.ClipBatch`.
    """

    flow: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    direction: Literal["backward", "forward"] = "backward"


@dataclass(frozen=True, eq=False)
class RawClip:
    """A clip as pixels, before it is flipped and turned into LAB.

    Attributes:
        frames: T of RGB ``[h, w, 3]``, each uint8, uint16 or float32 in [0, 1].
        references: RGB ``[h, w, 3]`` each, of the clip's size.
        roles: one for each reference.
        name: film, frames and references, for messages.
        motion: None where it is not known.
    """

    frames: Sequence[Colours]
    references: Sequence[Colours]
    roles: tuple[Role, ...]
    name: str
    motion: RawMotion | None = None


class ClipSource(ABC):
    """A fixed list of clips, all with known motion in one direction or all without. Can be sent to another process.

    Attributes:
        fingerprint: digest of what the clips are made of.
        notes: what was left out and why, one line each, to be printed.
    """

    fingerprint: str
    notes: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Clips of an epoch."""

    @abstractmethod
    def draw(self, number: int, streams: Streams) -> RawClip:
        """Clip ``number``; what is random about it (reference, crop) comes from ``streams`` alone.

        Raises:
            UserError: a file cannot be read any more.
        """

    @abstractmethod
    def rules(self) -> Mapping[str, int]:
        """How many clips of an epoch can take their reference by which rule."""

    def close(self) -> None:
        """Let go of files."""
        return
