"""Names: files that tables name, missing ones told all at once; and names of films that differ."""

from __future__ import annotations

import difflib
import os
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


def film_names(films: Sequence[tuple[Path, str]]) -> list[str]:
    """A name of its own for each film of several roots: ``ROOT/FILM``, or more of the path where two would be equal.

    Args:
        films: root and name within it. Where a root is given twice, the second time has numbers: ``ROOT/FILM_2``.
    """
    # Not resolved: a root that is a link keeps the name that it was given by.
    found = [(Path(os.path.abspath(root)), name) for root, name in films]  # noqa: PTH100
    depths = {root: 1 for root, _ in found}
    while True:
        names = ["/".join((*root.parts[1:][-depths[root] :], name)) for root, name in found]
        roots: dict[str, set[Path]] = {}
        for (root, _), name in zip(found, names, strict=True):
            roots.setdefault(name, set()).add(root)
        alike = set().union(*(each for each in roots.values() if len(each) > 1))
        longer = [root for root in alike if depths[root] < len(root.parts) - 1]
        if not longer:
            return numbered(names)
        for root in longer:
            depths[root] += 1


def numbered(names: Sequence[str]) -> list[str]:
    """The same names; ``_2``, ``_3`` ... behind those that were there before, so that none stands there twice."""
    taken, result = set(names), []
    seen: set[str] = set()
    for name in names:
        new, number = name, 2
        while new in seen or (new != name and new in taken):
            new, number = f"{name}_{number}", number + 1
        seen.add(new)
        result.append(new)
    return result
