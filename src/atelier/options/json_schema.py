"""JSON Schema (draft 2020-12) of an option file, for completion and checks in editors.

It is made from the same classes that check a run, every registered component included. A component may be written
as its bare name; a mapping without ``type`` is allowed only where the registry's field has a default.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from atelier.options.base import Registered
from atelier.options.describe import article, sections_beside

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def options_json_schema(model: type[BaseModel] | None = None) -> dict[str, Any]:
    """The schema of an option file; ``model`` defaults to :class:`~atelier.options.schema.RunOptions`."""
    if model is None:
        from atelier.options.schema import RunOptions

        model = RunOptions
    schema = model.model_json_schema(schema_generator=_Generator, mode="validation")
    for section, (_, options_class) in sections_beside(model).items():
        place = {"anyOf": [{"$ref": f"#/$defs/{options_class}"}, {"type": "null"}]}
        schema["properties"] = {**schema["properties"], section: place}
    return {"$schema": DIALECT, **schema}


def json_schema_text(model: type[BaseModel] | None = None) -> str:
    """:func:`options_json_schema` as indented JSON text."""
    return json.dumps(options_json_schema(model), indent=2, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """Pydantic's generator; unions of components get their ``type`` and the bare-name form spelled out."""

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        owner = getattr(schema["discriminator"], "__self__", None)
        if not isinstance(owner, Registered):
            return super().tagged_union_schema(schema)
        choices: list[JsonSchemaValue] = []
        for name, choice in schema["choices"].items():
            inner = self.generate_inner(choice)
            # Without `required`, a mapping with no type would fit every component whose keys all have defaults.
            choices.append(inner if name == owner.default else {"allOf": [inner], "required": ["type"]})
        names: JsonSchemaValue = {
            "enum": owner.registry.names(),
            "description": f"{article(owner.registry.kind)} with its defaults",
        }
        return {"anyOf": [names, *choices]}
