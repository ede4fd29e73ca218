"""What has become of every run of a study, and who works on it.

``manifest.json`` is replaced whole, under a lock, so that several runners share one study and a full disk leaves the
last readable state. A training process inherits the lock of its run (:mod:`atelier.locks`), which therefore stays
taken when only the runner died.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.files import atomic_write
from atelier.locks import RunLock

PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"
VERSION = 1


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
