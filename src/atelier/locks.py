"""Sole rights to files and folders, as the operating system gives them (``flock``).

A lock holds as long as a process lives that has its file open, so nothing has to be cleaned up after a kill.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from atelier.errors import UserError
from atelier.files import describe_os_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TRIES = 100


class LocksUnsupported(UserError):
    """The file system cannot lock files, as some network file systems cannot, or the operating system has no flock."""


class RunLock:
    """Sole right to something, held by this process and by those that inherit :attr:`descriptor`."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path

    @classmethod
    def take(cls, path: Path, *, wait: bool = False) -> RunLock | None:
        """The lock at ``path``, or None while another process has it (with ``wait``: never None).

        The file names the owner's process id and host. An owner that died has no lock any more: its file is taken over.

        Raises:
            LocksUnsupported: the file system has no locks; the file is there all the same.
            UserError: the file cannot be written.
        """
        for _ in range(_TRIES):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a+", encoding="utf-8")
            except FileNotFoundError:
                continue  # an owner that removes its folder was between the two lines
            except OSError as error:
                raise UserError(describe_os_error(error, path)) from error
            if fcntl is None:
                file.close()
                raise LocksUnsupported(f"{path}: this operating system cannot lock files (flock)")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                file.close()
                return None
            except OSError as error:
                file.close()
                raise LocksUnsupported(
                    f"{path}: this file system cannot lock files: {error.strerror}"
                ) from error
            if _is_open_at(file, path):
                note_owner(file.fileno())
                return cls(file, path)
            file.close()  # its owner took the name away meanwhile: the lock is on a file that nobody else finds
        raise UserError(f"{path} cannot be locked: it vanishes again and again")

    @property
    def descriptor(self) -> int:
        """For ``pass_fds`` of a child that shall hold the lock as well."""
        return self._file.fileno()

    def release(self, *, remove: bool = False) -> None:
        """Give the right back (a child that inherited it keeps it until it ends); with ``remove`` the file goes too."""
        if remove:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
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


def _is_open_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
