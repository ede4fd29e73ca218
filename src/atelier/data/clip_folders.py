"""The layout ``folders``: a folder of frames or a video file for each film, references beside it in ``NAME.refs``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from atelier.data.clip_films import Film
from atelier.data.clip_frames import Fit, FrameSource, OneNumberAFile, look_at_film, uneven
from atelier.data.clip_names import Folders
from atelier.data.options import CacheOptions
from atelier.errors import UserError
from atelier.images.files import IMAGE_SUFFIXES
from atelier.images.video import VIDEO_SUFFIXES
from atelier.images.video_frames import list_frames, natural_order

REFERENCES = ".refs"

_Add = Callable[[Path], int]


def folder_films(
    root: Path, source: FrameSource, fit: Fit, cache: CacheOptions, *, references: bool
) -> tuple[list[Film], list[str]]:
    """The films below a root, and what is wrong with them.

    Args:
        root: holds folders of frames, video files, and ``NAME.refs`` folders.
        source: gets the frames and the references.
        fit: their size.
        cache: remembers how many frames video files have.
        references: whether ``NAME.refs`` is read.
    """
    films: list[Film] = []
    problems: list[str] = []
    folders = Folders()
    there = folders.names(root)
    if there is None:
        return [], [f"{root} is no folder"]
    entries = sorted((root / name for name in there if not name.startswith(".")), key=natural_order)
    found: dict[str, Path] = {}
    for entry in entries:
        film = entry.is_dir() and entry.suffix != REFERENCES
        if not film and entry.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        name = entry.name if film else entry.stem
        if name in found:
            problems.append(f"{found[name]} and {entry} are both a film called '{name}'; rename one")
        found[name] = entry
    lists = [entry for entry in entries if entry.is_dir() and entry.suffix == REFERENCES]
    problems += [
        f"{each}: there is no film '{each.stem}' beside it{folders.nearest(each.stem, found)}"
        for each in lists
        if each.stem not in found
    ]
    if not found:
        loose = any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries)
        hint = "; the pictures in it are frames: give the folder above it" if loose else ""
        problems.append(f"{root}: no folder of frames and no video file in it{hint}")
    # A reference that links to a frame is that frame, so that a clip is never given its own picture.
    add: _Add = OneNumberAFile(source, fit) if references and lists else partial(source.add_picture, fit=fit)
    for name, path in found.items():
        before = len(problems)
        numbers, labels = _frames(path, source, fit, add, cache, problems)
        beside = root / f"{name}{REFERENCES}"
        listed: tuple[int, ...] = ()
        if references and beside in lists:
            listed = _references(beside, add, problems)
        if len(problems) == before:
            films.append(Film(name, numbers, labels, (listed,)))
    return films, problems


def _frames(
    path: Path, source: FrameSource, fit: Fit, add: _Add, cache: CacheOptions, problems: list[str]
) -> tuple[Sequence[int], list[str]]:
    try:
        if path.is_dir():
            files = list_frames(str(path))
            numbers = [add(file) for file in files]
            problems += uneven(source, path.name, numbers)
            return numbers, [file.name for file in files]
        film = look_at_film(path, cache)
        return source.add_film(film, fit), [str(frame) for frame in range(film.frames)]
    except UserError as error:
        problems.append(f"{error}; a film needs frames" if "no pictures" in str(error) else str(error))
        return [], []


def _references(folder: Path, add: _Add, problems: list[str]) -> tuple[int, ...]:
    try:
        return tuple(add(file) for file in list_frames(str(folder)))
    except UserError as error:
        problems.append(str(error))
        return ()
