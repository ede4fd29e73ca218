"""JSON with comments."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.errors import UserError
from atelier.options.json_reader import parse_json, strip_comments

Refusal = Callable[..., str]


def test_comments_are_stripped_outside_texts_only() -> None:
    text = '{"url": "https://x/y", // note "a\n "b": "\\"//", /* one\n two */ "c": 1}'
    stripped = strip_comments(text)
    assert json.loads(stripped) == {"url": "https://x/y", "b": '"//', "c": 1}
    assert len(stripped) == len(text)
    assert [len(line) for line in stripped.split("\n")] == [len(line) for line in text.split("\n")]


def test_data_and_lines() -> None:
    text = '{\n\t"scale": 4, // times\n  "netG": {"depths": [6,\n 6], "img_range": 1.0, "on": null}\n}\n'
    data, lines = parse_json(text, "run.json")
    assert data == {"scale": 4, "netG": {"depths": [6, 6], "img_range": 1.0, "on": None}}
    assert lines == {
        (): 1,
        ("scale",): 2,
        ("netG",): 3,
        ("netG", "depths"): 3,
        ("netG", "depths", 0): 3,
        ("netG", "depths", 1): 4,
        ("netG", "img_range"): 4,
        ("netG", "on"): 4,
    }


def test_empty() -> None:
    assert parse_json("", "f")[0] is None
    assert parse_json(" // only a comment", "f")[0] is None


REFUSALS = [
    (
        '{"a": 1, "a": 2}',
        'f.json:1:10: the key \'a\' is given twice; first on line 1\n    {"a": 1, "a": 2}\n             ^',
    ),
    ('{"a": 1,\n}', "f.json:1:8: no ',' is allowed before '}'\n    {\"a\": 1,\n           ^"),
    ('{"a": [1,]}', "f.json:1:9: no ',' is allowed before ']'\n    {\"a\": [1,]}\n            ^"),
    ('{"a": 1\n"b": 2}', "f.json:2:1: a ',' or the closing '}' is missing\n    \"b\": 2}\n    ^"),
    ('{"a": [1', "f.json:1:9: a ',' or the closing ']' is missing\n    {\"a\": [1\n            ^"),
    ("{a: 1}", 'f.json:1:2: a key in "double quotes" belongs here\n    {a: 1}\n     ^'),
    ('{"a" 1}', "f.json:1:6: a ':' is missing after the key\n    {\"a\" 1}\n         ^"),
    (
        '{"a": x}',
        'f.json:1:7: a value belongs here (a "text", a number, true, false, null, [a list] or {a mapping})\n'
        '    {"a": x}\n          ^',
    ),
    ('{"a": NaN}', 'f.json:1:7: NaN is no JSON number\n    {"a": NaN}\n          ^'),
    (
        '{"a": 1e999}',
        "f.json:1:7: 1e999 is too large for a number; write .inf where infinity is meant\n"
        '    {"a": 1e999}\n          ^',
    ),
    ('{"a": 1} 2', 'f.json:1:10: something follows the end of the options\n    {"a": 1} 2\n             ^'),
    ('{"a": "b', 'f.json:1:7: not JSON: unterminated string starting at\n    {"a": "b\n          ^'),
    (
        '{"a": 1} // "b": {"c" : /* \n x',
        "f.json:2:2: something follows the end of the options\n     x\n     ^",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSALS, ids=[text[:16] for text, _ in REFUSALS])
def test_refusals(text: str, message: str, refusal: Refusal) -> None:
    assert refusal(parse_json, text, "f.json") == message


def test_nesting_is_bounded(refusal: Refusal) -> None:
    assert "nested more than 60 levels deep" in refusal(parse_json, "[" * 10_000, "f.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON, st.sampled_from([None, 2]), st.booleans())
def test_reads_what_json_writes(data: object, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    assert parse_json(text, "f")[0] == data


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from(list('ab1.- :\n,[]{}"/\\*te')), max_size=30))
def test_agrees_with_the_standard_reader_on_any_text(text: str) -> None:
    try:
        ours = parse_json(text, "f.json")[0]
    except UserError as error:
        assert str(error).startswith("f.json:")
        with pytest.raises(ValueError):
            _strict(strip_comments(text))
    else:
        assert ours is None or ours == _strict(strip_comments(text))


def _strict(text: str) -> object:
    """The standard reader, with duplicate keys refused as ours does."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)
