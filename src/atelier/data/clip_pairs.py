"""The layout ``pairs``: a still picture is given synthetic motion, another picture is its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atelier.data.clip_batch import Role
from atelier.data.clip_films import window
from atelier.data.clip_sources import ClipSource, Colours, RawClip
from atelier.data.clip_synthetic import motion_of
from atelier.data.shards import Reader
from atelier.data.sources import digest
from atelier.data.synthetic_clips import synthetic_clip
from atelier.randomness import Streams


class PairClips(ClipSource):
    """Clips of still pictures: background and disc come from the same picture, so that the reference suits both.

    Args:
        pairs: numbers of picture and reference in ``reader``.
        reader: pictures whose shorter side is at least 1.25 ``size``, references that cover ``size``.
        frames, size: of a clip.
        anchor: the clip's first frame is given as an anchor, before the exemplar.
        exemplars: 0 or 1.
        notes: what was left out.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        reader: Reader,
        *,
        frames: int,
        size: int,
        anchor: bool,
        exemplars: int,
        notes: Sequence[str] = (),
    ) -> None:
        self._pairs, self._reader, self._frames, self._crop = list(pairs), reader, frames, (size, size)
        self._anchor, self._exemplars, self.notes = anchor, exemplars, list(notes)
        names = [" ".join(Path(reader.places[item]).name for item in pair) for pair in pairs]
        shapes = [str([tuple(reader.shapes[item]) for item in pair]) for pair in pairs]
        self.fingerprint = digest(["pairs", f"{frames} {size} {anchor} {exemplars}", *names, *shapes])

    def __len__(self) -> int:
        return len(self._pairs)

    def draw(self, number: int, streams: Streams) -> RawClip:
        """See :class:`ClipSource`."""
        picture, reference = self._pairs[number]
        still = _bytes(self._reader.picture(picture))
        clip = synthetic_clip(still, still, self._frames, self._crop[0], streams("clip"))
        references: list[Colours] = [clip.rgb[0]] if self._anchor else []
        roles: list[Role] = [0] if self._anchor else []
        if self._exemplars:
            whole = self._reader.picture(reference)
            references.append(whole[window(whole.shape, self._crop, streams("reference crop"))])
            roles.append("exemplar")
        places = self._reader.places
        name = f"{places[picture]} with synthetic motion, reference {places[reference]}"
        return RawClip(list(clip.rgb), references, tuple(roles), name, motion_of(clip))

    def rules(self) -> Mapping[str, int]:
        """All from the table."""
        return {"only the list of references": len(self)}

    def close(self) -> None:
        """Let go of the shard."""
        self._reader.close()


def _bytes(picture: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """As 8 bits, which synthetic motion is made of."""
    if picture.dtype == np.uint8:
        return np.asarray(picture, np.uint8)
    top = 1.0 if picture.dtype == np.float32 else 65535.0
    return np.rint(picture.astype(np.float64) * (255 / top)).astype(np.uint8)
