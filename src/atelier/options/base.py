"""Options that build their component, and the registry that finds them by ``type:``.

A component (network, loss, objective, degradation, data set, optimiser, ...) owns an options class derived from
:class:`Component`. Its registry holds an explicit table ``name -> "module:Class"``; nothing is found by scanning
files. Option modules import neither torch nor OpenCV at module level: a mistake in an option file must be found
before anything heavy is loaded. ``build`` imports what it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import core_schema

from atelier.errors import UserError, did_you_mean


class Options(BaseModel):
    """Base of every options class: unknown keys are errors, values are immutable once checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    @classmethod
    def or_written_as(cls, schema: dict[str, Any], short: dict[str, Any]) -> dict[str, Any]:
        """For ``__get_pydantic_json_schema__``: the class's JSON Schema, or its ``short`` form (a number, a path)."""
        whole = dict(schema)
        schema.clear()
        schema["anyOf"] = [whole, short]
        return schema


class Component(Options):
    """Options of one component. Subclasses narrow ``type`` to a ``Literal`` of their registry name."""

    type: str


C = TypeVar("C", bound=Component)


class Registry(Generic[C]):
    """An explicit table from ``type:`` names to options classes, loaded on first use.

    Args:
        kind: what the components are, for messages ("network", "loss").
        table: name -> "package.module:OptionsClass".
    """

    def __init__(self, kind: str, table: dict[str, str]) -> None:
        self.kind = kind
        self._targets: dict[str, str | type[C]] = dict(table)

    def register(self, name: str, target: str | type[C]) -> None:
        """Add a component (used by plug-ins). A name that is taken is an error, never an override."""
        if name in self._targets:
            raise UserError(f"{self.kind} '{name}' is registered already; choose another name")
        self._targets[name] = target

    def names(self) -> list[str]:
        """All registered names, in the order of registration."""
        return list(self._targets)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def options_class(self, name: str) -> type[C]:
        """The options class of ``name``; raises :class:`UserError` naming the nearest known one."""
        target = self._targets.get(name)
        if target is None:
            raise UserError(
                f"unknown {self.kind} '{name}'{did_you_mean(name, self._targets)} known: {', '.join(self._targets)}"
            )
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            loaded: type[C] = getattr(importlib.import_module(module), attribute)
            self._targets[name] = loaded
            return loaded
        return target


class Registered:
    """Annotation for a field that holds any component of a registry, told apart by ``type:``.

    Use it as ``Annotated[SerializeAsAny[NetworkOptions], Registered(NETWORKS)]``. A bare string stands for
    ``{type: string}``; where ``default`` is given a mapping may leave ``type`` out. Models that use it are rebuilt
    with ``model_rebuild(force=True)`` after a plug-in registered new names.
    """

    def __init__(self, registry: Registry[Any], default: str | None = None) -> None:
        self.registry = registry
        self.default = default

    def _tag(self, value: Any) -> str | None:
        if isinstance(value, Component):
            return value.type
        if isinstance(value, dict):
            tag = value.get("type", self.default)
            return tag if isinstance(tag, str) else None
        return None

    def _spell_out(self, value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value}
        if isinstance(value, dict) and "type" not in value and self.default is not None:
            return {"type": self.default, **value}
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        choices = {
            name: handler.generate_schema(self.registry.options_class(name)) for name in self.registry.names()
        }
        tagged = core_schema.tagged_union_schema(choices, discriminator=self._tag)
        return core_schema.no_info_before_validator_function(
            self._spell_out,
            tagged,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            ),
        )
