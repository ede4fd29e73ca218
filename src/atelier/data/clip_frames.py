"""Frames of films and reference pictures as one source for the shard cache, at the size that training needs.

Frames are resized when they are decoded: a film of 1080 lines would take twenty times the space, and each draw would
resize it again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from atelier.data.options import CacheOptions
from atelier.data.sources import Item, Shape, Source, digest
from atelier.errors import UserError
from atelier.files import atomic_write

Size = tuple[int, int]


class Fit(Protocol):
    """How large a picture becomes."""

    def __call__(self, size: Size) -> Size:
        """New (height, width) of a picture of this (height, width)."""


@dataclass(frozen=True)
class Cover:
    """The shorter side becomes ``short_side``, more where ``crop`` would not fit; the aspect stays."""

    short_side: int
    crop: Size | None = None

    def __call__(self, size: Size) -> Size:
        """See the class."""
        height, width = size
        factor = self.short_side / min(size)
        if self.crop is not None:
            factor = max(factor, self.crop[0] / height, self.crop[1] / width)
        least = self.crop or (1, 1)
        return max(least[0], round(height * factor)), max(least[1], round(width * factor))


@dataclass(frozen=True)
class Between:
    """The shorter side ends between ``least`` and ``most``; the aspect stays."""

    least: int
    most: int

    def __call__(self, size: Size) -> Size:
        """See the class."""
        shorter = min(size)
        factor = min(max(shorter, self.least), self.most) / shorter
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


@dataclass(frozen=True)
class FilmFile:
    """A video file with its facts.

    Attributes:
        frames: how many frames decode.
        size: height and width of the upright frames.
    """

    path: Path
    frames: int
    size: Size


@dataclass(frozen=True)
class _Entry:
    path: Path
    fit: Fit
    film: FilmFile | None = None
    frame: int = 0


class FrameSource(Source):
    """Pictures and frames of films in the order they were added.

    Args:
        title: for messages.
        identity: tells this selection from others.
    """

    def __init__(self, title: str, identity: str) -> None:
        self.title, self.identity = title, identity
        self.items: list[Item] = []
        self._entries: list[_Entry] = []
        self._sizes: dict[Path, Size] = {}
        self._decoder = _Decoder()

    def add_picture(self, path: Path, fit: Fit) -> int:
        """The number of a picture file."""
        self._entries.append(_Entry(path, fit))
        self.items.append(Item(str(path), str(path), stamp(path)))
        return len(self.items) - 1

    def add_film(self, film: FilmFile, fit: Fit) -> range:
        """The numbers of a film's frames."""
        first, seen = len(self.items), stamp(film.path)
        for frame in range(film.frames):
            self._entries.append(_Entry(film.path, fit, film, frame))
            self.items.append(Item(f"{film.path}#{frame}", f"{film.path} frame {frame}", seen))
        return range(first, len(self.items))

    def original_shape(self, index: int) -> Shape:
        """``(H, W, C)`` in the file; raises :class:`UserError` naming it."""
        from atelier.images import image_shape

        entry = self._entries[index]
        return (*entry.film.size, 3) if entry.film is not None else image_shape(entry.path)

    def shape(self, index: int) -> Shape:
        """``(h, w, 3)`` as it is read."""
        height, width, _ = self.original_shape(index)
        return (*self._entries[index].fit((height, width)), 3)

    def read(self, index: int) -> npt.NDArray[Any]:
        """RGB ``h×w×3`` of the file's depth; grey pictures are spread, alpha is dropped."""
        entry = self._entries[index]
        if entry.film is not None:
            pixels = self._decoder.frame(index - entry.frame, entry.film, entry.frame)
        else:
            from atelier.images import read_image

            pixels = read_image(entry.path).pixels
            pixels = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
        return resized(pixels, entry.fit((pixels.shape[0], pixels.shape[1])))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": _Decoder()}


class OneNumberAFile:
    """Adds pictures to a source. A file that comes under several names, by links, has one number.

    Clips tell by numbers whether a reference is one of their own frames.
    """

    def __init__(self, source: FrameSource, fit: Fit) -> None:
        self._source, self._fit = source, fit
        self._numbers: dict[str, int] = {}

    def __call__(self, path: Path) -> int:
        """The number of a picture file."""
        file = os.path.realpath(path)
        if file not in self._numbers:
            self._numbers[file] = self._source.add_picture(path, self._fit)
        return self._numbers[file]


class _Decoder:
    """Frames of films, asked for about in order by several threads, each film decoded once from front to back.

    A film is open until its last frame was decoded, also while frames of the next one are asked for. A frame is kept
    only until it is asked for, so memory holds no more than what lies between the threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[int, _Run] = {}

    def frame(self, key: int, film: FilmFile, number: int) -> npt.NDArray[Any]:
        """Frame ``number``; ``key``: tells films from one another, and a film from itself added a second time."""
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                run = self._runs[key] = _Run(film)
            pixels = run.take(number)
            if not run.due:
                run.close()
                del self._runs[key]
            return pixels

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Decoder, ())


class _Run:
    """A film from its first to its last frame.

    Attributes:
        due: the frames that were not handed out yet.
        waiting: those of them that were decoded already, because a later one was asked for first.
    """

    def __init__(self, film: FilmFile) -> None:
        self.film = film
        self.due = set(range(film.frames))
        self.waiting: dict[int, npt.NDArray[Any]] = {}
        self._reader: Any = None
        self._frames: Iterator[Any] = iter(())
        self._next = film.frames
        self._failure: str | None = None

    def take(self, number: int) -> npt.NDArray[Any]:
        """Frame ``number``; decodes from the front again where it was handed out before."""
        self.due.add(number)
        if number not in self.waiting:
            if self._failure is not None:
                raise UserError(self._failure)
            try:
                self._decode(number)
            except UserError as error:
                self._failure = str(error)
                self.close()
                raise
        self.due.discard(number)
        return self.waiting.pop(number)

    def _decode(self, number: int) -> None:
        if number < self._next:
            self._open()
        while self._next <= number:
            frame = next(self._frames, None)
            if frame is None:
                raise UserError(
                    f"{self.film.path}: has {self._next} frames now, but {self.film.frames} when it was looked at; "
                    "was it written anew?"
                )
            if self._next in self.due:
                self.waiting.setdefault(self._next, frame.pixels)
            self._next += 1
        if self._next == self.film.frames:
            self.close()

    def _open(self) -> None:
        from atelier.images.video import open_video

        self.close()
        self._reader = open_video(self.film.path)
        self._frames, self._next = self._reader.frames(), 0

    def close(self) -> None:
        """Give the file back; what is waiting stays."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._frames, self._next = None, iter(()), self.film.frames


def stamp(path: Path) -> str:
    """Size and modification time of a file."""
    try:
        facts = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return f"{facts.st_size}/{facts.st_mtime_ns}"


def resized(pixels: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    """``H×W×3`` at ``size``: the mean of what a pixel covers when it becomes smaller, bicubic when larger."""
    import cv2

    height, width = size
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    smaller = height * width < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    result: npt.NDArray[Any] = cv2.resize(pixels, (width, height), interpolation=how)
    return result.clip(0, 1) if result.dtype == np.float32 else result


def look_at_film(path: Path, cache: CacheOptions) -> FilmFile:
    """Frames and size of a video file. Counting decodes it once; the cache folder remembers the count.

    Containers only estimate how many frames decode.

    Raises:
        UserError: no film, damaged, without frames, PyAV is missing, or the cache is switched off.
    """
    if not cache.enabled:
        raise UserError(
            f"{path}: video files are decoded once into the shard cache; set cache.enabled: true, or extract the frames"
        )

    def count() -> list[int]:
        from atelier.images.video import open_video

        source = open_video(path)
        try:
            facts = source.facts
            return [sum(1 for _ in source.frames()), facts.height, facts.width]
        finally:
            source.close()

    frames, height, width = remembered(cache, digest(["film", str(path.absolute()), stamp(path)]), count)
    return FilmFile(path, frames, (height, width))


def remembered(cache: CacheOptions, key: str, compute: Callable[[], Any]) -> Any:
    """A plain value that takes long to find, kept in the cache folder where the cache is in use."""
    if not cache.enabled:
        return compute()
    file = cache.root / "facts" / f"{key}.json"
    with suppress(OSError, ValueError):
        return json.loads(file.read_text())
    value = compute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(value).encode())
    except OSError as error:
        raise UserError(f"shard cache: {file} cannot be written: {error.strerror or error}") from error
    return value


def uneven(source: FrameSource, film: str, numbers: Sequence[int]) -> list[str]:
    """What is wrong with a film's picture files by their headers: unreadable, of another size, or grey."""
    problems: list[str] = []
    first: Shape | None = None
    for number in numbers:
        try:
            shape = source.original_shape(number)
        except UserError as error:
            problems.append(str(error))
            continue
        if shape[2] < 3:
            problems.append(f"{source.items[number].place}: a grey picture; frames need their true colours")
        first = first or shape
        if shape[:2] != first[:2]:
            problems.append(
                f"{source.items[number].place}: {shape[1]}x{shape[0]}, the first frame of {film} is "
                f"{first[1]}x{first[0]}; the frames of a film have one size"
            )
            break
    return problems
