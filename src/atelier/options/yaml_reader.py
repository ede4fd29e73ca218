"""YAML into plain data with line numbers, safely.

PyYAML's parser and composer are used up to the node graph; its constructors, which turn tags into Python
objects, are not even part of the loader. Nodes become data here, by the rules of :mod:`atelier.options.scalars`,
so each refusal can name its line: unknown tags, duplicate keys, keys that are no text, alias bombs, recursive
aliases. Merge keys (``<<: *base``) work as in YAML 1.1.
"""

from __future__ import annotations

from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from atelier.errors import UserError
from atelier.options.places import MOST_DEPTH, MOST_VALUES, KeyPath, syntax_error
from atelier.options.scalars import BadScalar, Scalar, plain_scalar, tagged_scalar

_STANDARD = "tag:yaml.org,2002:"
#: Tag of a scalar without quotes and without a tag: the only kind whose text decides what it is.
_PLAIN = "plain"
_CONTAINER_TAGS: dict[type[Node], str] = {SequenceNode: _STANDARD + "seq", MappingNode: _STANDARD + "map"}

#: PyYAML's words for common slips -> ours. The first that starts the problem is used.
_PLAIN_WORDS = (
    (
        "mapping values are not allowed",
        "a ':' cannot stand here (a missing line break or quote, or wrong indentation)",
    ),
    ("could not find expected ':'", "a key without ':' (or a line indented wrongly above)"),
    (
        "expected <block end>, but found",
        "indentation does not match the lines above (or a bracket is missing)",
    ),
    ("expected ',' or ']'", "a ',' or the closing ']' is missing"),
    ("expected ',' or '}'", "a ',' or the closing '}' is missing"),
    ("found unexpected end of stream", "the quoted text that begins here has no closing quote"),
    ("expected the node content, but found", "a value is missing or a bracket too many"),
    ("found duplicate anchor", "this anchor (&name) is defined twice"),
    ("found undefined alias", "this alias (*name) stands for nothing; quote the text if it is no alias"),
    ("but found another document", "a second document ('---') begins here; an option file is one document"),
)


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text to node graph. Without a constructor there is nothing that could run code."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        """The tag of a node that has none."""
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _STANDARD + "str"
        return _CONTAINER_TAGS[kind]

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"nested more than {MOST_DEPTH} levels deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def parse_yaml(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    """Plain data of a YAML text and the line of every key path; ``name`` stands for the file in messages.

    Returns:
        ``(data, lines)``; data is None for an empty text. ``lines[()]`` is the first line with content.

    Raises:
        UserError: for anything that is not plain, unambiguous YAML.
    """
    node = _compose(text, name)
    if node is None:
        return None, {(): 1}
    builder = _Builder(text, name)
    return builder.build(node, (), (), node.start_mark.line + 1), builder.lines


def _compose(text: str, name: str) -> Node | None:
    try:
        loader: Any = _Loader(text)  # PyYAML's stubs leave the composer untyped
        node: Node | None = loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise syntax_error(
            name, text, line, column, f"the control character U+{code:04X} is not allowed"
        ) from None
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "not YAML"
        mark, opened = error.problem_mark or error.context_mark, error.context_mark
        if opened and problem.startswith("found unexpected end of stream"):
            mark = opened  # where the quote opens says more than where the file ends
        if mark is None:
            raise UserError(f"{name}: not YAML: {error}") from None
        words = _reword(problem, text, mark.line)
        if opened and words.endswith("is missing") and opened.line != mark.line:
            words += f" (opened on line {opened.line + 1})"
        raise syntax_error(name, text, mark.line + 1, mark.column + 1, words) from None
    return node


def _reword(problem: str, text: str, line: int) -> str:
    lines = text.split("\n")
    shown = lines[line] if line < len(lines) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or "'\\t'" in problem:
        return "a tab stands where YAML allows only spaces; indent with spaces"
    return next((ours for theirs, ours in _PLAIN_WORDS if problem.startswith(theirs)), f"not YAML: {problem}")


class _Builder:
    """Turns nodes into data, collecting lines."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.lines: dict[KeyPath, int] = {}
        self._values = 0

    def fail(self, node: Node, problem: str) -> NoReturn:
        raise syntax_error(
            self.name, self.text, node.start_mark.line + 1, node.start_mark.column + 1, problem
        )

    def build(self, node: Node, path: KeyPath, parents: tuple[Node, ...], line: int) -> Any:
        """Data of ``node``; ``parents`` are the nodes it stands in, ``line`` is where its key stands."""
        self.lines[path] = line
        self._count(node)
        if any(node is parent for parent in parents):
            self.fail(node, "this alias (*name) contains itself")
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        self._check_container_tag(node)
        parents = (*parents, node)
        if isinstance(node, SequenceNode):
            return [
                self.build(item, (*path, place), parents, item.start_mark.line + 1)
                for place, item in enumerate(node.value)
            ]
        data: dict[str, Any] = {}
        for key, (key_node, value) in self._pairs(node, parents).items():
            data[key] = self.build(value, (*path, key), parents, key_node.start_mark.line + 1)
        return data

    def _count(self, node: Node) -> None:
        self._values += 1
        if self._values > MOST_VALUES:
            self.fail(node, f"more than {MOST_VALUES} values once aliases (*name) are expanded")

    def _pairs(self, node: Node, parents: tuple[Node, ...]) -> dict[str, tuple[Node, Node]]:
        """Key -> (key node, value node); merged keys come after the mapping's own, which win."""
        own: dict[str, tuple[Node, Node]] = {}
        merges: list[Node] = []
        for key_node, value in node.value:
            self._count(key_node)
            if isinstance(key_node, ScalarNode) and key_node.value == "<<" and key_node.tag == _PLAIN:
                merges.append(value)
                continue
            key = self._key(key_node)
            if key in own:
                first = own[key][0].start_mark.line + 1
                self.fail(key_node, f"the key '{key}' is given twice; first on line {first}")
            own[key] = (key_node, value)
        for merge in merges:
            for source in merge.value if isinstance(merge, SequenceNode) else [merge]:
                for key, pair in self._merged(source, parents).items():
                    own.setdefault(key, pair)
        return own

    def _merged(self, source: Node, parents: tuple[Node, ...]) -> dict[str, tuple[Node, Node]]:
        if not isinstance(source, MappingNode):
            self.fail(source, "'<<' merges a mapping (<<: *name) or a list of mappings")
        if any(source is parent for parent in parents):
            self.fail(source, "this alias (*name) contains itself")
        self._check_container_tag(source)
        return self._pairs(source, (*parents, source))

    def _key(self, node: Node) -> str:
        """A key is the text that was written, so ``4: x`` and ``on: x`` are the keys '4' and 'on'."""
        if not isinstance(node, ScalarNode):
            self.fail(node, "a key must be a single word, not a list or a mapping")
        if node.tag not in {_PLAIN, _STANDARD + "str"}:
            self.fail(node, f"the tag {_short(node.tag)} cannot stand on a key")
        if node.tag == _PLAIN and not node.value:
            self.fail(node, "a ':' without a key before it")
        return str(node.value)

    def _scalar(self, node: ScalarNode) -> Scalar:
        text: str = node.value
        try:
            if node.tag == _PLAIN:
                return plain_scalar(text)
            if not node.tag.startswith(_STANDARD):
                self._refuse_tag(node)
            return tagged_scalar(node.tag.removeprefix(_STANDARD), text)
        except BadScalar as error:
            self.fail(node, str(error))
        except KeyError:
            self._refuse_tag(node)

    def _check_container_tag(self, node: Node) -> None:
        if node.tag != _CONTAINER_TAGS[type(node)]:
            self._refuse_tag(node)

    def _refuse_tag(self, node: Node) -> NoReturn:
        self.fail(
            node,
            f"the tag {_short(node.tag)} is not allowed: options never run code; "
            "allowed: !!float, !!int, !!bool, !!str, !!null",
        )


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_STANDARD) if tag.startswith(_STANDARD) else tag
