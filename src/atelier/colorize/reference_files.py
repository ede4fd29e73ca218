"""Reference pictures as a command line names them. Loads no torch: mistakes in names shall be told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier.errors import UserError
from atelier.images.files import IMAGE_SUFFIXES


@dataclass(frozen=True)
class ReferenceFile:
    """A colour picture.

    Attributes:
        path: the file.
        frame: the frame of the film that it shows in true colours; None: a source of colours by likeness.
        from_folder: found in a folder, not named itself.
    """

    path: Path
    frame: int | None = None
    from_folder: bool = False

    def __str__(self) -> str:
        return str(self.path) if self.frame is None else f"{self.path}@{self.frame}"


def find_references(references: Sequence[str], anchors: Sequence[str]) -> list[ReferenceFile]:
    """What ``--reference`` (pictures, folders, ``PICTURE@FRAME``) and ``--anchor`` (``FRAME=PICTURE``) name.

    Raises:
        UserError: nothing, something that is not there or no picture, or two anchors of one frame.
    """
    found: list[ReferenceFile] = []
    for text in references:
        path = Path(text)
        name, at, frame = text.rpartition("@")
        if path.is_dir():
            pictures = sorted(
                each
                for each in path.iterdir()
                if each.suffix.lower() in IMAGE_SUFFIXES and not each.name.startswith(".")
            )
            if not pictures:
                raise UserError(f"--reference {text}: no pictures in this folder")
            found += [ReferenceFile(each, from_folder=True) for each in pictures]
        elif at and not path.exists() and frame.lstrip("-").isdecimal():
            found.append(
                ReferenceFile(_picture("--reference", text, name), _frame("--reference", text, frame))
            )
        else:
            found.append(ReferenceFile(_picture("--reference", text, text)))
    for text in anchors:
        frame, equals, name = text.partition("=")
        if not equals or not frame.lstrip("-").isdecimal() or not name:
            raise UserError(f"--anchor {text}: FRAME=PICTURE is expected, such as 120=frame120.png")
        found.append(ReferenceFile(_picture("--anchor", text, name), _frame("--anchor", text, frame)))
    if not found:
        raise UserError(
            "at least one colour picture is needed: --reference PICTURE, or --reference PICTURE@FRAME for a frame of "
            "the film itself in true colours"
        )
    pinned: dict[int, ReferenceFile] = {}
    for each in found:
        if each.frame is None:
            continue
        if each.frame in pinned:
            raise UserError(
                f"frame {each.frame} is pinned by {pinned[each.frame].path} and by {each.path}; one picture a frame"
            )
        pinned[each.frame] = each
    seen: set[tuple[Path, int | None]] = set()
    for each in found:
        key = (each.path.resolve(), each.frame)
        if key in seen:
            raise UserError(f"the reference {each} is given twice")
        seen.add(key)
    return found


def _picture(option: str, text: str, name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise UserError(f"{option} {text}: {name} does not exist")
    if not path.is_file() or path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{option} {text}: {name} is no picture ({', '.join(IMAGE_SUFFIXES)})")
    return path


def _frame(option: str, text: str, number: str) -> int:
    frame = int(number)
    if frame < 0:
        raise UserError(f"{option} {text}: frames are counted from 0")
    return frame
