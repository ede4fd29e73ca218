"""JSON with ``//`` and ``/* */`` comments into plain data with line numbers.

KAIR's option files are of this kind. Its reader cuts every line at ``//``, also inside a text such as
``"https://..."``; :func:`strip_comments` knows where a text begins and ends.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from atelier.options.places import MOST_DEPTH, KeyPath, syntax_error
from atelier.options.scalars import BadScalar, parse_float, parse_int

_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"?|//[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")


def strip_comments(text: str) -> str:
    """``text`` with comments blanked out; every other character keeps its line and column."""

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    return _STRING_OR_COMMENT.sub(blank, text)


def parse_json(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    """Plain data of a JSON text and the line of every key path; ``name`` stands for the file in messages.

    Returns:
        ``(data, lines)``; data is None for a text that is empty or holds only comments.

    Raises:
        UserError: file, line, column and the offending line.
    """
    reader = _JsonReader(text, name)
    return reader.read(), reader.lines


class _JsonReader:
    def __init__(self, text: str, name: str) -> None:
        self.original = text
        self.text = strip_comments(text)
        self.name = name
        self.at = 0
        self.lines: dict[KeyPath, int] = {(): 1}
        self._decoder = json.JSONDecoder(
            parse_constant=self._constant, parse_float=parse_float, parse_int=parse_int, strict=True
        )

    def fail(self, problem: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        column = at - self.text.rfind("\n", 0, at)
        raise syntax_error(self.name, self.original, self._line(at), column, problem)

    def read(self) -> Any:
        self._skip_space()
        if self.at == len(self.text):
            return None
        value = self._value((), self._line(self.at))
        self._skip_space()
        if self.at < len(self.text):
            self.fail("something follows the end of the options")
        return value

    def _line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1

    def _skip_space(self) -> str:
        """Move to the next character that counts, and return it ('' at the end)."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def _value(self, path: KeyPath, line: int) -> Any:
        self.lines[path] = line
        if len(path) > MOST_DEPTH:
            self.fail(f"nested more than {MOST_DEPTH} levels deep")
        start = self._skip_space()
        if start == "{":
            return self._object(path)
        if start == "[":
            return self._list(path)
        return self._plain()

    def _object(self, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        self.at += 1
        while self._skip_space() != "}":
            key_at = self.at
            if self.text[self.at : self.at + 1] != '"':
                self.fail('a key in "double quotes" belongs here')
            key = self._plain()
            if key in data:
                self.fail(f"the key '{key}' is given twice; first on line {self.lines[(*path, key)]}", key_at)
            if self._skip_space() != ":":
                self.fail("a ':' is missing after the key")
            self.at += 1
            data[key] = self._value((*path, key), self._line(key_at))
            self._separator("}")
        self.at += 1
        return data

    def _list(self, path: KeyPath) -> list[Any]:
        data: list[Any] = []
        self.at += 1
        while self._skip_space() != "]":
            data.append(self._value((*path, len(data)), self._line(self.at)))
            self._separator("]")
        self.at += 1
        return data

    def _separator(self, closing: str) -> None:
        found = self._skip_space()
        if found == closing:
            return
        if found != ",":
            self.fail(f"a ',' or the closing '{closing}' is missing")
        comma = self.at
        self.at += 1
        if self._skip_space() == closing:
            self.fail(f"no ',' is allowed before '{closing}'", comma)

    def _plain(self) -> Any:
        try:
            value, self.at = self._decoder.raw_decode(self.text, self.at)
        except BadScalar as error:
            self.fail(str(error))
        except json.JSONDecodeError as error:
            if error.msg == "Expecting value":
                self.fail(
                    'a value belongs here (a "text", a number, true, false, null, [a list] or {a mapping})'
                )
            self.fail(f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}", error.pos)
        return value

    @staticmethod
    def _constant(word: str) -> NoReturn:
        raise BadScalar(f"{word} is no JSON number")
