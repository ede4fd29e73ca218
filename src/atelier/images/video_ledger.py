"""What a film's run has finished: a folder beside the output that lets the same command go on after a stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.files import atomic_write

_PLAN, _VERSION = "plan.json", 1


class Ledger:
    """Finished segments in order, each with the caller's state after it.

    A segment counts once its ``NNNNNN.json`` is there, which is written last. Everything else in the folder is
    debris of a stop and is removed.

    Args:
        folder: of this run alone; made when the first segment begins.
        source: fingerprint of the source; None (pipes): nothing is taken over.
        options: everything that decides what the result will be, as plain values.
        overwrite: begin anew.

    Raises:
        UserError: the folder belongs to another source or other options; they are named.
    """

    def __init__(
        self, folder: Path, source: str | None, options: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.folder = folder
        self._plan = {"version": _VERSION, "source": source, "options": json.loads(json.dumps(options))}
        self.segments: list[dict[str, Any]] = []
        if overwrite or source is None:
            self.remove()
        if (folder / _PLAN).is_file():
            self._compare(json.loads((folder / _PLAN).read_text()))
            while self._path(len(self.segments), "json").is_file():
                self.segments.append(json.loads(self._path(len(self.segments), "json").read_text()))
            for path in folder.iterdir():
                if not self._counts(path):
                    path.unlink()
        elif _foreign(folder):
            raise UserError(f"{folder} holds no work of this program; move it, or choose another output")

    @property
    def frames(self) -> int:
        """Frames of the finished segments."""
        return sum(int(segment["frames"]) for segment in self.segments)

    @property
    def state(self) -> bytes | None:
        """What the caller gave with the last finished segment."""
        if not self.segments or not self.segments[-1]["state"]:
            return None
        return self._path(len(self.segments) - 1, "state").read_bytes()

    def begin(self) -> None:
        """Write down whose work this is, before anything else is."""
        if not (self.folder / _PLAN).is_file():
            atomic_write(self.folder / _PLAN, json.dumps(self._plan, indent=1, sort_keys=True))

    def media(self, number: int, suffix: str) -> Path:
        """Where the pictures of segment ``number`` are."""
        return self._path(number, suffix)

    def add(self, facts: Mapping[str, Any], state: bytes | None) -> None:
        """Count the next segment, whose media is complete, as finished. ``facts`` holds ``frames``."""
        number = len(self.segments)
        if state is not None:
            atomic_write(self._path(number, "state"), state)
        entry = {**facts, "state": state is not None}
        atomic_write(self._path(number, "json"), json.dumps(entry))
        self.segments.append(json.loads(json.dumps(entry)))

    def remove(self) -> None:
        """The work is done, or is not wanted."""
        if self.folder.is_dir():
            if not (self.folder / _PLAN).is_file() and _foreign(self.folder):
                raise UserError(
                    f"{self.folder} holds no work of this program; move it, or choose another output"
                )
            shutil.rmtree(self.folder)

    def _compare(self, found: Mapping[str, Any]) -> None:
        remedy = f"--overwrite begins anew (and removes {self.folder})"
        if found.get("version") != _VERSION:
            raise UserError(f"{self.folder} was made by another version of this program; {remedy}")
        if found["source"] != self._plan["source"]:
            raise UserError(f"the source has changed since the work in {self.folder} began; {remedy}")
        before, now = found["options"], self._plan["options"]
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            lines = ", ".join(_changed(key, before.get(key), now.get(key)) for key in changed)
            raise UserError(f"the work in {self.folder} began with other options: {lines}; {remedy}")

    def _counts(self, path: Path) -> bool:
        stem = path.name.split(".")[0]
        return path.name == _PLAN or (stem.isdigit() and int(stem) < len(self.segments))

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:06d}.{suffix}"


def _changed(key: str, before: Any, now: Any) -> str:
    """An option by name; with its values where people can read them, which digests are not."""
    if any(isinstance(value, (list, dict)) or len(str(value)) > 40 for value in (before, now)):
        return key
    return f"{key} ({before} before, {now} now)"


def _foreign(folder: Path) -> bool:
    """Whether a folder without a plan holds more than the beginning of one (files being written are hidden)."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
