"""What has become of every run of a study, and who works on it.

``manifest.json`` is replaced whole, under a lock, so that several runners share one study and a full disk leaves the
last readable state. Locks are the operating system's (``flock``): they hold as long as a process lives that has the
file open, so nothing has to be cleaned up after a kill. A training process inherits the lock of its run, which
therefore stays taken when only the runner died.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from atelier.errors import UserError
from atelier.files import atomic_write, describe_os_error

PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"
VERSION = 1


class RunLock:
    """Sole right to something, held by this process and by those that inherit :attr:`descriptor`."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def take(cls, path: Path, *, wait: bool = False) -> RunLock | None:
        """The lock at ``path``, or None while another process has it (with ``wait``: never None).

        The file names the owner's process id and host. An owner that died has no lock any more: its file is taken over.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(describe_os_error(error, path)) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            raise UserError(f"{path}: this file system cannot lock files: {error.strerror}") from error
        note_owner(file.fileno())
        return cls(file)

    @property
    def descriptor(self) -> int:
        """For ``pass_fds`` of a child that shall hold the lock as well."""
        return self._file.fileno()

    def release(self) -> None:
        """Give the right back (a child that inherited it keeps it until it ends)."""
        self._file.close()


def note_owner(descriptor: int) -> None:
    """Write into an open lock file that this process works under it; a full disk is no reason to stop."""
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    except OSError:
        return


def owner_of(path: Path) -> str:
    """``process 123 on host`` for a lock file, as far as it can be told."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return f"process {told['pid']} on {told['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@dataclass(frozen=True)
class Manifest:
    """The manifest of one study in ``folder``."""

    folder: Path

    @property
    def path(self) -> Path:
        """The JSON file."""
        return self.folder / "manifest.json"

    def read(self) -> dict[str, Any]:
        """The manifest as it stands; an empty one where the study has not begun.

        Raises:
            UserError: the file is there and cannot be read.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {"version": VERSION, "runs": {}}
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            data = json.loads(text)
            if data["version"] != VERSION or not isinstance(data["runs"], dict):
                raise ValueError(f"version {data['version']}")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} is no manifest of a study that this version knows: {error}"
            ) from None
        return dict(data)

    @contextmanager
    def edit(self) -> Iterator[dict[str, Any]]:
        """The manifest to change; written when the block ends without an error, other runners waiting meanwhile."""
        lock = RunLock.take(self.folder / "manifest.lock", wait=True)
        assert lock is not None
        try:
            data = self.read()
            yield data
            atomic_write(self.path, json.dumps(data, indent=1) + "\n")
        finally:
            lock.release()

    def set_run(self, key: str, **values: Any) -> None:
        """Change the entry of one run."""
        with self.edit() as data:
            data["runs"].setdefault(key, {}).update(values)

    def lock_path(self, key: str) -> Path:
        """The lock of a run ``arm/seed_0``."""
        return self.folder / "locks" / f"{key.replace('/', '-')}.lock"
