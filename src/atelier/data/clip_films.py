"""Clips cut out of films, and where each takes its reference from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atelier.data.clip_batch import Role
from atelier.data.clip_frames import Cover, Size, resized
from atelier.data.clip_sources import ClipSource, Colours, RawClip, RawMotion
from atelier.data.shards import Reader
from atelier.data.sources import LISTED, digest
from atelier.errors import UserError
from atelier.randomness import Streams


@dataclass(frozen=True)
class MotionFiles:
    """Motion of a clip of two frames: from the first to the second, on the first one's grid."""

    flow: Path
    mask: Path


@dataclass(frozen=True)
class Film:
    """A film.

    Attributes:
        name: for messages and results; no two films of a set have the same.
        frames: numbers of its pictures in the source, in order.
        labels: what each frame is called.
        external: numbers of the pictures that its list of references names, for all frames or for each.
    """

    name: str
    frames: Sequence[int]
    labels: Sequence[str]
    external: Sequence[tuple[int, ...]] = ((),)

    def references_of(self, place: int) -> tuple[int, ...]:
        """What the list names for the clip that begins at frame ``place``."""
        return self.external[place if len(self.external) > 1 else 0]


@dataclass(frozen=True, slots=True)
class ClipPlace:
    """A clip: which film and which of its frames (their places in the film, increasing)."""

    film: int
    places: Sequence[int]
    motion: MotionFiles | None = None


@dataclass(frozen=True)
class Rules:
    """How references are chosen, see :class:`atelier.data.clip_options.ReferenceOptions`."""

    external: float
    min_gap: int
    count: int
    anchor: bool


def windows(films: Sequence[Film], length: int) -> list[ClipPlace]:
    """Every ``length`` frames in a row of every film."""
    return [
        ClipPlace(number, range(start, start + length))
        for number, film in enumerate(films)
        for start in range(len(film.frames) - length + 1)
    ]


class FilmClips(ClipSource):
    """Training clips of films.

    Args:
        films: at least one.
        places: the clips.
        reader: the pictures that the films' numbers count in.
        crop: height and width of clips.
        rules: for references.
        key: the data set, for messages (``data set 'train'``).
        notes: what was left out so far.

    Raises:
        UserError: clips without any picture that could be their reference, by film.
    """

    def __init__(
        self,
        films: Sequence[Film],
        places: Sequence[ClipPlace],
        reader: Reader,
        *,
        crop: Size,
        rules: Rules,
        key: str,
        notes: Sequence[str] = (),
    ) -> None:
        self._films, self._reader, self._crop, self._rules = list(films), reader, crop, rules
        #: By clip: whether the list and whether the film itself has references for it.
        self.served: list[tuple[bool, bool]] = []
        self._places: list[ClipPlace] = []
        self.left_out = 0
        without: Counter[int] = Counter()
        for place in places:
            choice = next(self._external(place), None) is not None, sum(self._sides(place)) > 0
            if rules.count and not any(choice):
                without[place.film] += 1
                continue
            self._places.append(place)
            self.served.append(choice)
        self.left_out = without.total()
        self._check(places, without, key)
        self.notes = [*notes, *self._told(without)]
        self.fingerprint = _fingerprint(films, self._places, reader, f"{crop} {rules}")

    def __len__(self) -> int:
        return len(self._places)

    def draw(self, number: int, streams: Streams) -> RawClip:
        """See :class:`ClipSource`."""
        place = self._places[number]
        film = self._films[place.film]
        frames = [self._reader.picture(film.frames[each]) for each in place.places]
        area = window(frames[0].shape, self._crop, streams("crop"))
        cut = [frame[area] for frame in frames]
        chosen = self._choose(place, streams) if self._rules.count else []
        corner = streams("reference crop")
        references: list[Colours] = [cut[0]] if self._rules.anchor else []
        roles: list[Role] = [0] if self._rules.anchor else []
        for item in chosen:
            picture = self._reader.picture(item)
            references.append(picture[window(picture.shape, self._crop, corner)])
            roles.append("exemplar")
        labels = [film.labels[each] for each in (place.places[0], place.places[-1])]
        given = ", ".join(self._reader.places[item] for item in chosen) or "its first frame"
        motion = None if place.motion is None else _known_motion(place.motion, frames[0].shape, area)
        name = f"{film.name} {labels[0]}-{labels[1]}, reference {given}"
        return RawClip(cut, references, tuple(roles), name, motion)

    def rules(self) -> Mapping[str, int]:
        """Clips by what can serve them."""
        counts = Counter(self.served)
        return {
            "only the list of references": counts[True, False],
            "only the film itself": counts[False, True],
            "either": counts[True, True],
            "neither: left out": self.left_out,
        }

    def close(self) -> None:
        """Let go of the shard."""
        self._reader.close()

    def _external(self, place: ClipPlace) -> Iterator[int]:
        """Listed references that are no frame of the clip."""
        film = self._films[place.film]
        own = {film.frames[each] for each in place.places}
        return (item for item in film.references_of(place.places[0]) if item not in own)

    def _sides(self, place: ClipPlace) -> tuple[int, int]:
        """How many frames of the film are far enough before and after the clip."""
        count, gap = len(self._films[place.film].frames), self._rules.min_gap
        return max(0, place.places[0] - gap + 1), max(0, count - place.places[-1] - gap)

    def _choose(self, place: ClipPlace, streams: Streams) -> list[int]:
        """Numbers of the clip's references: all of one rule, different ones as far as there are."""
        listed = list(self._external(place))
        before, after = self._sides(place)
        by_list = streams("reference rule").random() < self._rules.external
        if listed and (by_list or not before + after):
            return [listed[each] for each in _some(len(listed), self._rules.count, streams("reference"))]
        film = self._films[place.film]
        last = len(film.frames) - after
        return [
            film.frames[each if each < before else last + each - before]
            for each in _some(before + after, self._rules.count, streams("reference"))
        ]

    def _check(self, places: Sequence[ClipPlace], without: Counter[int], key: str) -> None:
        """A film all of whose clips have no reference was not meant so."""
        clips = Counter(place.film for place in places)
        helpless = [self._films[film] for film, count in sorted(without.items()) if clips[film] == count]
        if not helpless:
            return
        gap = self._rules.min_gap
        named = "; ".join(f"{film.name} ({len(film.frames)} frames)" for film in helpless[:10])
        raise UserError(
            f"{key}: {len(helpless)} film{'s' * (len(helpless) > 1)} with no picture that could be a clip's reference: "
            f"{named}. A reference is a listed picture, or a frame at least min_gap {gap} frames outside the clip, "
            "never one of the clip's own: list references, take longer films, or lower reference.min_gap or clip_length"
        )

    def _told(self, without: Counter[int]) -> list[str]:
        if not without:
            return []
        return [
            f"{self.left_out} clips in the middle of short films have no frame {self._rules.min_gap} frames outside "
            "and no listed reference; they are left out"
        ]


class FilmsToMeasure(ClipSource):
    """The beginnings of films, each with its first frame or its listed references.

    Args:
        films, reader: see :class:`FilmClips`.
        length: frames of a film, None for all.
        crop: the middle that is measured; None for whole frames.
        listed: how many listed references to take; 0 takes the film's first frame.
        anchor: the first frame is an anchor.
    """

    def __init__(
        self,
        films: Sequence[Film],
        reader: Reader,
        *,
        length: int | None,
        crop: Size | None,
        listed: int,
        anchor: bool,
        notes: Sequence[str] = (),
    ) -> None:
        self._films, self._reader, self._crop = list(films), reader, crop
        self._listed, self._anchor, self.notes = listed, anchor, list(notes)
        self._places = [
            ClipPlace(number, range(min(length or len(film.frames), len(film.frames))))
            for number, film in enumerate(films)
        ]
        self.fingerprint = _fingerprint(films, self._places, reader, f"{crop} {listed} {anchor}")

    def __len__(self) -> int:
        return len(self._films)

    def draw(self, number: int, streams: Streams) -> RawClip:
        """Film ``number``; nothing is drawn."""
        film, place = self._films[number], self._places[number]
        frames = [self._middle(film.frames[each]) for each in place.places]
        if not self._listed:
            role: Role = 0 if self._anchor else "exemplar"
            return RawClip(frames, [frames[0]], (role,), film.name)
        taken = film.references_of(0)[: self._listed]
        size = frames[0].shape[:2]
        # Pictures of one clip have one size: each covers the frame, its middle is taken.
        references = [_covering(self._reader.picture(item), (size[0], size[1])) for item in taken]
        roles: list[Role] = ["exemplar"] * len(taken)
        return RawClip(frames, references, tuple(roles), film.name)

    def rules(self) -> Mapping[str, int]:
        """All films alike."""
        return {"listed references" if self._listed else "the first frame": len(self)}

    def close(self) -> None:
        """Let go of the shard."""
        self._reader.close()

    def _middle(self, item: int) -> npt.NDArray[Any]:
        picture = self._reader.picture(item)
        return picture if self._crop is None else picture[_centre(picture.shape, self._crop)]


def window(shape: Sequence[int], crop: Size, stream: np.random.Generator) -> tuple[slice, slice]:
    """A crop anywhere in a picture of ``shape``."""
    top, left = (
        int(fraction * (side - part + 1))
        for fraction, side, part in zip(stream.random(2), shape, crop, strict=False)
    )
    return slice(top, top + crop[0]), slice(left, left + crop[1])


def _centre(shape: Sequence[int], crop: Size) -> tuple[slice, slice]:
    top, left = (shape[0] - crop[0]) // 2, (shape[1] - crop[1]) // 2
    return slice(top, top + crop[0]), slice(left, left + crop[1])


def _covering(picture: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    whole = resized(picture, Cover(min(size), size)((picture.shape[0], picture.shape[1])))
    return whole[_centre(whole.shape, size)]


def _some(available: int, count: int, stream: np.random.Generator) -> list[int]:
    """``count`` of ``range(available)``, all different while there are enough, else every one again and again.

    Made of ``random()`` alone, whose numbers NumPy promises to keep.
    """
    left = list(range(available))
    chosen: list[int] = []
    for _ in range(count):
        left = left or list(range(available))
        chosen.append(left.pop(int(stream.random() * len(left))))
    return chosen


def _known_motion(files: MotionFiles, shape: Sequence[int], area: tuple[slice, slice]) -> RawMotion:
    """Flow and mask files as the clip's frames were resized and cut; mask from 240 on is valid."""
    import torch

    from atelier.images import read_image
    from atelier.images.flo import read_flo
    from atelier.images.warp import resize_flow

    flow = read_flo(files.flow)
    mask = read_image(files.mask).pixels[..., 0]
    if mask.shape != flow.shape[1:]:
        raise UserError(
            f"{files.mask} is {mask.shape[1]}x{mask.shape[0]}, the flow {files.flow} {flow.shape[2]}x{flow.shape[1]}"
        )
    height, width = int(shape[0]), int(shape[1])
    fitted = resize_flow(torch.from_numpy(flow)[None], (height, width))[0].numpy()
    rows = np.minimum(((np.arange(height) + 0.5) * mask.shape[0] / height).astype(np.intp), mask.shape[0] - 1)
    columns = np.minimum(
        ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(np.intp), mask.shape[1] - 1
    )
    seen = mask[rows[:, None], columns] >= 240
    down, across = area
    zero = np.zeros_like(fitted[:, down, across])
    return RawMotion(
        np.stack([zero, fitted[:, down, across]]),
        np.stack([np.zeros_like(seen[down, across]), seen[down, across]]),
        "forward",
    )


def _fingerprint(films: Sequence[Film], places: Sequence[ClipPlace], reader: Reader, settings: str) -> str:
    """The same on every machine that holds the same material: names, sizes and places, no paths."""
    parts = [settings]
    for film in films:
        parts.append(f"{film.name} {tuple(reader.shapes[film.frames[0]])} {list(film.labels)}")
        for listed in film.external:
            parts += [f"{Path(reader.places[item]).name} {tuple(reader.shapes[item])}" for item in listed]
    parts += [f"{place.film} {list(place.places)} {place.motion is not None}" for place in places]
    return digest(parts)


def short_list(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
