"""What a key of the schema allows, in plain words, and which key an error of pydantic speaks of.

Both are read off the annotations of the options classes, so a new option needs no text of its own here.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from atelier.options.base import Registered, Registry
from atelier.options.places import KeyPath

_WORDS = {
    bool: ("true or false", "true or false values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
}
_LIMITS = (
    ("gt", "greater than"),
    ("ge", "at least"),
    ("lt", "less than"),
    ("le", "at most"),
    ("multiple_of", "a multiple of"),
)


@dataclass(frozen=True)
class Slot:
    """A place in the schema: an annotation without ``Annotated`` around it, and what was annotated to it."""

    annotation: Any
    metadata: tuple[Any, ...] = ()

    @classmethod
    def of(cls, annotation: Any, metadata: Iterable[Any] = ()) -> Slot:
        """The slot of an annotation, with nested ``Annotated`` and ``Field`` opened up."""
        found = list(metadata)
        while typing.get_origin(annotation) is Annotated:
            annotation, *extra = typing.get_args(annotation)
            found = [*extra, *found]
        flat: list[Any] = []
        for entry in found:
            flat.extend(entry.metadata if isinstance(entry, FieldInfo) else [entry])
        return cls(annotation, tuple(flat))

    @property
    def registry(self) -> Registry[Any] | None:
        """The registry whose components may stand here."""
        return next((entry.registry for entry in self.metadata if isinstance(entry, Registered)), None)

    @property
    def default_type(self) -> str | None:
        """The component that is meant where its mapping leaves ``type`` out."""
        return next((entry.default for entry in self.metadata if isinstance(entry, Registered)), None)

    @property
    def model(self) -> type[BaseModel] | None:
        """The options class that stands here (not a component of a registry)."""
        if (
            self.registry is None
            and isinstance(self.annotation, type)
            and issubclass(self.annotation, BaseModel)
        ):
            return self.annotation
        return None

    def members(self) -> list[Slot]:
        """The alternatives of a union without ``None``; the slot itself where it is no union."""
        if self.registry is None and typing.get_origin(self.annotation) in {Union, types.UnionType}:
            return [
                Slot.of(member) for member in typing.get_args(self.annotation) if member is not types.NoneType
            ]
        return [self]

    @property
    def nullable(self) -> bool:
        """Whether ``~`` may stand here."""
        return types.NoneType in typing.get_args(self.annotation)

    def child(self, item: str | int) -> Slot | None:
        """The slot one key or list position below; None where nothing can be."""
        origin, arguments = typing.get_origin(self.annotation), typing.get_args(self.annotation)
        if self.model is not None and isinstance(item, str):
            return _field_slot(self.model, item)
        if isinstance(item, int) and _is_sequence(origin) and arguments:
            if origin is tuple and arguments[-1] is not Ellipsis:
                return Slot.of(arguments[item]) if item < len(arguments) else None
            return Slot.of(arguments[0])
        if _is_mapping(origin) and len(arguments) == 2:
            return Slot.of(arguments[1])
        return None


@dataclass
class Found:
    """Where an error's location leads: the key path, its slot, and what stands there.

    Attributes:
        path: the location without the labels that pydantic puts in for unions and components.
        slot: the annotation at ``path``; None where the schema could not be followed so far.
        models: the options classes that may stand at ``path`` (after labels).
        unions: the key paths of the unions that were passed, ``path`` included.
    """

    path: KeyPath = ()
    slot: Slot | None = None
    models: list[type[BaseModel]] = field(default_factory=list)
    unions: list[KeyPath] = field(default_factory=list)


def follow(model: type[BaseModel], location: Sequence[str | int]) -> Found:
    """Follow the ``loc`` of a pydantic error through the schema of ``model``."""
    found = Found(slot=Slot(model))
    candidates = [Slot(model)]
    open_union = False
    for place, item in enumerate(location):
        if open_union:
            found.unions.append(found.path)
            candidates = [slot for slot in candidates if _fits_label(slot, str(item))] or candidates
            open_union = False
            continue
        registry = next((slot.registry for slot in candidates if slot.registry is not None), None)
        if registry is not None and item in registry:
            candidates = [Slot(registry.options_class(str(item)))]
            continue
        below = next((child for slot in candidates if (child := slot.child(item)) is not None), None)
        found.path = (*found.path, item)
        found.slot = below
        if below is None:
            found.path = (*found.path, *location[place + 1 :])
            candidates = []
            break
        candidates = below.members()
        open_union = len(candidates) > 1
    found.models = [slot.model for slot in candidates if slot.model is not None]
    return found


def describe(slot: Slot) -> str:
    """What may stand in ``slot``: ``a whole number, at least 1``, ``'fp32', 'bf16' or 'fp16'``, ..."""
    members = slot.members()
    words = " or ".join(dict.fromkeys(_describe_one(member) for member in members))
    if members != [slot]:
        words += _limits(slot.metadata, sized="items")
    return f"{words} or null" if slot.nullable else words


def key_names(models: Iterable[type[BaseModel]]) -> list[str]:
    """The keys that these options classes know, as they are written in an option file."""
    names: dict[str, None] = {}
    for model in models:
        for name, info in model.model_fields.items():
            names[_spellings(name, info)[0]] = None
    return list(names)


def sections_with(model: type[BaseModel], key: str, path: KeyPath = ()) -> list[KeyPath]:
    """The sections of ``model`` (not components) that own a key of this name."""
    found = [path] if key in key_names([model]) else []
    for name, info in model.model_fields.items():
        inner = Slot.of(info.annotation, info.metadata).model
        if inner is not None:
            found.extend(sections_with(inner, key, (*path, _spellings(name, info)[0])))
    return found


def components_with(
    model: type[BaseModel], key: str, data: Mapping[str, Any], path: KeyPath = ()
) -> list[KeyPath]:
    """The places of ``data`` whose component, by its ``type`` or the default one, owns a key of this name."""
    found: list[KeyPath] = []
    for name, info in model.model_fields.items():
        spelt = _spellings(name, info)[0]
        inside = data.get(spelt)
        for slot in Slot.of(info.annotation, info.metadata).members():
            if slot.model is not None and isinstance(inside, Mapping):
                found.extend(components_with(slot.model, key, inside, (*path, spelt)))
            given = {"type": inside} if isinstance(inside, str) else inside
            kind = given.get("type", slot.default_type) if isinstance(given, Mapping) else None
            if slot.registry is not None and isinstance(kind, str) and kind in slot.registry:
                owns = key in key_names([slot.registry.options_class(kind)])
                found += [(*path, spelt)] if owns else []
    return found


def sections_beside(model: type[BaseModel]) -> Mapping[str, tuple[str, str]]:
    """Sections that a file may have beside the fields of ``model``: name -> (the field meant, its options class)."""
    found: Mapping[str, tuple[str, str]] = getattr(model, "SECTIONS", {})
    return found


def article(noun: str) -> str:
    """``a network``, ``an optimiser``."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _spellings(name: str, info: FieldInfo) -> list[str]:
    """The keys that set a field, the main one first."""
    alias = info.validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)] or [name]
    return [alias] if isinstance(alias, str) else [name]


def _field_slot(model: type[BaseModel], key: str) -> Slot | None:
    for name, info in model.model_fields.items():
        if key == name or key in _spellings(name, info):
            return Slot.of(info.annotation, info.metadata)
    if model.model_config.get("extra") == "allow":
        extra = typing.get_type_hints(model, include_extras=True).get("__pydantic_extra__")
        arguments = typing.get_args(extra)
        return Slot.of(arguments[1]) if len(arguments) == 2 else None
    return None


def _fits_label(slot: Slot, label: str) -> bool:
    """Whether pydantic's label of a union member can mean ``slot`` (``int``, ``list[int]``, a class name)."""
    if slot.registry is not None:
        return "tagged-union" in label
    origin = typing.get_origin(slot.annotation)
    name = getattr(origin or slot.annotation, "__name__", "").lower()
    return bool(name) and name in label.lower()


def _is_sequence(origin: Any) -> bool:
    kinds = (list, tuple, set, frozenset, Sequence)
    return isinstance(origin, type) and issubclass(origin, kinds) and not issubclass(origin, str | bytes)


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _describe_one(slot: Slot) -> str:
    kind, origin = slot.annotation, typing.get_origin(slot.annotation)
    if slot.registry is not None:
        names = ", ".join(slot.registry.names())
        return f"the name of {article(slot.registry.kind)} ({names}) or a mapping with its type"
    if slot.model is not None:
        more = ", ..." if slot.model.model_config.get("extra") == "allow" else ""
        return f"a mapping with the keys {', '.join(key_names([slot.model]))}{more}"
    if origin is Literal:
        return _choices(typing.get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choices([member.value for member in kind])
    if _is_sequence(origin or kind):
        return _sequence(slot)
    if _is_mapping(origin or kind):
        arguments = typing.get_args(kind)
        return f"a mapping of names, each to {describe(Slot.of(arguments[1]))}" if arguments else "a mapping"
    singular, _ = _WORDS.get(kind, ("a value", ""))
    return singular + _limits(slot.metadata, sized="characters")


def _sequence(slot: Slot) -> str:
    arguments = typing.get_args(slot.annotation)
    if not arguments:
        return "a list" + _limits(slot.metadata, sized="items")
    slots = [Slot.of(argument) for argument in arguments if argument is not Ellipsis]
    fixed = typing.get_origin(slot.annotation) is tuple and arguments[-1] is not Ellipsis
    count = f"{len(slots)} " if fixed else ""
    alike = all(one == slots[0] for one in slots)
    plural = _WORDS.get(slots[0].annotation, ("", ""))[1]
    if alike and plural:
        inner = _limits(slots[0].metadata, sized="characters")
        each = f", each {inner.removeprefix(', ')}" if inner else ""
        return f"a list of {count}{plural}{each}" + _limits(slot.metadata, sized="items")
    parts = describe(slots[0]) if alike else "; ".join(describe(one) for one in slots)
    head = f"a list of {len(slots)} values" if fixed else "a list"
    return head + _limits(slot.metadata, sized="items") + (f", each {parts}" if alike else f" ({parts})")


def _limits(metadata: Iterable[Any], sized: str) -> str:
    """``, at least 1, less than 5`` from constraints; ``sized`` says what a length counts."""
    words: list[str] = []
    for entry in metadata:
        for attribute, text in _LIMITS:
            limit = getattr(entry, attribute, None)
            if limit is not None:
                words.append(f"{text} {limit}")
        shortest, longest = getattr(entry, "min_length", None), getattr(entry, "max_length", None)
        if shortest:
            words.append("not empty" if shortest == 1 else f"at least {shortest} {sized}")
        if longest is not None:
            words.append(f"at most {longest} {sized}")
        if getattr(entry, "allow_inf_nan", None) is False:
            words.append("finite")
        pattern = getattr(entry, "pattern", None)
        if pattern is not None:
            words.append(f"matching {getattr(pattern, 'pattern', pattern)}")
    return "".join(f", {word}" for word in words)


def _choices(values: Iterable[Any]) -> str:
    words = [repr(value) for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
