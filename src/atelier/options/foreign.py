"""Turning another program's option file into ours: what was read, what was written and from where, notes, mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, ClassVar

from atelier.errors import UserError, nearest
from atelier.options.foreign_table import KeyTable
from atelier.options.messages import show
from atelier.options.overrides import OptionTree
from atelier.options.places import KeyPath, dotted

#: A misspelt key is an error above this likeness; further away it is taken for a fork's own key.
_MISSPELT = 0.75


@dataclass
class ForeignTree(OptionTree):
    """Converted options whose places name the line and the key of the file they came from."""

    sources: dict[KeyPath, KeyPath] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """``FILE:LINE (netG.depths)``, or as for any tree where the key came from elsewhere."""
        where = super().place(path)
        if where == "command line":
            return where
        source = next(
            (self.sources[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.sources), None
        )
        if source is None:
            return where
        return f"{where} ({dotted(source)})" if where else dotted(source)


class Conversion:
    """Reads another program's tree key by key and collects ours; a key that nobody reads is found at the end.

    A misspelt key is a mistake, but read as the one that was meant: else all that needs it would complain as well.

    Args:
        name: the file, for messages; None where the options came from Python.
        data: the other program's options.
        lines: key path -> line in the file.
    """

    #: Every key of the program.
    table: ClassVar[KeyTable]
    #: Sections, beside ``datasets``, whose keys are read one by one.
    sections_read: ClassVar[tuple[str, ...]]
    #: What the members of ``datasets`` are called; longer names may begin so.
    data_sets: ClassVar[tuple[str, ...]]
    #: Whether a key that the program does not know is a mistake; else it is named and ignored.
    strict: ClassVar[bool]

    def __init__(self, name: str | None, data: dict[str, Any], lines: dict[KeyPath, int]) -> None:
        self.name = name
        self.data = data
        self.lines = lines
        self.tree = ForeignTree(name, {}, {(): lines.get((), 1)} if lines else {})
        self.notes: list[str] = []
        #: Section path -> why a key there that was not read does nothing ("dataset_type 'sr' does not read it").
        self.idle: dict[KeyPath, str] = {}
        self._read: set[KeyPath] = set()
        self._problems: list[tuple[int, str]] = []
        #: Misspelt keys, told before everything else.
        self._causes: list[tuple[int, str]] = []
        self._mend()

    # ------------------------------------------------------------------ reading

    def has(self, *path: str) -> bool:
        """Whether a key is there and not null (which is taken for left out)."""
        return self._look(path) is not None

    def get(self, *path: str, default: Any = None) -> Any:
        """The value of a key, ``default`` where it is left out or null; the key counts as read."""
        self._read.add(path)
        value = self._look(path)
        return default if value is None else value

    def need(self, *path: str, otherwise: Any) -> Any:
        """As :meth:`get` for a key that the program cannot run without; leaving it out is noted."""
        if not self.has(*path):
            self.note(
                f"left out, which {self.table.program} cannot run with; {show(otherwise)} is taken", path
            )
        return self.get(*path, default=otherwise)

    def sections(self, path: KeyPath) -> dict[str, Any]:
        """The mapping at ``path``, {} where it is left out; anything else is a mistake."""
        value = self._look(path)
        self._read.add(path)
        if value is not None and not isinstance(value, dict):
            raise self.error(f"given {show(value)}, a section of keys belongs here", path)
        return value or {}

    def _look(self, path: KeyPath) -> Any:
        value: Any = self.data
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return value

    # ------------------------------------------------------------------ writing

    def put(self, ours: str, value: Any, source: KeyPath | None = None) -> None:
        """Set ``a.b.c`` in our tree; ``source`` is the key that it comes from."""
        path: tuple[str, ...] = tuple(ours.split("."))
        holder = self.tree.data
        for part in path[:-1]:
            holder = holder.setdefault(part, {})
        holder[path[-1]] = value
        if source is None:
            return
        self.tree.sources[path] = source
        if not self.lines:
            return
        self.tree.lines[path] = self.line(source)
        size = len(source)
        for known, line in self.lines.items():
            if known[:size] == source:
                self.tree.lines[path + known[size:]] = line

    def move(self, source: KeyPath, ours: str) -> None:
        """Carry a value over as it is; nothing where it is left out or null."""
        value = self.get(*(str(part) for part in source))
        if value is not None:
            self.put(ours, value, source)

    # ------------------------------------------------------------------ messages

    def line(self, path: KeyPath) -> int:
        """The line of a key of the file, or of the nearest section around it."""
        return next(
            (self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), 1
        )

    def _where(self, path: KeyPath) -> str:
        return f"{self.name}:{self.line(path)}: " if self.name is not None else ""

    def _message(self, text: str, path: KeyPath) -> str:
        return f"{self._where(path)}{dotted(path)}: {text}" if path else f"{self._where(path)}{text}"

    def note(self, text: str, path: KeyPath) -> None:
        """Something to know that is no mistake."""
        self.notes.append(self._message(text, path))

    def error(self, text: str, path: KeyPath) -> UserError:
        """A mistake after which nothing else is worth checking; raise it."""
        return UserError(self._message(text, path))

    def problem(self, text: str, path: KeyPath) -> None:
        """A mistake; told together with all others at the end."""
        self._problems.append((self.line(path), self._message(text, path)))

    @contextmanager
    def problems_first(self) -> Iterator[None]:
        """Raise what was collected when the block ends: misspelt keys, then the rest, each sorted by line."""
        causes = [text for _, text in sorted(self._causes)]
        try:
            yield
        except UserError as error:
            raise UserError("\n".join([*causes, str(error)])) from None
        if causes or self._problems:
            raise UserError("\n".join([*causes, *(text for _, text in sorted(self._problems))]))

    # ------------------------------------------------------------------ misspelt keys

    def _mend(self) -> None:
        """Name every misspelt key whose right name is not there as well, and read it under that name."""
        self._mend_section((), "")
        for section in self.sections_read:
            self._mend_section((section,), section)
        for name in list(self._names(("datasets",))):
            if not str(name).startswith(self.data_sets):
                like = nearest(str(name), self.data_sets)
                self._rename(("datasets", name), like if like and _alike(str(name), like) else None, "")
        for name in self._names(("datasets",)):
            self._mend_section(("datasets", name), "datasets")

    def _mend_section(self, path: KeyPath, section: str) -> None:
        for name in list(self._names(path)):
            if self.table.find(section, str(name)) is None:
                why = f" ({self.table.program} would ignore it silently)"
                self._rename((*path, name), self._meant(str(name), section), why)

    def _names(self, path: KeyPath) -> dict[str, Any]:
        value = self._look(path)
        return value if isinstance(value, dict) else {}

    def _rename(self, place: KeyPath, meant: str | None, why: str) -> None:
        holder, name = place[:-1], place[-1]
        if meant is None or meant in self._names(holder):
            return
        self._causes.append(
            (self.line(place), self._message(f"unknown key; did you mean '{meant}'?{why}", place))
        )
        self.data = _renamed(self.data, holder, name, meant)
        size = len(place)
        under = {
            (*holder, meant, *key[size:]): line for key, line in self.lines.items() if key[:size] == place
        }
        self.lines = self.lines | under

    def _meant(self, name: str, section: str) -> str | None:
        """The key of the program that an unknown one is a misspelling of."""
        like = nearest(name, self.table.names(section))
        return like if like is not None and _alike(name, like) else None

    # ------------------------------------------------------------------ keys that nobody read

    def finish(self) -> None:
        """Every key that was not read: noted with the reason, or a mistake where it is a known one misspelt."""
        self._rest((), "")
        for section in self.sections_read:
            if isinstance(self.data.get(section), dict):
                self._rest((section,), section)
        for key, value in (self._look(("datasets",)) or {}).items():
            if isinstance(value, dict):
                self._rest(("datasets", key), "datasets")

    def _rest(self, path: KeyPath, section: str) -> None:
        reasons: dict[str, list[KeyPath]] = {}
        for name in self._look(path) or {}:
            place = (*path, name)
            if place in self._read or (not path and name in (*self.sections_read, "datasets")):
                continue
            known = self.table.find(section, name)
            if known is None:
                self._unknown(place, section)
                continue
            reason = known.why if not known.ours else self.idle.get(path, "nothing here reads it")
            reasons.setdefault(reason, []).append(place)
        for reason, places in reasons.items():
            does = "does" if len(places) == 1 else "do"
            self.notes.append(f"{self._where(places[0])}{_names(places)}: {does} nothing: {reason}")

    def _unknown(self, place: KeyPath, section: str) -> None:
        name, program = str(place[-1]), self.table.program
        like = self._meant(name, section)
        elsewhere = " and ".join(self.table.sections_with(name))
        if like is not None:
            self.problem(f"unknown key; did you mean '{like}'? ({program} would ignore it silently)", place)
        elif self.strict:
            known = ", ".join(self.table.names(section))
            hint = f"it belongs to {elsewhere}" if elsewhere else f"known here: {known}"
            self.problem(f"unknown key; {hint} ({program} would ignore it silently)", place)
        elif elsewhere:
            self.note(f"does nothing here: {program} reads it in {elsewhere}", place)
        else:
            self.note(f"unknown key, ignored by {program} and here", place)


def _alike(name: str, like: str) -> bool:
    if like.lower().startswith(name.lower()):
        return True
    return SequenceMatcher(None, name.lower(), like.lower()).ratio() >= _MISSPELT


def _renamed(data: dict[str, Any], holder: KeyPath, name: str | int, meant: str) -> dict[str, Any]:
    """``data`` with one key under ``holder`` renamed in its place; what the caller holds stays as it is."""
    if holder:
        first = str(holder[0])
        return {**data, first: _renamed(data[first], holder[1:], name, meant)}
    return {meant if key == name else key: value for key, value in data.items()}


def _names(places: Iterable[KeyPath]) -> str:
    first, *others = places
    return ", ".join([dotted(first), *(str(place[-1]) for place in others)])
