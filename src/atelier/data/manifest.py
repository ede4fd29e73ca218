"""Manifests: a JSON file beside the pictures that says what they were made of, with sizes and hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.files import atomic_write, sha256_of

_SOURCES = "sources"


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON, whole or not at all; one entry of a list a line, so that versions can be compared."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            rows = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in value)
            parts.append(f"{json.dumps(key)}: [\n  {rows}\n ]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    text = "{\n " + ",\n ".join(parts) + "\n}\n"
    # A file name may hold bytes that are no text; they stay what they are.
    atomic_write(path, text.encode("utf-8", "surrogateescape"))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The content of a manifest, None where there is none.

    Raises:
        UserError: the file is there but is no manifest.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a manifest ({error}); move it away") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read as a manifest (no JSON object); move it away")
    return content


def same_work(
    note: Path, settings: Mapping[str, Any], source: Path, names: Sequence[str], dry_run: bool
) -> None:
    """Check that files of this work may lie among those of earlier runs, and note it beside them.

    Files of other settings, or of another picture with the same name, would be taken for results that are there
    already. Several sources may share a folder as long as no two of their files share a name. A source that is gone
    since was moved, and its names are free.

    Args:
        note: keeps the settings (a key it lacks counts as equal to False) and, of every source, the names.
        settings: what decides the pictures.
        source: the folder that they are made of.
        names: of the files, without what is the same for all of a picture.
        dry_run: write nothing.

    Raises:
        UserError: the settings differ, or a file would be taken for one that another source has given.
    """
    before = read_manifest(note) or dict(settings)
    if {key: before.get(key, False) for key in settings} != settings:
        told = {key: value for key, value in before.items() if key != _SOURCES}
        raise UserError(
            f"{note.parent} holds pictures made with {told}, now asked for {dict(settings)}; choose another folder"
        )
    here, found = str(source.resolve()), before.get(_SOURCES, {})
    mine = {name.casefold() for name in names}
    for other, theirs in found.items():
        both = sorted(mine & {str(name).casefold() for name in theirs})
        if both and other != here and Path(other).exists():
            more = f" and {len(both) - 1} more" if len(both) > 1 else ""
            raise UserError(
                f"{note.parent} holds what was made of '{both[0]}'{more} in {other}, and {source} has pictures of the "
                "same names; choose another folder, or give the folder above both"
            )
    known = sorted({*found.get(here, ()), *names})
    if not dry_run and (found.get(here) != known or not note.exists()):
        kept = {other: theirs for other, theirs in found.items() if Path(other).exists()}
        write_manifest(note, {**before, _SOURCES: {**kept, here: known}})


def size_and_hash(path: str) -> tuple[int, str] | str:
    """``(bytes, SHA-256)`` of a file, or the sentence that says why it cannot be read."""
    try:
        return Path(path).stat().st_size, sha256_of(Path(path))
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"


def flat_names(
    sources: Iterable[tuple[str, ...]], taken: Iterable[str] = (), *, kept: dict[int, str] | None = None
) -> list[str]:
    """Names for files that come from many folders into one, none twice.

    A name that only one file has stays. Files that share one get their folder in front (``animal_001.png``), as many
    folders as it takes, and a number after the stem where even that is not enough. The outcome depends on the files
    alone, not on their order of arrival; names that differ by case only count as equal, as some file systems do.

    Args:
        sources: path of each file as parts, from the outermost folder to the file name.
        taken: names that are in use already.
        kept: index -> name for files that have theirs already.
    """
    paths = list(sources)
    names: dict[int, str] = dict(kept or {})
    used = {name.casefold() for name in (*taken, *names.values())}
    waiting = [number for number in range(len(paths)) if number not in names]
    depth = 1
    while waiting:
        proposed = {number: "_".join(paths[number][-depth:]) for number in waiting}
        counts: dict[str, int] = {}
        for name in proposed.values():
            counts[name.casefold()] = counts.get(name.casefold(), 0) + 1
        # All that share a name move on, so that none is "the first one"; numbers are the very last resort.
        free = [
            n for n in waiting if counts[proposed[n].casefold()] == 1 and proposed[n].casefold() not in used
        ]
        for number in free:
            names[number] = proposed[number]
            used.add(proposed[number].casefold())
        waiting = [number for number in waiting if number not in names]
        if depth >= max((len(paths[number]) for number in waiting), default=0):
            break
        depth += 1
    for number in sorted(waiting, key=lambda n: paths[n]):
        stem, dot, suffix = "_".join(paths[number]).rpartition(".")
        count = 2
        while f"{stem}_{count}{dot}{suffix}".casefold() in used:
            count += 1
        names[number] = f"{stem}_{count}{dot}{suffix}"
        used.add(names[number].casefold())
    return [names[number] for number in range(len(paths))]
