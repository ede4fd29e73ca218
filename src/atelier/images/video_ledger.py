"""What a film's run has finished: a folder beside the output that lets the same command go on after a stop."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.files import atomic_write
from atelier.locks import LocksUnsupported, RunLock, owner_of

_PLAN, _LOCK, _VERSION = "plan.json", ".lock", 1

_OURS = re.compile(r"\.?\d{6,}(\.\w+)?\.(json|state|nut|mov)|\.plan\.\w+\.json")
"""What a run leaves in its folder beside the plan: its segments, and files that were being written."""


class Ledger:
    """Finished segments in order, each with the caller's state after it.

    A segment counts once its ``NNNNNN.json`` is there, which is written last. Other files with such names are debris
    of a stop and are removed; what else somebody put into the folder is left alone. The folder is locked from here to
    :meth:`remove` or :meth:`release`, where the file system can do that.

    Args:
        folder: of this run alone.
        source: fingerprint of the source; None (pipes): nothing is taken over.
        options: everything that decides what the result will be, as plain values.
        overwrite: begin anew.

    Raises:
        UserError: the folder belongs to another source or other options, which are named, or to a run at work.
    """

    def __init__(
        self, folder: Path, source: str | None, options: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.folder = folder
        self._plan = {"version": _VERSION, "source": source, "options": json.loads(json.dumps(options))}
        self.segments: list[dict[str, Any]] = []
        self._lock, self._held = _lock(folder), True
        try:
            self._open(source, overwrite)
        except BaseException:
            self.release()
            raise

    def _open(self, source: str | None, overwrite: bool) -> None:
        if not is_unfinished(self.folder):
            if any(_OURS.fullmatch(path.name) and not path.name.startswith(".") for path in self._files()):
                raise UserError(
                    f"{self.folder} holds no work of this program; move it, or choose another output"
                )
            return
        if not overwrite:
            self._compare(json.loads((self.folder / _PLAN).read_text()))
        if overwrite or source is None:
            self._clear()
            return
        while self._path(len(self.segments), "json").is_file():
            self.segments.append(json.loads(self._path(len(self.segments), "json").read_text()))
        for path in self._files():
            if not self._counts(path) and _OURS.fullmatch(path.name):
                path.unlink()

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

    @property
    def goes_on(self) -> bool:
        """Whether the run of which this is the folder has begun."""
        return is_unfinished(self.folder)

    def begin(self) -> None:
        """Write down whose work this is, before anything else is."""
        if not self.goes_on:
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
        """The work is done."""
        self._clear()
        self.release()

    def release(self) -> None:
        """Let others work here: this run does not, for now. A folder in which nothing was done goes away."""
        if not self._held:
            return
        self._held = False
        if self._lock is not None:
            self._lock.release(remove=True)
        with suppress(OSError):
            if self._lock is None:
                (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _clear(self) -> None:
        # What makes segments count goes first: a stop in between must not leave one without its pictures.
        for path in sorted(self._files(), key=lambda path: path.suffix != ".json"):
            if _OURS.fullmatch(path.name):
                path.unlink()
        # Last: without it the rest would be nobody's.
        (self.folder / _PLAN).unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_file()] if self.folder.is_dir() else []

    def _compare(self, found: Mapping[str, Any]) -> None:
        remedy = f"--overwrite begins anew (and removes {self.folder})"
        if found.get("version") != _VERSION:
            raise UserError(f"{self.folder} was made by another version of this program; {remedy}")
        if None in (found["source"], self._plan["source"]) and found["source"] != self._plan["source"]:
            raise UserError(f"the work in {self.folder} is of another source; {remedy}")
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


class LedgerTarget:
    """What every target that notes its segments in a :class:`Ledger` tells of them."""

    _ledger: Ledger

    @property
    def frames_done(self) -> int:
        """Frames in finished segments: the next frame to write has this index."""
        return self._ledger.frames

    @property
    def state(self) -> bytes | None:
        """What was given with the last finished segment; None at the beginning."""
        return self._ledger.state


def _changed(key: str, before: Any, now: Any) -> str:
    """An option by name; with its values where people can read them, which digests are not."""
    if any(isinstance(value, (list, dict)) or len(str(value)) > 40 for value in (before, now)):
        return key
    return f"{key} ({before} before, {now} now)"


def is_unfinished(folder: Path) -> bool:
    """Whether the folder of a run holds work that was not finished."""
    return (folder / _PLAN).is_file()


def _lock(folder: Path) -> RunLock | None:
    """The sole right to a run's folder; None where the file system has no locks."""
    try:
        lock = RunLock.take(folder / _LOCK)
    except LocksUnsupported:
        return None
    if lock is None:
        raise UserError(
            f"{folder} is being worked on by {owner_of(folder / _LOCK)}; wait for it, or choose another output"
        )
    return lock
