"""Names of taps: exact names, globs and calls (``block#2``), and what an unknown one is answered with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from atelier.errors import UserError
from atelier.objectives.distill.layout import Size
from atelier.objectives.distill.survey import Place, Survey

# So many names are spelt out with shape and depth; the rest is given as patterns.
_SPELT_OUT = 12


def resolve(names: Sequence[str], found: Survey, size: Size, where: str) -> list[Place]:
    """The places that ``names`` stand for, in their order; those of a glob in the order of the forward pass.

    ``*`` and ``?`` stay inside one part of a dotted name, ``**`` does not. A glob takes what can be tapped among
    its matches. ``block#2`` is the second call of a module; a module that is called several times needs it.

    Args:
        names: what the user wrote.
        found: what the network has.
        size: (height, width) of the input for which shapes are told.
        where: the key of ``names`` in the option file, for messages.

    Raises:
        UserError: an unknown name, one that cannot be tapped, one that stands for several calls, or one that comes
            twice.
    """
    taps: list[Place] = []
    for name in names:
        for place in _matches(name, found, size, where):
            if place in taps:
                raise UserError(f"{where}: '{place.name}' is named twice in {', '.join(names)}")
            taps.append(place)
    return taps


def _matches(name: str, found: Survey, size: Size, where: str) -> list[Place]:
    module, _, call = name.partition("#")
    is_glob = any(sign in module for sign in "*?[")
    try:
        matches = _pattern(module).fullmatch
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    places = [
        each
        for each in found.places.values()
        if matches(each.module) and (not call or str(each.call) == call)
    ]
    several = sorted({each.module for each in places if found.calls[each.module] > 1})
    if several and not call:
        count = found.calls[several[0]]
        raise UserError(
            f"{where}: '{several[0]}' is called {count} times in one forward pass; say which call is meant: "
            f"'{several[0]}#1' to '{several[0]}#{count}'"
        )
    if places:
        return places
    refused = [other for other in found.refused if matches(other.partition("#")[0])]
    calls = [found.calls[each] for each in found.calls if matches(each)]
    if call and calls and not (call.isdigit() and 1 <= int(call) <= max(calls)):
        times = "once" if max(calls) == 1 else f"{max(calls)} times"
        what = f"does not exist: {module} is called {times} in one forward pass"
    elif is_glob:
        what = "matches nothing that can be tapped"
        what += f": {refused[0]} {found.refused[refused[0]]}" if refused else ""
    else:
        what = found.refused[refused[0]] if refused else "does not exist"
    raise UserError(f"{where}: '{name}' {what}; {available(name, found, size)}")


def available(word: str, found: Survey, size: Size) -> str:
    """What can be tapped: the names most like ``word`` with shape and depth, then all others as patterns."""
    if not found.places:
        return "no module of this network gives a map of the picture"
    letters = re.sub(r"[*?\[\]]", "", word).lower()

    def likeness(place: Place) -> float:
        return -SequenceMatcher(None, letters, place.name.lower(), autojunk=False).ratio()

    # Without a word to compare with, the outermost come first.
    ordered = sorted(found.places.values(), key=likeness if letters else lambda place: place.name.count("."))
    near, far = ordered[:_SPELT_OUT], ordered[_SPELT_OUT:]
    text = "available: " + ", ".join(described(place, size) for place in near)
    if far:
        text += "; also " + ", ".join(_patterns(place.name for place in far))
    return text


def described(place: Place, size: Size) -> str:
    """``layers.0 (60×64×64, depth 25 %)``."""
    shape = "×".join(map(str, place.layout.shape(size)))
    return f"{place.name} ({shape}, depth {place.depth:.0%})".replace("%", " %")


def _patterns(names: Iterable[str]) -> list[str]:
    """Names that differ in their numbers alone are one pattern."""
    together: Counter[str] = Counter()
    single: dict[str, str] = {}
    for name in names:
        pattern = re.sub(r"\d+", "*", name)
        together[pattern] += 1
        single[pattern] = name
    return [single[pattern] if count == 1 else f"{pattern} ({count})" for pattern, count in together.items()]


def _pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression over a whole name."""
    signs = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", glob)
    whole = "".join(
        signs.get(part) or (part.replace("[!", "[^") if part[:1] == "[" else re.escape(part))
        for part in parts
    )
    try:
        return re.compile(whole)
    except re.error as error:
        raise UserError(f"'{glob}' is no pattern of names: {error.msg}") from None
