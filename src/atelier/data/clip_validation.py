"""Films to measure on: whole clips with their true colours, the same at every validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from atelier.data.clip_batch import ClipBatch
from atelier.data.clip_samples import make_sample
from atelier.data.clip_sources import ClipSource
from atelier.randomness import Streams

if TYPE_CHECKING:
    from atelier.data.clip_options import ValClipsOptions


class ClipValidation(Sequence[ClipBatch]):
    """A list of clips, each a batch of one, made when asked for.

    Attributes:
        name: of the set.
        names: of the clips, no two alike, usable as file names.
        fingerprint: digest of what is measured on.
    """

    def __init__(self, options: ValClipsOptions, source: ClipSource, names: Sequence[str]) -> None:
        self.name, self.fingerprint, self.source = options.name, source.fingerprint, source
        self.names = list(names[: options.most])

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> ClipBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClipBatch]: ...
    def __getitem__(self, index: int | slice) -> ClipBatch | list[ClipBatch]:
        """Clip ``index`` with references by role, true colours of all frames and, where known, its motion."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        clip = self.source.draw(index, Streams(0, 0, index))
        L, ab, reference, true_flow, valid = make_sample(clip)
        return ClipBatch(
            L[None],
            ab[None],
            reference[None],
            clip.roles,
            [self.names[index]],
            [index],
            true_flow=None if true_flow is None else true_flow[None],
            valid=None if valid is None else valid[None],
            direction="backward" if clip.motion is None else clip.motion.direction,
        )

    def close(self) -> None:
        """Let go of files."""
        self.source.close()
