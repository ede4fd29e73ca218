"""The layout ``synthetic``: clips with exact motion made of bundled photographs; no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from atelier.data.clip_batch import Role
from atelier.data.clip_sources import ClipSource, RawClip, RawMotion
from atelier.data.sources import digest
from atelier.data.synthetic_clips import Clip, bundled_clip
from atelier.randomness import Streams


class SyntheticClips(ClipSource):
    """Training clips: every draw is a clip of its own, its reference the frame ``gap`` before its first.

    Args:
        names: bundled photographs.
        frames, size: of a clip.
        gap: frames between the reference and the clip's first frame.
        anchor: the clip's first frame is given as an anchor, before the exemplar.
        exemplars: 0 or 1.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        frames: int,
        size: int,
        gap: int,
        anchor: bool = False,
        exemplars: int = 1,
    ) -> None:
        self.names, self.frames, self.size, self.gap = tuple(names), frames, size, gap
        self.anchor, self.exemplars = anchor, exemplars
        self.fingerprint = digest(["synthetic", *self.names, f"{frames} {size} {gap}"])

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, number: int, streams: Streams) -> RawClip:
        """The number does not matter: the photographs are drawn as well."""
        clip = bundled_clip(self.names, self.frames + self.gap, self.size, streams("clip"))
        name = f"synthetic clip of {self.frames} frames of {self.size}, reference {self.gap} frames before"
        kept = slice(self.gap, None)
        references = [clip.rgb[0]] * self.exemplars
        if self.anchor:
            references = [clip.rgb[self.gap], *references]
        roles: list[Role] = [0] if self.anchor else []
        roles += ["exemplar"] * self.exemplars
        return RawClip(list(clip.rgb[kept]), references, tuple(roles), name, motion_of(clip, kept))

    def rules(self) -> Mapping[str, int]:
        """All clips are served by the film itself."""
        return {"a frame of the same film": len(self)}


class SyntheticFilms(ClipSource):
    """Clips to measure on, the same for every run: clip i is drawn from ``Streams(seed, 0, i)``.

    Args:
        names: bundled photographs that training does not see.
        clips: how many.
        frames, size: of a clip.
        seed: of the set, not of the run.
        anchor: frame 0 is given as an anchor; otherwise as an exemplar.
    """

    def __init__(
        self, names: Sequence[str], *, clips: int, frames: int, size: int, seed: int, anchor: bool
    ) -> None:
        self.names, self.clips, self.frames, self.size = tuple(names), clips, frames, size
        self.seed, self.anchor = seed, anchor
        self.fingerprint = digest(["synthetic films", *self.names, f"{clips} {frames} {size} {seed}"])

    def __len__(self) -> int:
        return self.clips

    def draw(self, number: int, streams: Streams) -> RawClip:
        """Clip ``number``; ``streams`` is not used."""
        clip = bundled_clip(self.names, self.frames, self.size, Streams(self.seed, 0, number)("clip"))
        role: Role = 0 if self.anchor else "exemplar"
        return RawClip(
            list(clip.rgb), [clip.rgb[0]], (role,), f"synthetic_{number}", motion_of(clip, slice(None))
        )

    def rules(self) -> Mapping[str, int]:
        """The first frame of each clip."""
        return {"the first frame": self.clips}


def motion_of(clip: Clip, kept: slice = slice(None)) -> RawMotion:
    """The exact motion of the frames ``kept`` of a synthetic clip."""
    flow, valid = np.array(clip.flow[kept]), np.array(clip.valid[kept])
    flow[0], valid[0] = 0, False  # the frame before is no part of the clip
    return RawMotion(flow, valid)
