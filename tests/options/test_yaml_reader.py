"""YAML: data, lines, and what each refusal says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.errors import UserError
from atelier.options.yaml_reader import parse_yaml

Refusal = Callable[..., str]


def test_data_and_lines() -> None:
    text = """\
# a comment
name: run
train:
  optim_g:
    lr: !!float 2e-4
    betas:
      - 0.9
      - 1e-1
  losses: [{type: L1}, {type: L2,
            loss_weight: 5e3}]
"""
    data, lines = parse_yaml(text, "run.yml")
    assert data == {
        "name": "run",
        "train": {
            "optim_g": {"lr": 2e-4, "betas": [0.9, 0.1]},
            "losses": [{"type": "L1"}, {"type": "L2", "loss_weight": 5000.0}],
        },
    }
    assert lines == {
        (): 2,
        ("name",): 2,
        ("train",): 3,
        ("train", "optim_g"): 4,
        ("train", "optim_g", "lr"): 5,
        ("train", "optim_g", "betas"): 6,
        ("train", "optim_g", "betas", 0): 7,
        ("train", "optim_g", "betas", 1): 8,
        ("train", "losses"): 9,
        ("train", "losses", 0): 9,
        ("train", "losses", 0, "type"): 9,
        ("train", "losses", 1): 9,
        ("train", "losses", 1, "type"): 9,
        ("train", "losses", 1, "loss_weight"): 10,
    }


def test_quotes_and_str_tag_keep_text() -> None:
    assert parse_yaml("['1', \"true\", !!str 5, '', !!str ]", "f")[0] == ["1", "true", "5", "", ""]


def test_keys_are_the_text_that_was_written() -> None:
    assert parse_yaml("{4: a, on: b, 1e-4: c, 'x y': d, ~: e}", "f")[0] == {
        "4": "a",
        "on": "b",
        "1e-4": "c",
        "x y": "d",
        "~": "e",
    }


def test_empty_and_comment_only() -> None:
    assert parse_yaml("", "f") == (None, {(): 1})
    assert parse_yaml("# nothing\n", "f") == (None, {(): 1})


def test_aliases_and_merges() -> None:
    text = "base: &b\n  lr: 1\n  wd: 2\na:\n  <<: *b\n  lr: 3\nc: *b\nd: {<<: [{lr: 7}, *b]}\n"
    data, lines = parse_yaml(text, "f")
    assert data["a"] == {"lr": 3, "wd": 2}
    assert data["c"] == {"lr": 1, "wd": 2}
    assert data["d"] == {"lr": 7, "wd": 2}
    assert (lines["a",], lines["a", "lr"], lines["a", "wd"], lines["c",]) == (4, 6, 3, 7)
    data["c"]["lr"] = 9
    assert data["base"]["lr"] == 1  # aliases are copies


REFUSALS = [
    (
        "a: !!python/object/apply:os.system ['ls']",
        "f.yml:1:4: the tag !!python/object/apply:os.system is not allowed: options never run code; "
        "allowed: !!float, !!int, !!bool, !!str, !!null\n"
        "    a: !!python/object/apply:os.system ['ls']\n"
        "       ^",
    ),
    (
        "a: 1\nb: !mine x",
        "f.yml:2:4: the tag !mine is not allowed: options never run code; "
        "allowed: !!float, !!int, !!bool, !!str, !!null\n    b: !mine x\n       ^",
    ),
    (
        "a: !!set {b, c}",
        "f.yml:1:4: the tag !!set is not allowed: options never run code; "
        "allowed: !!float, !!int, !!bool, !!str, !!null\n    a: !!set {b, c}\n       ^",
    ),
    ("!!int a: 1", "f.yml:1:1: the tag !!int cannot stand on a key\n    !!int a: 1\n    ^"),
    (
        "a: 1\nb:\n  c: 2\n  c: 3\n",
        "f.yml:4:3: the key 'c' is given twice; first on line 3\n      c: 3\n      ^",
    ),
    (
        "a:\n\tb: 1\n",
        "f.yml:2:1: a tab stands where YAML allows only spaces; indent with spaces\n    →b: 1\n    ^",
    ),
    (
        "a: [1, 2\nb: 3\n",
        "f.yml:2:2: a ',' or the closing ']' is missing (opened on line 1)\n    b: 3\n     ^",
    ),
    ("a: {b: 1", "f.yml:1:9: a ',' or the closing '}' is missing\n    a: {b: 1\n            ^"),
    (
        "a: b: c\n",
        "f.yml:1:5: a ':' cannot stand here (a missing line break or quote, or wrong indentation)\n"
        "    a: b: c\n        ^",
    ),
    (
        "a:\n  b: 1\n c: 2\n",
        "f.yml:3:2: indentation does not match the lines above (or a bracket is missing)\n     c: 2\n     ^",
    ),
    (
        "a: 1\nb: 'x\nc: 1",
        "f.yml:2:4: the quoted text that begins here has no closing quote\n    b: 'x\n       ^",
    ),
    (
        "a\nb: 1",
        "f.yml:2:2: a ':' cannot stand here (a missing line break or quote, or wrong indentation)\n    b: 1\n     ^",
    ),
    ("a: 1\nb\nc: 2", "f.yml:3:1: a key without ':' (or a line indented wrongly above)\n    c: 2\n    ^"),
    (
        "a: *nothing",
        "f.yml:1:4: this alias (*name) stands for nothing; quote the text if it is no alias\n"
        "    a: *nothing\n       ^",
    ),
    ("a: &a [*a]", "f.yml:1:4: this alias (*name) contains itself\n    a: &a [*a]\n       ^"),
    ("a: &a {<<: *a}", "f.yml:1:4: this alias (*name) contains itself\n    a: &a {<<: *a}\n       ^"),
    (
        "a: {<<: 5}",
        "f.yml:1:9: '<<' merges a mapping (<<: *name) or a list of mappings\n    a: {<<: 5}\n            ^",
    ),
    (
        "a: 1e999",
        "f.yml:1:4: 1e999 is too large for a number; write .inf where infinity is meant\n    a: 1e999\n       ^",
    ),
    ("a: !!float x", "f.yml:1:4: !!float 'x' is not a number\n    a: !!float x\n       ^"),
    (
        "? [1, 2]\n: 3",
        "f.yml:1:3: a key must be a single word, not a list or a mapping\n    ? [1, 2]\n      ^",
    ),
    ("a: 1\n?\n: 3", "f.yml:2:2: a ':' without a key before it\n    ?\n     ^"),
    ("a: x\x01y", "f.yml:1:5: the control character U+0001 is not allowed\n    a: x�y\n        ^"),
    (
        "---\na: 1\n---\nb: 2",
        "f.yml:3:1: a second document ('---') begins here; an option file is one document\n    ---\n    ^",
    ),
    ("a: @x", "f.yml:1:4: not YAML: found character '@' that cannot start any token\n    a: @x\n       ^"),
]


@pytest.mark.parametrize(("text", "message"), REFUSALS, ids=[text[:20] for text, _ in REFUSALS])
def test_refusals(text: str, message: str, refusal: Refusal) -> None:
    assert refusal(parse_yaml, text, "f.yml") == message


def test_nesting_is_bounded(refusal: Refusal) -> None:
    assert refusal(parse_yaml, "[" * 10_000, "f.yml").startswith(
        "f.yml:1:61: not YAML: nested more than 60 levels deep\n"
    )
    assert parse_yaml("[" * 60 + "]" * 60, "f.yml")[0]


def _bomb(item: str, level: Callable[[str, str], str]) -> str:
    names = "abcdefghi"
    levels = (level(name, ",".join([f"*{below}"] * 10)) for below, name in pairwise(names))
    return "\n".join([f"a: &a {item}", *levels])


@pytest.mark.parametrize(
    "text",
    [
        _bomb("[x, x]", lambda name, below: f"{name}: &{name} [{below}]"),
        _bomb("{x: 1}", lambda name, below: f"{name}: &{name} {{<<: [{below}]}}"),
    ],
    ids=["lists", "merges"],
)
def test_alias_bombs_are_bounded(text: str, refusal: Refusal) -> None:
    assert "more than 100000 values once aliases (*name) are expanded" in refusal(parse_yaml, text, "f.yml")


def test_long_lines_are_shown_around_the_place(refusal: Refusal) -> None:
    first, shown, mark = refusal(parse_yaml, "a: [" + "1, " * 100 + "!x 1]", "f.yml").split("\n")
    assert first.startswith("f.yml:1:305: ")
    assert shown[mark.index("^") :].startswith("!x 1]")


def test_the_loader_has_no_constructor() -> None:
    # Teeth: the same text runs code in PyYAML's unsafe loader.
    text = "!!python/object/apply:sys.setrecursionlimit [1234]"
    before = sys.getrecursionlimit()
    try:
        yaml.unsafe_load(text)
        assert sys.getrecursionlimit() == 1234
        sys.setrecursionlimit(before)
        with pytest.raises(UserError):
            parse_yaml(text, "f.yml")
        assert sys.getrecursionlimit() == before
    finally:
        sys.setrecursionlimit(before)


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from(list("ab1.- :\n,[]{}'\"!&*|>?#~<\t\x85é%@e")), max_size=40))
def test_any_text_gives_data_or_a_user_error(text: str) -> None:
    try:
        data, lines = parse_yaml(text, "f.yml")
    except UserError as error:
        assert str(error).startswith("f.yml:")
        return
    last = text.count("\n") + text.count("\x85") + 1
    assert all(1 <= line <= last for line in lines.values())
    assert set(lines) == set(_paths(data, ()))


def _paths(data: Any, path: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
    if isinstance(data, dict):
        return [path, *(below for key, value in data.items() for below in _paths(value, (*path, key)))]
    if isinstance(data, list):
        return [path, *(below for key, value in enumerate(data) for below in _paths(value, (*path, key)))]
    return [path]
