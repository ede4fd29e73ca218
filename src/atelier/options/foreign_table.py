"""A table of every key of another program's option files: what each becomes here, or why it does nothing.

One table serves the converter, which names the keys that do nothing and finds the nearest known name of a misspelt
one, and a page in ``docs/``, which a test holds to the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby


@dataclass(frozen=True)
class Key:
    """One key of one section.

    Attributes:
        section: "", "path", "datasets" (any data set), "train" ...
        name: the key; ``D_*`` stands for every key that begins so.
        ours: what it becomes; empty where it does nothing in a run of ours.
        why: what to know about it; for a key that does nothing: the reason.
        refused: it is a mistake in any file.
    """

    section: str
    name: str
    ours: str = ""
    why: str = ""
    refused: bool = False

    def matches(self, name: str) -> bool:
        """Whether the key ``name`` is meant."""
        return name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name


@dataclass(frozen=True)
class KeyTable:
    """All keys of one program.

    Attributes:
        program: its name.
        keys: every key, in the order of the page.
        same: section -> our sections under which keys mostly keep their names, which the page says in few words.
    """

    program: str
    keys: tuple[Key, ...]
    same: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def find(self, section: str, name: str) -> Key | None:
        """The entry for a key, exact names before patterns; None where the program has no such key."""
        matching = [key for key in self.keys if key.section == section and key.matches(name)]
        return min(matching, key=lambda key: key.name.endswith("*"), default=None)

    def names(self, section: str) -> list[str]:
        """The names of a section, without patterns."""
        return [key.name for key in self.keys if key.section == section and not key.name.endswith("*")]

    def sections_with(self, name: str) -> list[str]:
        """The sections that have a key of this name, for messages."""
        return sorted({key.section or "the top level" for key in self.keys if key.name == name})

    def markdown(self) -> str:
        """The table as it stands in the page; neighbours of which the same is said share a row."""
        rows = [f"| {self.program} | here | |", "|---|---|---|"]
        for (section, ours, why), keys in groupby(self.keys, self._row):
            prefix = f"{'datasets.*' if section == 'datasets' else section}." if section else ""
            names = [key.name for key in keys]
            theirs = ", ".join([f"`{prefix}{names[0]}`", *(f"`{name}`" for name in names[1:])])
            rows.append(f"| {theirs} | {ours} | {why} |")
        return "\n".join(rows) + "\n"

    def _row(self, key: Key) -> tuple[str, str, str]:
        if not key.ours:
            return key.section, "refused" if key.refused else "does nothing", key.why
        for prefix in self.same.get(key.section, ()):
            if key.ours == (f"{prefix}.{key.name}" if prefix else key.name):
                same = "the same" if prefix == key.section else f"`{prefix}`, the same name"
                return key.section, same, key.why
        return key.section, f"`{key.ours}`", key.why
