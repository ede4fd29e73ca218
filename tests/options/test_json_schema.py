"""The JSON Schema says what the check of a run says, as far as a schema can."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from atelier.options.json_schema import DIALECT, json_schema_text, options_json_schema
from atelier.options.read import program_of
from atelier.options.source import read_option_file

_SHIPPED = Path(__file__).resolve().parents[2] / "options"


def valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema 2020-12 that pydantic writes; an unknown keyword is an error."""
    kinds = {
        "string": lambda v: isinstance(v, str),
        "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
        "boolean": lambda v: isinstance(v, bool),
        "null": lambda v: v is None,
        "array": lambda v: isinstance(v, list),
        "object": lambda v: isinstance(v, dict),
    }
    number = kinds["number"](value)
    rules: dict[str, Any] = {
        "$ref": lambda s: valid(value, root["$defs"][s.rsplit("/", 1)[1]], root),
        "anyOf": lambda s: any(valid(value, one, root) for one in s),
        "allOf": lambda s: all(valid(value, one, root) for one in s),
        "enum": lambda s: value in s,
        "const": lambda s: value == s,
        "type": lambda s: kinds[s](value),
        "required": lambda s: not isinstance(value, dict) or all(key in value for key in s),
        "properties": lambda s: (
            not isinstance(value, dict)
            or all(valid(value[k], one, root) for k, one in s.items() if k in value)
        ),
        "additionalProperties": lambda s: (
            not isinstance(value, dict)
            or all(
                s is True or (s is not False and valid(inner, s, root))
                for key, inner in value.items()
                if key not in schema.get("properties", {})
            )
        ),
        "items": lambda s: (
            not isinstance(value, list)
            or all(valid(one, s, root) for one in value[len(schema.get("prefixItems", [])) :])
        ),
        "prefixItems": lambda s: (
            not isinstance(value, list) or all(valid(v, one, root) for v, one in zip(value, s, strict=False))
        ),
        "minItems": lambda s: not isinstance(value, list) or len(value) >= s,
        "maxItems": lambda s: not isinstance(value, list) or len(value) <= s,
        "minLength": lambda s: not isinstance(value, str) or len(value) >= s,
        "maxLength": lambda s: not isinstance(value, str) or len(value) <= s,
        "pattern": lambda s: not isinstance(value, str) or re.search(s, value) is not None,
        "minimum": lambda s: not number or value >= s,
        "maximum": lambda s: not number or value <= s,
        "exclusiveMinimum": lambda s: not number or value > s,
        "exclusiveMaximum": lambda s: not number or value < s,
        "multipleOf": lambda s: not number or value % s == 0,
    }
    notes = {"$schema", "$defs", "title", "description", "default", "format", "examples"}
    return all(rules[key](rule) for key, rule in schema.items() if key not in notes)


SAME_VERDICT = [
    {"name": "x"},
    {"name": ""},
    {"name": "a/b"},
    {},
    {"name": "x", "steps": 0},
    {"name": "x", "steps": 5},
    {"name": "x", "stepps": 5},
    {"name": "x", "inner": {"lr": 0}},
    {"name": "x", "inner": {"lr": 1e-4, "betas": [0.9, 0.99], "gpu": "auto", "weight": [1, 2]}},
    {"name": "x", "inner": {"betas": [0.9]}},
    {"name": "x", "inner": {"mode": "fp64"}},
    {"name": "x", "inner": {"btas": [0.9, 0.99]}},
    {"name": "x", "pet": "Cat"},
    {"name": "x", "pet": "Kat"},
    {"name": "x", "pet": None},
    {"name": "x", "pet": {"type": "Cat", "lives": 3}},
    {"name": "x", "pet": {"type": "Cat", "lives": 0}},
    {"name": "x", "pet": {"lives": 3}},
    {"name": "x", "pet": {"type": "Kat"}},
    {"name": "x", "pet": {"type": "Dog"}},
    {"name": "x", "pet": {"type": "Dog", "owner": "m", "friends": ["Cat", {"type": "Dog", "owner": "n"}]}},
    {"name": "x", "pet": {"type": "Dog", "owner": "m", "friends": ["Rat"]}},
    {"name": "x", "zoo": ["Cat", {"type": "Cat"}]},
    {"name": "x", "zoo": "Cat"},
    {"name": "x", "herd": {"a": "Cat", "b": {"type": "Cat"}}},
    {"name": "x", "herd": {"a": {}}},
    {"name": "x", "guest": {"lives": 3}},
    {"name": "x", "guest": {}},
    {"name": "x", "guest": {"lifes": 3}},
    {"name": "x", "guest": {"owner": "m"}},
    {"name": "x", "sets": {"train": {}, "val_1": {"lr": 1}}},
    {"name": "x", "sets": {"train": {}, "val_1": {"lrr": 1}}},
]


def test_the_schema_agrees_with_the_check(small: SimpleNamespace) -> None:
    schema = options_json_schema(small.Top)
    verdicts = set()
    for data in SAME_VERDICT:
        try:
            small.Top.model_validate(data)
            accepted = True
        except ValidationError:
            accepted = False
        assert valid(data, schema, schema) is accepted, data
        verdicts.add(accepted)
    assert verdicts == {True, False}


def test_a_bare_name_of_a_component_with_required_keys_is_offered(small: SimpleNamespace) -> None:
    # `pet: Dog` lacks its owner; an editor offers the name all the same, and the check tells what is missing.
    schema = options_json_schema(small.Top)
    assert valid({"name": "x", "pet": "Dog"}, schema, schema)


def test_teeth_the_stock_generator_knows_no_bare_name(small: SimpleNamespace) -> None:
    stock = small.Top.model_json_schema()
    with pytest.raises(KeyError, match="oneOf"):
        valid({"name": "x", "pet": "Cat"}, stock, stock)


@pytest.mark.parametrize("path", sorted(_SHIPPED.glob("*.yml")), ids=lambda path: path.name)
def test_shipped_option_files_fit_the_schema_of_a_run(path: Path) -> None:
    schema = options_json_schema()
    data = read_option_file(path).data
    # A file of another program is converted before the schema sees it.
    assert valid(data, schema, schema) == (program_of(data) is None)
    for damage in (
        {"scale": 0},
        {"nmae": "x"},
        {"network_g": "SwinIr"},
        {"train": {"optim_g": {"lr": 1e-3, "x": 1}}},
    ):
        assert not valid({**data, **damage}, schema, schema), damage


def test_text_is_json_of_the_stated_draft(small: SimpleNamespace) -> None:
    text = json_schema_text(small.Top)
    assert json.loads(text) == options_json_schema(small.Top)
    assert json.loads(text)["$schema"] == DIALECT == "https://json-schema.org/draft/2020-12/schema"
    assert text.endswith("}\n")
