"""Another program's file as an option file of ours: short, because what our defaults say already is left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atelier.errors import UserError
from atelier.options.messages import validate_tree
from atelier.options.places import KeyPath
from atelier.options.read import program_of, read_foreign
from atelier.options.schema import RunOptions
from atelier.options.source import read_option_file
from atelier.options.write import dump_yaml

#: Written even where they equal a default: a reader looks for them.
_KEPT = frozenset(
    {
        ("name",),
        ("scale",),
        ("datasets", "train", "gt_size"),
        ("datasets", "train", "batch_size_per_gpu"),
        ("train", "total_iter"),
        ("train", "optim_g", "lr"),
    }
)


def converted_text(path: str | Path, overrides: Sequence[str] = ()) -> tuple[str, list[str]]:
    """YAML of ours for a file of KAIR's or BasicSR's, checked; and the notes of the conversion.

    Raises:
        UserError: where ``path`` is a file of neither, or for any mistake in it.
    """
    file = read_option_file(path)
    program = program_of(file.data)
    if program is None:
        raise UserError(
            f"{path}: this is no file of KAIR's (netG, task) or BasicSR's (model_type) but one of ours, or none at "
            f"all; atelier options check {path} says what it does"
        )
    tree, notes = read_foreign(program, file, overrides)
    options = validate_tree(RunOptions, tree)
    data = without_defaults(tree.data, options)
    ordered = {key: data[key] for key in RunOptions.model_fields if key in data}
    return f"# Converted from {program}'s {Path(path).name}.\n" + dump_yaml(ordered), notes


def without_defaults(data: dict[str, Any], options: RunOptions) -> dict[str, Any]:
    """``data`` without the keys that can be left out and still give ``options``; networks stay whole."""
    wanted = options.model_dump(mode="json")
    short = copy.deepcopy(data)
    for path in list(_paths(short)):
        kept_below = any(known[: len(path)] == path for known in _KEPT)
        if kept_below or path[0] in ("network_g", "network_d") or path[-1] == "type":
            continue
        holder = _holder(short, path)
        kept, order = holder[path[-1]], list(holder)
        del holder[path[-1]]
        if not _gives(short, wanted):
            holder[path[-1]] = kept
            for key in order[order.index(path[-1]) + 1 :]:
                if key in holder:
                    holder[key] = holder.pop(key)
    return short


def _paths(data: dict[str, Any], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key path, inner keys before the mapping that holds them."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _paths(value, (*path, key))
        yield (*path, key)


def _holder(data: dict[str, Any], path: KeyPath) -> dict[Any, Any]:
    holder: dict[Any, Any] = data
    for part in path[:-1]:
        holder = holder[part]
    return holder


def _gives(data: dict[str, Any], wanted: dict[str, Any]) -> bool:
    try:
        return RunOptions.model_validate(data).model_dump(mode="json") == wanted
    except ValidationError:
        return False
