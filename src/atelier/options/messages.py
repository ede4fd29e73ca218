"""All that pydantic found wrong, as lines to act on: where, which key, what was given, what is allowed.

train.yml:14: train.optim_g.lr: given 'abc', allowed: a number, greater than 0
train.yml:15: train.optim_g.btas: unknown key, allowed: type, lr, betas; did you mean 'betas'?
command line: train.total_iter: given 0, allowed: a whole number, at least 1
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from atelier.errors import UserError, did_you_mean, nearest
from atelier.options.base import Registry
from atelier.options.describe import (
    Found,
    article,
    components_with,
    describe,
    follow,
    key_names,
    sections_beside,
    sections_with,
)
from atelier.options.overrides import OptionTree
from atelier.options.places import KeyPath, dotted

M = TypeVar("M", bound=BaseModel)

_ABSENT = object()
#: Kinds of error whose own sentence says it all: they come from checks written in our options classes.
_OWN_WORDS = frozenset({"value_error", "assertion_error"})
_LONGEST_GIVEN = 60


@dataclass(frozen=True)
class _Problem:
    path: KeyPath
    text: str
    #: The unions that the error came through; alternatives that were not meant are dropped by it.
    unions: tuple[KeyPath, ...] = ()
    #: False for values that the user did not write (filled in from another key, which has its own error).
    written: bool = True


def validate_tree(model: type[M], tree: OptionTree) -> M:
    """Check ``tree`` against an options class; all problems become one :class:`UserError`."""
    try:
        return model.model_validate(tree.data)
    except ValidationError as error:
        raise explain(error, model, tree) from None


def explain(error: ValidationError, model: type[BaseModel], tree: OptionTree) -> UserError:
    """One error with a line for each problem, sorted by line; the command line's come last.

    Args:
        error: what ``model`` found wrong in ``tree.data``.
        model: the options class that was checked.
        tree: the options as given, and where each came from.
    """
    problems = [_problem(detail, model, tree) for detail in error.errors(include_url=False)]
    lines = {(_order(problem, tree), _render(problem, tree)) for problem in _meant(problems)}
    return UserError("\n".join(text for _, text in sorted(lines)))


def show(value: Any) -> str:
    """A value as it reads in an option file, shortened to one glance."""
    text = in_flow(value)
    return text if len(text) <= _LONGEST_GIVEN else text[: _LONGEST_GIVEN - 3] + "..."


def in_flow(value: Any) -> str:
    """A value on one line, as it reads in an option file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {in_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(in_flow(inner) for inner in value) + "]"
    return repr(value)


def _order(problem: _Problem, tree: OptionTree) -> tuple[float, str]:
    place = tree.place(problem.path)
    line = math.inf if place == "command line" else tree.line(problem.path) or 0
    return line, dotted(problem.path)


def _render(problem: _Problem, tree: OptionTree) -> str:
    key = dotted(problem.path)
    told = problem.text.startswith(f"{key} ")
    return ": ".join(part for part in (tree.place(problem.path), "" if told else key, problem.text) if part)


def _meant(problems: Sequence[_Problem]) -> list[_Problem]:
    """Without what follows from another problem: unmeant alternatives, values filled in from a wrong key."""
    kept = [
        problem
        for problem in problems
        if not (
            problem.path in problem.unions
            and any(
                problem.path in other.unions and len(other.path) > len(problem.path) for other in problems
            )
        )
    ]
    return [problem for problem in kept if problem.written] or kept


def _problem(detail: ErrorDetails, model: type[BaseModel], tree: OptionTree) -> _Problem:
    kind, location = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        return _unknown_key(location, model, tree)
    found = _follow(model, location, tree)
    if kind == "missing" and location and isinstance(location[-1], int):
        # A list that is too short for its fixed length: the list is what is wrong.
        found = _follow(model, location[:-1], tree)
    elif kind == "missing":
        return _missing(found, location, model, tree)
    given = _value_at(tree.data, found.path)
    written = given is not _ABSENT
    given = given if written else detail["input"]
    registry = found.slot.registry if found.slot else None
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        registry = registry or _member_registry(found)
        if registry is not None:
            return _unknown_type(found, given, registry, written)
    text = detail["msg"]
    if kind in _OWN_WORDS:
        text = text.partition(", ")[2]
        # A check over a whole section begins with the key it is about: that key's line is where to look.
        first = text.partition(" ")[0]
        named = (*found.path, *first.split("."))
        value = _value_at(tree.data, named)
        if (found.path or "." in first) and value is not _ABSENT and not isinstance(value, Mapping):
            return _Problem(named, text, tuple(found.unions), written)
        if not isinstance(given, Mapping) and found.path:
            text = f"given {show(given)}: {text}"
    elif found.slot is not None:
        text = f"given {show(given)}, allowed: {describe(found.slot)}"
        if kind == "string_type" and isinstance(given, int | float):
            text += " (write it in quotes)"
    else:
        text = f"given {show(given)}, allowed: {text.removeprefix('Input should be ')}"
    return _Problem(found.path, text, tuple(found.unions), written)


def _follow(model: type[BaseModel], location: Sequence[str | int], tree: OptionTree) -> Found:
    """As :func:`follow`, with key paths as they stand in the file where a section may have a place of its own."""
    found = follow(model, location)
    for section, (key, _) in sections_beside(model).items():
        place = tuple(key.split("."))
        below, inside = tree.data.get(section), _inside(tree.data, place)
        if isinstance(below, Mapping):
            own = inside if isinstance(inside, Mapping) else {}

            def moved(
                path: KeyPath, place: KeyPath = place, section: str = section, own: Any = own
            ) -> KeyPath:
                depth = len(place)
                stays = path[:depth] != place or (len(path) > depth and path[depth] in own)
                return path if stays else (section, *path[depth:])

            found.path, found.unions = moved(found.path), [moved(path) for path in found.unions]
    return found


def _inside(data: Any, place: KeyPath) -> Any:
    """The value at ``place``; None where there is none."""
    for key in place:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _unknown_key(location: Sequence[str | int], model: type[BaseModel], tree: OptionTree) -> _Problem:
    owner = _follow(model, location[:-1], tree)
    key = str(location[-1])
    path = (*owner.path, key)
    known = key_names(owner.models) + ([] if owner.path else list(sections_beside(model)))
    elsewhere = [section for section in sections_with(model, key) if section != owner.path]
    types = _types_with(owner, location, key)
    if nearest(key, known) is not None:
        hint = did_you_mean(key, known)
    elif types:
        fresh = f"{dotted(owner.path)}={{type: {location[-2]}}}"
        hint = f"; it belongs to type {' or '.join(types)}; '{fresh}' begins the section anew"
    elif elsewhere:
        hint = f"; it belongs to {' or '.join(dotted(section) or 'the top level' for section in elsewhere)}"
    else:
        places = (
            [(*section, key) for section in components_with(model, key, tree.data)] if not owner.path else []
        )
        hint = f"; did you mean {' or '.join(map(dotted, places))}?" if places else ""
    return _Problem(path, f"unknown key, allowed: {', '.join(known)}{hint}", tuple(owner.unions))


def _types_with(owner: Found, location: Sequence[str | int], key: str) -> list[str]:
    """The other types that may stand in the component's place and know ``key``."""
    slot = owner.slot
    registry = (slot.registry or _member_registry(owner)) if slot is not None else None
    if registry is None or len(location) < 2 or location[-2] not in registry:
        return []
    return [name for name in registry.names() if key in key_names([registry.options_class(name)])]


def _missing(
    found: Found, location: Sequence[str | int], model: type[BaseModel], tree: OptionTree
) -> _Problem:
    needed = f"; needed: {describe(found.slot)}" if found.slot else ""
    owner = _follow(model, location[:-1], tree)
    siblings = _value_at(tree.data, owner.path)
    strange = (
        [key for key in siblings if key not in key_names(owner.models)] if isinstance(siblings, dict) else []
    )
    typo = nearest(str(location[-1]), strange)
    hint = f"; is it '{typo}' that was meant?" if typo else ""
    return _Problem(found.path, f"missing{needed}{hint}", tuple(found.unions))


def _unknown_type(found: Found, given: Any, registry: Registry[Any], written: bool) -> _Problem:
    names = ", ".join(registry.names())
    path = found.path
    if isinstance(given, Mapping):
        path = (*path, "type")
        if "type" not in given:
            return _Problem(
                path, f"missing; needed: {article(registry.kind)}, one of {names}", tuple(found.unions)
            )
        given = given["type"]
    if isinstance(given, str):
        text = f"given {show(given)}, allowed: {names}{did_you_mean(given, registry.names())}"
    else:
        # Under `type:` only a name can stand; in the component's own place a mapping can, too.
        mapping = "" if path != found.path else "a mapping with a type, or one of "
        text = f"given {show(given)}, allowed: {mapping}{names}"
    return _Problem(path, text, tuple(found.unions), written)


def _member_registry(found: Found) -> Registry[Any] | None:
    """The registry in ``Loss | None`` and the like."""
    members = found.slot.members() if found.slot else []
    return next((member.registry for member in members if member.registry is not None), None)


def _value_at(data: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return data
