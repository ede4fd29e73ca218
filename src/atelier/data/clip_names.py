"""Files that a table names: found by their exact names, and told all at once where they are missing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from atelier.errors import UserError

_SHOWN = 10


class Folders:
    """Listings of folders, each read once: names are compared as they are, also where the file system would not."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str] | None] = {}

    def names(self, folder: Path) -> frozenset[str] | None:
        """What a folder holds; None where it is no folder."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(entry.name for entry in folder.iterdir())
            except OSError:
                self._names[folder] = None
        return self._names[folder]

    def has(self, path: Path) -> bool:
        """Whether a file is there under exactly this name."""
        names = self.names(path.parent)
        return names is not None and path.name in names

    def problem(self, path: Path) -> str:
        """A missing file and what lies nearest."""
        folder, missing = path.parent, path.name
        while (names := self.names(folder)) is None and folder != folder.parent:
            folder, missing = folder.parent, folder.name
        where = f" (there is no {folder / missing})" if folder != path.parent else ""
        return f"{path}{where}{self.nearest(missing, names or ())}"

    @staticmethod
    def nearest(name: str, known: Iterable[str]) -> str:
        """``; nearest: '0001', '00010'`` or nothing."""
        close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
        return f"; nearest: {', '.join(repr(each) for each in close)}" if close else ""


class Wanted:
    """Files that tables ask for; :meth:`check` tells of all that are missing in one message."""

    def __init__(self) -> None:
        self.folders = Folders()
        self._missing: dict[Path, str] = {}

    def __call__(self, path: Path, line: str) -> Path:
        """``path``, noted where it is missing; ``line``: which line of the table names it."""
        if not self.folders.has(path):
            self._missing.setdefault(path, line)
        return path

    def among(self, roots: Sequence[Path], name: str, line: str) -> Path:
        """The file of this name below one of the roots.

        Raises:
            UserError: two roots have it.
        """
        found = [root / name for root in roots if self.folders.has(root / name)]
        if len(found) > 1:
            raise UserError(
                f"{line}: '{name}' is in {found[0].parent} and in {found[1].parent}; which is meant?"
            )
        return found[0] if found else self(roots[0] / name, line)

    def check(self, key: str) -> None:
        """Raise :class:`UserError` where files are missing: how many, the first ten, and what lies nearest."""
        if not self._missing:
            return
        first = [
            f"  {self.folders.problem(path)} ({line})" for path, line in list(self._missing.items())[:_SHOWN]
        ]
        count = len(self._missing)
        shown = f"; the first {_SHOWN}" if count > _SHOWN else ""
        raise UserError("\n".join([f"{key}: {count} file{'s' * (count > 1)} missing{shown}:", *first]))
