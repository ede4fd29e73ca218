"""The words of the seed's training command, read by the table of its flags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from atelier.errors import UserError, did_you_mean
from atelier.options.fusion_train_table import FLAGS, Flag, flag

_MOST = {"switch": 0, "text": 1, "list": 1, "whole": 1, "number": 1, "wholes": 2, "numbers": 2}


def read_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Flag -> value, and the ``key=value`` words in between; ``--flag=value`` and ``--flag-name`` are understood.

    Raises:
        UserError: every mistake in one message.
    """
    given: dict[str, Any] = {}
    overrides: list[str] = []
    problems: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if "=" in word:
                overrides.append(word)
            else:
                problems.append(f"'{word}' belongs to no flag; an override is written key=value")
            continue
        name, equals, attached = word.partition("=")
        name = "--" + name[2:].replace("-", "_")
        entry = flag(name)
        taken = [attached] if equals else _values(rest, 2 if entry is None else _MOST[entry.kind])
        if entry is None:
            problems.append(f"{name}: unknown flag{did_you_mean(name, [each.name for each in FLAGS])}")
        elif name in given:
            problems.append(f"{name} is given twice")
        else:
            try:
                given[name] = _value(entry, taken)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    return given, overrides


def _values(rest: list[str], most: int) -> list[str]:
    """Take up to ``most`` words that are no flags and no overrides (a first value may hold a ``=``: paths do)."""
    taken: list[str] = []
    while rest and len(taken) < most and not rest[0].startswith("--") and not (taken and "=" in rest[0]):
        taken.append(rest.pop(0))
    return taken


def _value(entry: Flag, words: list[str]) -> Any:
    kind = entry.kind
    if kind == "switch":
        if words:
            raise ValueError("is a switch and takes no value")
        return True
    values = [
        each
        for word in words
        for each in (word.split(",") if kind in ("list", "wholes", "numbers") else [word])
    ]
    values = [value.strip() for value in values if value.strip()]
    if not values:
        raise ValueError("needs a value")
    if kind == "text":
        return values[0]
    if kind == "list":
        return values
    numbers = [_number(value, int if kind.startswith("whole") else float) for value in values]
    if kind in ("whole", "number"):
        return numbers[0]
    if len(numbers) > 2:
        raise ValueError(f"given {len(numbers)} numbers, one or two belong here")
    return numbers


def _number(text: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"given '{text}', a {'whole ' if kind is int else ''}number belongs here") from None
