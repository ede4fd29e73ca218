"""What a bare word in an option file means: number, truth value, null or text.

The rules are YAML 1.2's core schema, so that ``1e-4`` is a number, with three deliberate edges:

* ``yes no on off y n`` are text, as in YAML 1.2. A key that wants true/false still takes them (pydantic reads
  the words), while ``mode: off`` or ``name: no`` keeps the word that was written.
* Digits may be grouped in thousands (``500_000``); ``2024_01`` is text, being a date or a name.
* Numbers with a leading zero (``010``) are text: YAML 1.1 reads 8, YAML 1.2 reads 10. A key that wants a
  number reads 10 from the text, and a run may be called ``001``.

Sexagesimal numbers (``1:30``) and dates are text.
"""

from __future__ import annotations

import math
import re

Scalar = None | bool | int | float | str

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_OCTAL = re.compile(r"0o[0-7]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
)
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
#: Longer numbers are mistakes, and converting thousands of digits takes quadratic time.
_MOST_DIGITS = 400


class BadScalar(ValueError):
    """The text cannot be the value it claims to be; the message says why."""


def plain_scalar(text: str) -> Scalar:
    """The value of an unquoted, untagged word; :class:`BadScalar` for a number outside float64's range."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INTEGER.fullmatch(text) or _HEX.fullmatch(text) or _OCTAL.fullmatch(text):
        return parse_int(text)
    if _FLOAT.fullmatch(text) or _INFINITY.fullmatch(text) or text in _NAN:
        return parse_float(text)
    return text


def parse_int(text: str) -> int:
    """A whole number written in decimal, ``0x`` or ``0o``."""
    if len(text) > _MOST_DIGITS:
        raise BadScalar(f"a number of {len(text)} digits is too long")
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    return int(text)


def parse_float(text: str) -> float:
    """A float64; ``1e999`` is refused instead of becoming infinity unnoticed."""
    if len(text) > _MOST_DIGITS:
        raise BadScalar(f"a number of {len(text)} digits is too long")
    if text in _NAN:
        return math.nan
    if _INFINITY.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    value = float(text)
    if math.isinf(value):
        raise BadScalar(f"{text} is too large for a number; write .inf where infinity is meant")
    return value


def tagged_scalar(tag: str, text: str) -> Scalar:
    """The value of ``!!float 5e3`` and its like; ``tag`` is the part after ``tag:yaml.org,2002:``.

    Raises :class:`BadScalar` where the text is no such value and :class:`KeyError` for any other tag.
    """
    if tag == "str":
        return text
    value = plain_scalar(text.strip())
    if tag == "float":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadScalar(f"!!float {text!r} is not a number")
        return float(value)
    if tag == "int":
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadScalar(f"!!int {text!r} is not a whole number")
        return value
    if tag == "bool":
        if not isinstance(value, bool):
            raise BadScalar(f"!!bool {text!r} is neither true nor false")
        return value
    if tag == "null":
        if value is not None:
            raise BadScalar(f"!!null {text!r} is not null")
        return None
    raise KeyError(tag)
