"""The plain words for what a key allows, and the way from an error's location to its key."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, Field

from atelier.options.base import Options
from atelier.options.describe import Slot, describe, follow, key_names, sections_with
from atelier.options.messages import validate_tree
from atelier.options.overrides import apply_overrides


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class A(Options):
    size: int


class B(Options):
    size: Literal["s", "m"]
    name: str = "b"


class Mixed(Options):
    thing: A | B | int = 0
    renamed: int = Field(0, validation_alias=AliasChoices("renamed", "old_name"))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (bool | None, "true or false or null"),
        (
            Annotated[int, Field(ge=1, lt=5, multiple_of=2)],
            "a whole number, at least 1, less than 5, a multiple of 2",
        ),
        (
            Annotated[str, Field(min_length=2, max_length=5)],
            "text, at least 2 characters, at most 5 characters",
        ),
        (Annotated[list[int], Field(min_length=1)], "a list of whole numbers, not empty"),
        (list[Annotated[float, Field(gt=0)]], "a list of numbers, each greater than 0"),
        (tuple[float, ...], "a list of numbers"),
        (tuple[int, str], "a list of 2 values (a whole number; text)"),
        (list[list[int]], "a list, each a list of whole numbers"),
        (list, "a list"),
        (dict, "a mapping"),
        (dict[str, Path], "a mapping of names, each to a path"),
        (Annotated[float | list[float], Field(gt=0)], "a number or a list of numbers, greater than 0"),
        (Literal["one"], "'one'"),
        (Size, "'s' or 'l'"),
        (A, "a mapping with the keys size"),
        (Any, "a value"),
    ],
)
def test_words(annotation: Any, words: str) -> None:
    assert describe(Slot.of(annotation)) == words


def test_a_union_of_sections_tells_each_alternative_by_its_own_keys(refusal: Callable[..., str]) -> None:
    tree = apply_overrides({"thing": {"size": "q", "name": "x"}}, [])
    assert refusal(validate_tree, Mixed, tree).split("\n") == [
        "thing.name: unknown key, allowed: size",
        "thing.size: given 'q', allowed: 's' or 'm'",
        "thing.size: given 'q', allowed: a whole number",
    ]
    found = follow(Mixed, ("thing", "B", "size"))
    assert (found.path, found.unions) == (("thing", "size"), [("thing",)])


def test_a_second_spelling_of_a_key(refusal: Callable[..., str]) -> None:
    assert key_names([Mixed]) == ["thing", "renamed"]
    for key in ("renamed", "old_name"):
        message = refusal(validate_tree, Mixed, apply_overrides({key: "x"}, []))
        assert message == f"{key}: given 'x', allowed: a whole number"


def test_a_location_the_schema_does_not_know_is_kept_as_it_is() -> None:
    found = follow(Mixed, ("nowhere", 3, "x"))
    assert (found.path, found.slot, found.models) == (("nowhere", 3, "x"), None, [])


def test_sections_that_own_a_key(small: SimpleNamespace) -> None:
    assert sections_with(small.Top, "lr") == [("inner",)]
    assert sections_with(small.Top, "name") == [()]
    assert sections_with(small.Top, "lives") == []
