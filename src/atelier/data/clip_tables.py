"""The layouts ``csv`` and ``pairs``: tables that name frames, references and motion. All columns are text."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from atelier.data.clip_films import ClipPlace, Film, MotionFiles, windows
from atelier.data.clip_frames import Fit, FrameSource, OneNumberAFile, uneven
from atelier.data.clip_names import Wanted
from atelier.errors import UserError
from atelier.images.video_frames import natural_order

SEED = ("video_name", "current_frame")
SWINTEXCO = ("video_name", "prev_frame", "current_frame", "flow_forward_name", "mask_name")
PAIRS = ("image", "reference")
_REFERENCE = re.compile(r"ref\d+")


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        place: ``FILE line N``, for messages.
        values: by column, without references.
        references: what its ``ref`` columns name; empty cells are left out.
    """

    place: str
    values: Mapping[str, str]
    references: tuple[str, ...]


def find_table(root: Path, given: Path | None, key: str) -> Path:
    """The CSV that is given, or the only one in ``root``."""
    if given is not None:
        if not given.is_file():
            raise UserError(f"{key}: csv: {given} is no file")
        return given
    if not root.is_dir():
        raise UserError(f"{key}: roots: {root} is no folder")
    found = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv")
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found)
    what = f"{len(found)} CSV files ({names}); say which one is meant" if found else "no CSV file; name one"
    raise UserError(f"{key}: {root} holds {what} with csv: FILE")


def read_table(
    path: Path, kinds: Sequence[tuple[str, ...]], *, references: bool
) -> tuple[tuple[str, ...], list[Row]]:
    """A CSV with one of the headers ``kinds``, ``ref1, ref2 ...`` after it where ``references``: (header, rows).

    Raises:
        UserError: naming the file and the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [
                (number, line) for number, line in enumerate(csv.reader(file, strict=True), 1) if any(line)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV file: {error}") from error
    if not lines:
        raise UserError(f"{path} is empty")
    header = [cell.strip() for cell in lines[0][1]]
    for kind in kinds:
        rest = header[len(kind) :]
        if tuple(header[: len(kind)]) == kind and (
            not rest or (references and all(_REFERENCE.fullmatch(cell) for cell in rest))
        ):
            break
    else:
        more = ",ref1,ref2..." if references else ""
        allowed = " or ".join(",".join(kind) + more for kind in kinds)
        raise UserError(f"{path}: its first line must be {allowed}; it is {','.join(header)}")
    rows = []
    for number, line in lines[1:]:
        place = f"{path.name} line {number}"
        if len(line) != len(header):
            raise UserError(
                f"{path} line {number}: {len(line)} cells, but the first line names {len(header)} columns"
            )
        cells = [cell.strip() for cell in line]
        values = dict(zip(kind, cells, strict=False))
        empty = [column for column, value in values.items() if not value]
        if empty:
            raise UserError(f"{path} line {number}: {empty[0]} is empty")
        rows.append(Row(place, values, tuple(cell for cell in cells[len(kind) :] if cell)))
    if not rows:
        raise UserError(f"{path} names nothing: it has a first line only")
    return kind, rows


@dataclass
class _Film:
    folder: Path
    names: dict[str, None] = field(default_factory=dict)
    references: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableRoots:
    """Where the files of a table lie: frames and, of SwinTExCo's form, flow and masks by film below one root each."""

    frames: Path
    flow: Path
    mask: Path
    references: Sequence[Path]


def table_films(
    table: Path,
    roots: TableRoots,
    source: FrameSource,
    fit: Fit,
    *,
    length: int,
    first_film: int,
    references: bool,
    key: str,
) -> tuple[list[Film], list[ClipPlace]]:
    """Films and clips of a CSV of either form.

    The frames of a film are those that the table names, in the order of their numbers. In the seed's form every
    ``length`` of them in a row are a clip, whose list of references is that of its first frame; in SwinTExCo's form
    every line is a clip of two frames.

    Args:
        first_film: number of the first film, where films of other tables come before.
        references: whether reference columns are read.

    Raises:
        UserError: missing files, lines that contradict each other, frames of several sizes.
    """
    kind, rows = read_table(table, (SWINTEXCO, SEED), references=True)
    paired = kind == SWINTEXCO
    if paired and length != 2:
        raise UserError(
            f"{table} lists pairs of frames with their motion: {key} needs clip_length: 2 (now {length})"
        )
    wanted = Wanted()
    films = _gathered(rows, roots, wanted, paired)
    listed = {
        name: wanted.among(roots.references, name, row.place)
        for row in rows
        if references
        for name in row.references
    }
    motions = [
        MotionFiles(
            wanted(roots.flow / row.values["video_name"] / row.values["flow_forward_name"], row.place),
            wanted(roots.mask / row.values["video_name"] / row.values["mask_name"], row.place),
        )
        for row in rows
        if paired
    ]
    wanted.check(key)
    made: list[Film] = []
    problems: list[str] = []
    # A reference that is a frame of a film is that frame, so that a clip is never given its own picture.
    add: Callable[[Path], int] = (
        OneNumberAFile(source, fit) if listed else partial(source.add_picture, fit=fit)
    )
    for name, film in films.items():
        names = sorted(film.names, key=lambda each: natural_order(Path(each)))
        paths = [film.folder / each for each in names]
        numbers = [add(path) for path in paths]
        problems += uneven(source, name, numbers)
        made.append(Film(name, numbers, names))
    if problems:
        raise UserError(
            "\n".join([f"{key}: frames that cannot be used:", *(f"  {each}" for each in problems[:10])])
        )
    numbers_of = {name: add(path) for name, path in listed.items()}
    made = [
        Film(
            film.name,
            film.frames,
            film.labels,
            [
                tuple(
                    numbers_of[each]
                    for each in films[film.name].references.get(label, ())
                    if each in numbers_of
                )
                for label in film.labels
            ],
        )
        for film in made
    ]
    if not paired:
        places = windows(made, length)
    else:
        places = _pairs(rows, motions, made)
    return made, [ClipPlace(place.film + first_film, place.places, place.motion) for place in places]


def _gathered(rows: Sequence[Row], roots: TableRoots, wanted: Wanted, paired: bool) -> dict[str, _Film]:
    films: dict[str, _Film] = {}
    for row in rows:
        name = row.values["video_name"]
        film = films.setdefault(name, _Film(roots.frames / name))
        columns = ("prev_frame", "current_frame") if paired else ("current_frame",)
        for column in columns:
            frame = row.values[column]
            wanted(film.folder / frame, row.place)
            film.names.setdefault(frame)
        first = row.values[columns[0]]
        if first in film.lines:
            raise UserError(f"{row.place}: '{name}', '{first}' stands in {film.lines[first]} already")
        film.lines[first], film.references[first] = row.place, row.references
    return films


def _pairs(rows: Sequence[Row], motions: Sequence[MotionFiles], films: Sequence[Film]) -> list[ClipPlace]:
    numbers = {film.name: number for number, film in enumerate(films)}
    order = {film.name: {label: place for place, label in enumerate(film.labels)} for film in films}
    places = []
    for row, motion in zip(rows, motions, strict=True):
        film = row.values["video_name"]
        pair = [order[film][row.values[column]] for column in ("prev_frame", "current_frame")]
        if pair[0] >= pair[1]:
            raise UserError(
                f"{row.place}: prev_frame '{row.values['prev_frame']}' must come before current_frame "
                f"'{row.values['current_frame']}'"
            )
        places.append(ClipPlace(numbers[film], pair, motion))
    return places
