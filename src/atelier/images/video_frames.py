"""Films as numbered pictures: a folder of frames, or a pattern such as ``frames/%06d.png``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atelier.errors import UserError
from atelier.images.files import IMAGE_SUFFIXES, read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atelier.images.video import VideoFacts, VideoFrame

_NUMBER = re.compile(r"%(?:0(\d+))?d")


def is_pattern(name: str) -> bool:
    """Whether ``name`` stands for numbered pictures: its last part has a number as in ``%06d``.

    A film is one file and no pattern, however it is called; so is what exists under that very name, and ``50%done/``.
    """
    from atelier.images.video import VIDEO_SUFFIXES

    path = Path(name)
    return (
        _NUMBER.search(path.name) is not None
        and not name.endswith("/")
        and path.suffix.lower() not in VIDEO_SUFFIXES
        and not path.exists()
    )


def numbered(pattern: str, number: int) -> Path:
    """File ``number`` of a pattern."""
    path = Path(pattern)
    return path.with_name(
        _NUMBER.sub(lambda found: str(number).zfill(int(found[1] or 0)), path.name, count=1)
    )


def number_in(pattern: str, path: Path) -> int | None:
    """The number that ``pattern`` has in the name of ``path``; None where it does not match."""
    wanted = Path(pattern)
    before, after = (re.escape(part) for part in _NUMBER.sub("\0", wanted.name, count=1).split("\0"))
    match = re.fullmatch(f"{before}(\\d+){after}", path.name)
    number = int(match[1]) if match and path.parent == wanted.parent else None
    return number if number is not None and numbered(pattern, number) == path else None


def list_frames(name: str) -> list[Path]:
    """The pictures of a folder (not of its subfolders) or a pattern, in the order of their numbers.

    Raises:
        UserError: there are none, or a number is missing in between.
    """
    if is_pattern(name):
        path = Path(name)
        there = path.parent.iterdir() if path.parent.is_dir() else ()
        found = {number: each for each in there if (number := number_in(name, each)) is not None}
        if not found:
            raise UserError(f"no picture matches {name}")
        numbers = sorted(found)
        for number, following in pairwise(numbers):
            if following != number + 1:
                raise UserError(
                    f"{numbered(name, number + 1)} is missing; the last picture is {found[numbers[-1]]}"
                )
        return [found[number] for number in numbers]
    folder = Path(name)
    pictures = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not pictures:
        raise UserError(f"no pictures in {folder}")
    return sorted(pictures, key=natural_order)


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Sort key by which frame 2 comes before frame 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def fingerprint_of_frames(files: Sequence[Path]) -> str:
    """SHA-256 over names, sizes and times of files."""
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()


class PictureReader:
    """Numbered pictures as a film with one frame every ``1 / rate`` seconds.

    Grey pictures are taken as RGB and alpha is left out. The first picture decides the size; the depth of all
    is that of the first (8 or 16 bits).

    Raises:
        UserError: no pictures; float pictures; or, while reading, one of another size or depth.
    """

    path: Path | None = None

    def __init__(self, name: str, *, rate: Fraction) -> None:
        from atelier.images.video import VideoFacts

        if rate <= 0:
            raise UserError(f"the rate must be positive, not {rate}")
        self.files = list_frames(name)
        first = self._pixels(self.files[0])
        self.facts: VideoFacts = VideoFacts(
            name=name,
            width=first.shape[1],
            height=first.shape[0],
            time_base=1 / rate,
            rate=rate,
            frames=len(self.files),
            bits=8 * first.itemsize,
            pixel_format="rgb24" if first.itemsize == 1 else "rgb48le",
        )
        self.facts = replace(self.facts, colour=self.facts.colour.settled(first.shape[0]))

    def frames(self, start: int = 0) -> Iterator[VideoFrame]:
        """Frames from index ``start`` on."""
        from atelier.images.video import VideoFrame

        for index in range(start, len(self.files)):
            pixels = self._pixels(self.files[index])
            if pixels.shape[:2] != (self.facts.height, self.facts.width):
                raise UserError(
                    f"{self.files[index]} is {pixels.shape[1]}x{pixels.shape[0]}, the first frame is "
                    f"{self.facts.width}x{self.facts.height}"
                )
            if 8 * pixels.itemsize != self.facts.bits:
                raise UserError(
                    f"{self.files[index]} has {8 * pixels.itemsize} bits, the first frame {self.facts.bits}"
                )
            yield VideoFrame(pixels, index, self.facts.time_base, index, 1, True)

    def fingerprint(self) -> str | None:
        """See :func:`fingerprint_of_frames`."""
        return fingerprint_of_frames(self.files)

    def close(self) -> None:
        """Nothing is held open."""

    @staticmethod
    def _pixels(path: Path) -> NDArray[Any]:
        pixels = read_image(path).pixels
        if pixels.dtype == np.float32:
            raise UserError(f"{path}: frames of a film have 8 or 16 bits, not float values")
        grey = pixels.shape[2] < 3
        return np.ascontiguousarray(np.repeat(pixels[..., :1], 3, axis=2) if grey else pixels[..., :3])
