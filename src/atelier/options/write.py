"""Options back into YAML, and what changed between two sets of options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import Node, ScalarNode, SequenceNode

from atelier.files import atomic_write
from atelier.options.messages import in_flow, show
from atelier.options.places import KeyPath, dotted
from atelier.options.scalars import BadScalar, plain_scalar
from atelier.options.schema import RunOptions

_HEADER = """\
# The complete options of a run, defaults included, as Atelier used them.
# This file is an option file: atelier train -opt THIS_FILE
"""


class Unset:
    """Stands for the side of a change that has no such key."""

    def __repr__(self) -> str:
        return "not set"


UNSET = Unset()


def dump_run_options(options: RunOptions) -> str:
    """YAML text that :func:`atelier.options.read.load_run_options` reads back to equal options."""
    return _HEADER + dump_yaml(options.model_dump(mode="json"))


def save_run_options(options: RunOptions, path: str | Path) -> None:
    """Write :func:`dump_run_options` so that ``path`` is either the old file or the whole new one."""
    atomic_write(Path(path), dump_run_options(options))


def dump_yaml(data: Any) -> str:
    """Plain data as block YAML: keys in their order, short lists of plain values on one line.

    Text that YAML 1.1 or 1.2 would read as something else is quoted, and numbers are written so that both
    read them (``1.0e-5``).
    """
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False
    )
    return text


class _Dumper(yaml.SafeDumper):
    """PyYAML quotes what YAML 1.1 misreads; this one also quotes what our reader takes for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> Node:
    try:
        misread = not isinstance(plain_scalar(value), str)
    except BadScalar:
        misread = True
    # A control character or line break needs the escapes of double quotes.
    style = '"' if not value.isprintable() else "'" if misread else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _number(dumper: _Dumper, value: float) -> ScalarNode:
    if value != value or value in (float("inf"), float("-inf")):
        return dumper.represent_float(value)
    mantissa, _, exponent = repr(value).partition("e")
    if exponent:
        sign = exponent[0] if exponent[0] in "+-" else "+"
        exponent = f"e{sign}{exponent.lstrip('+-0')}"
        mantissa = mantissa if "." in mantissa else mantissa + ".0"
    return dumper.represent_scalar("tag:yaml.org,2002:float", mantissa + exponent)


def _list(dumper: _Dumper, value: list[Any]) -> SequenceNode:
    plain = not any(isinstance(item, dict | list) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=plain)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _number)
_Dumper.add_representer(list, _list)


@dataclass(frozen=True)
class OptionChange:
    """One key whose value differs. A side that has no such key is :data:`UNSET`."""

    path: KeyPath
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {_side(self.old)} -> {_side(self.new)}"

    def in_full(self) -> str:
        """The same with nothing cut off; keys of a section that say null are left out."""
        old, new = (
            repr(side) if isinstance(side, Unset) else in_flow(_without_nulls(side))
            for side in (self.old, self.new)
        )
        return f"{dotted(self.path)}: {old} -> {new}"


def diff_options(old: dict[str, Any], new: dict[str, Any]) -> list[OptionChange]:
    """Every key that differs, in the order of ``old``, then the keys only ``new`` has.

    Mappings are compared key by key, lists of mappings of the same length item by item, and everything else as
    a whole. A component whose ``type`` changed is one change.
    """
    return _diff(old, new, ())


def as_in_files(change: OptionChange, objective: str) -> OptionChange:
    """``distill.terms`` for ``objective.terms``: the section under which files have it.

    Args:
        change: of two runs with the same objective.
        objective: its type.
    """
    if objective != "distill" or change.path[0] != "objective" or len(change.path) == 1:
        return change
    return replace(change, path=("distill", *change.path[1:]))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return value


def render_changes(changes: list[OptionChange]) -> str:
    """One line a change: ``train.optim_g.lr: 0.0002 -> 0.0001``."""
    return "\n".join(str(change) for change in changes)


def _diff(old: Any, new: Any, path: KeyPath) -> list[OptionChange]:
    if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            change for key in keys for change in _diff(old.get(key, UNSET), new.get(key, UNSET), (*path, key))
        ]
    if _mappings(old) and _mappings(new) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [change for place, (a, b) in pairs for change in _diff(a, b, (*path, place))]
    return [] if _same(old, new) else [OptionChange(path, old, new)]


def _mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _same(old: Any, new: Any) -> bool:
    """Equal for training: 1 and 1.0 are, true and 1 are not, nan is nan."""
    if isinstance(old, bool) != isinstance(new, bool):
        return False
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    return bool(old == new) or (old != old and new != new)


def _side(value: Any) -> str:
    return repr(value) if isinstance(value, Unset) else show(value)
