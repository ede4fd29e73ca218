"""Bare words of an option file."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atelier.options.scalars import BadScalar, parse_float, parse_int, plain_scalar, tagged_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("5e3", 5000.0),
        ("-2.5e+3", -2500.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("0.5", 0.5),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("500_000", 500_000),
        ("1_000.5", 1000.5),
        ("0x1F", 31),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("False", False),
    ],
)
def test_numbers_nulls_and_truth(text: str, value: object) -> None:
    read = plain_scalar(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "yes",
            "no",
            "on",
            "off",
            "y",
            "N",
            "tRue",
            "inf",
            "nan",
            "010",
            "-01",
            "2024_01",
            "1_00",
            "_1",
            "12:30",
            "2024-01-31",
            "1e",
            "e5",
            "1e5.0",
            "--1",
            "0x",
            "١٢",
        ],
        "1 2",
    ],
)
def test_words_that_stay_text(text: str) -> None:
    assert plain_scalar(text) == text


def test_nan() -> None:
    assert math.isnan(plain_scalar(".nan"))  # type: ignore[arg-type]


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        BadScalar, match=r"1e999 is too large for a number; write \.inf where infinity is meant"
    ):
        plain_scalar("1e999")
    for read in (plain_scalar, parse_int, parse_float):
        with pytest.raises(BadScalar, match="a number of 5000 digits is too long"):
            read("9" * 5000)


@pytest.mark.parametrize(
    ("tag", "text", "value"),
    [
        ("float", "5e3", 5000.0),
        ("float", "3", 3.0),
        ("int", "3", 3),
        ("str", "3", "3"),
        ("bool", "true", True),
        ("null", "", None),
    ],
)
def test_tags(tag: str, text: str, value: object) -> None:
    read = tagged_scalar(tag, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("tag", "text", "message"),
    [
        ("float", "abc", "!!float 'abc' is not a number"),
        ("float", "true", "!!float 'true' is not a number"),
        ("float", "~", "!!float '~' is not a number"),
        ("int", "1.5", "!!int '1.5' is not a whole number"),
        ("int", "true", "!!int 'true' is not a whole number"),
        ("bool", "1", "!!bool '1' is neither true nor false"),
        ("null", "1", "!!null '1' is not null"),
    ],
)
def test_tags_that_do_not_fit(tag: str, text: str, message: str) -> None:
    with pytest.raises(BadScalar) as caught:
        tagged_scalar(tag, text)
    assert str(caught.value) == message


def test_other_tags_are_not_known() -> None:
    with pytest.raises(KeyError):
        tagged_scalar("timestamp", "2024-01-31")


@given(st.integers())
def test_every_integer_reads_back(number: int) -> None:
    assert plain_scalar(str(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back(number: float) -> None:
    assert plain_scalar(repr(number)) == number


def test_teeth_the_stock_loader_falls_into_the_trap() -> None:
    assert yaml.safe_load("1e-4") == "1e-4"
    assert yaml.safe_load("off") is False
    assert yaml.safe_load("010") == 8
