"""``key=value`` on the command line, and where each option came from."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from atelier.errors import UserError, did_you_mean
from atelier.options.places import KeyPath, dotted
from atelier.options.scalars import BadScalar, plain_scalar
from atelier.options.source import OptionFile
from atelier.options.yaml_reader import parse_yaml

#: Values that begin like this are YAML; every other value is one plain word, taken whole.
_YAML_STARTS = tuple("[{\"'!")
_INDEX = re.compile(r"[0-9]+")


@dataclass
class OptionTree:
    """Options to be checked, and the place to name when one of them is wrong.

    Attributes:
        name: the option file, or None where options were given from Python.
        data: plain data; never shared with the file it came from.
        lines: key path -> line in the file, without the keys that the command line replaced.
        overrides: key path -> the command-line argument that set it.
    """

    name: str | None
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """The line of ``path``, or of the nearest key above it; None where the command line set it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.overrides:
                return None
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def place(self, path: KeyPath) -> str:
        """``FILE:LINE``, ``command line``, or nothing for options from Python."""
        if any(path[:end] in self.overrides for end in range(len(path), 0, -1)):
            return "command line"
        if self.name is None:
            return ""
        line = self.line(path)
        return f"{self.name}:{line}" if line is not None else self.name

    def set(self, path: KeyPath, value: Any, argument: str) -> None:
        """Put ``value`` at ``path``; lines and earlier overrides below it no longer count."""
        size = len(path)
        self.lines = {known: line for known, line in self.lines.items() if known[:size] != path}
        self.overrides = {known: text for known, text in self.overrides.items() if known[:size] != path}
        self.overrides[path] = argument
        holder: Any = self.data
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = value


def apply_overrides(source: OptionFile | dict[str, Any], overrides: Sequence[str]) -> OptionTree:
    """A copy of the options with ``train.total_iter=2000`` and its like put in, later ones winning.

    Missing mappings on the way are made. A component named by a bare word (``network_g: SwinIR``)
    becomes ``{type: SwinIR}`` when one of its keys is set. List items are named by
    their position from 0 and must exist.

    Raises:
        UserError: naming the argument that cannot be used.
    """
    if isinstance(source, OptionFile):
        tree = OptionTree(source.name, copy.deepcopy(source.data), dict(source.lines))
    else:
        tree = OptionTree(None, copy.deepcopy(source))
    for argument in overrides:
        keys, value = parse_override(argument)
        tree.set(_locate(tree, keys, argument), value, argument)
    return tree


def force(source: OptionFile | dict[str, Any], assignments: Sequence[str]) -> OptionFile | dict[str, Any]:
    """A copy of the file as if ``train:total_iter=2000`` stood in it (BasicSR's ``--force_yml``); nothing is executed.

    Keys are those of the file, whoever's it is, and must be there: ``:`` (or ``.``) leads into a section. Values are
    read as on any command line, and ``none`` is null.

    Raises:
        UserError: naming the assignment that cannot be used.
    """
    data = copy.deepcopy(source.data if isinstance(source, OptionFile) else source)
    for argument in assignments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise UserError(f"--force_yml {argument}: write key:sub=value, for example train:total_iter=2000")
        keys = [part.strip() for part in re.split("[:.]", key)]
        holder: Any = data
        for depth, name in enumerate(keys):
            if not isinstance(holder, dict) or name not in holder:
                where = ":".join(keys[:depth]) or "the top level"
                like = did_you_mean(name, holder) if isinstance(holder, dict) else ""
                raise UserError(
                    f"--force_yml {argument}: {where} has no key '{name}'{like}; it changes keys that the file has; "
                    "others are given by our names, for example train.total_iter=2000"
                )
            if depth < len(keys) - 1:
                holder = holder[name]
        text = text.strip()
        holder[keys[-1]] = None if text.lower() == "none" else _parse_value(text, argument)
    return replace(source, data=data) if isinstance(source, OptionFile) else data


def parse_override(argument: str) -> tuple[list[str], Any]:
    """``train.betas=[0.9, 0.99]`` -> ``(['train', 'betas'], [0.9, 0.99])``.

    The value is null, true/false, a number or text by the option files' rules; ``[..]``, ``{..}``, quotes and
    ``!!tags`` are YAML. Anything else is one text, so ``:``, ``#`` and ``=`` in it need no care.
    """
    key, equals, text = argument.partition("=")
    if not equals:
        raise UserError(
            f"command line: '{argument}' is no override; write key=value, for example train.total_iter=2000"
        )
    keys = [part.strip() for part in key.split(".")]
    if not all(keys):
        raise UserError(
            f"command line: '{argument}': the key '{key.strip()}' has an empty part; write section.key=value"
        )
    return keys, _parse_value(text.strip(), argument)


def _parse_value(text: str, argument: str) -> Any:
    # {}x4 is how filename_tmpl looks, and no YAML.
    if text.startswith(_YAML_STARTS) and not (text.startswith("{}") and text != "{}"):
        value, _ = parse_yaml(text, f"command line: '{argument}'")
        return value
    try:
        return plain_scalar(text)
    except BadScalar as error:
        raise UserError(f"command line: '{argument}': {error}") from None


def _locate(tree: OptionTree, keys: list[str], argument: str) -> KeyPath:
    """The path that ``keys`` mean in the tree, making the mappings that are missing on the way."""
    holder: Any = tree.data
    path: KeyPath = ()
    for depth, key in enumerate(keys):
        if isinstance(holder, list):
            if not _INDEX.fullmatch(key) or int(key[:9]) >= len(holder):
                items = f"items 0 to {len(holder) - 1}" if holder else "no items"
                raise UserError(
                    f"command line: '{argument}': {dotted(path)} is a list with {items}, not '{key}'"
                )
            path = (*path, int(key))
        else:
            path = (*path, key)
        if depth == len(keys) - 1:
            break
        below = holder[int(key)] if isinstance(holder, list) else holder.get(key)
        if below is None:
            below = {}
            tree.set(path, below, argument)
        elif isinstance(below, str):
            # A bare word may be a component's type; where it is not, the check of the schema says so.
            below = {"type": below}
            tree.set(path, below, argument)
        elif not isinstance(below, dict | list):
            place = tree.place(path)
            raise UserError(
                f"command line: '{argument}': {dotted(path)} is {below!r}{f' ({place})' if place else ''}, "
                f"which has no key '{keys[depth + 1]}'"
            )
        holder = below
    return path
