"""Another program's file as an option file of ours: short, because what our defaults say already is left out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atelier.errors import UserError
from atelier.objectives.distill.recipes import RECIPES
from atelier.options.messages import validate_tree
from atelier.options.overrides import OptionTree, apply_overrides
from atelier.options.places import KeyPath
from atelier.options.read import import_plugins, program_of, read_foreign, rebuild_models
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

    A file of ours with a distillation recipe comes back with all that the recipe stands for.

    Raises:
        UserError: where ``path`` is a file of neither, or for any mistake in it.
    """
    file = read_option_file(path)
    program = program_of(file.data)
    if program is None:
        return _expanded_text(path, apply_overrides(file, overrides)), []
    tree, notes = read_foreign(program, file, overrides)
    options = validate_tree(RunOptions, tree)
    return f"# Converted from {program}'s {Path(path).name}.\n" + converted_yaml(tree.data, options), notes


def converted_yaml(data: dict[str, Any], options: RunOptions) -> str:
    """Converted options ``data``, which gave ``options``, as a short file of ours."""
    return dump_yaml(_ordered(with_recipe_expanded(without_defaults(data, options), options)))


def _expanded_text(path: str | Path, tree: OptionTree) -> str:
    """A file of ours with its distillation recipe written out; there is nothing else to convert in one."""
    if "distill" not in tree.data:
        raise UserError(
            f"{path}: this is no file of KAIR's (netG, task) or BasicSR's (model_type) but one of ours, or none at "
            f"all; atelier options check {path} says what it does"
        )
    if import_plugins(tree):
        rebuild_models()
    options = validate_tree(RunOptions, tree)
    header = f"# {Path(path).name} with its distillation recipe written out.\n"
    return header + dump_yaml(_ordered(with_recipe_expanded(tree.data, options)))


def with_recipe_expanded(data: dict[str, Any], options: RunOptions) -> dict[str, Any]:
    """``data`` with all that its ``distill.recipe`` stands for written beside the recipe's name."""
    section = data.get("distill")
    objective = options.objective.model_dump(mode="json", exclude_none=True)
    if not isinstance(section, dict) or "recipe" not in objective:
        return data
    # A term that the file takes out of the recipe must stay out.
    out = {name: None for name in RECIPES[objective["recipe"]]["terms"] if name not in objective["terms"]}
    shown = {key: objective[key] for key in ("recipe", "mapping")}
    return data | {"distill": {**section, **shown, "terms": objective["terms"] | out}}


def _ordered(data: dict[str, Any]) -> dict[str, Any]:
    """The sections as they stand in a file: in the schema's order, one that stands for a field after it."""
    order = [
        name
        for field in RunOptions.model_fields
        for name in (
            field,
            *(section for section, (place, _) in RunOptions.SECTIONS.items() if place.split(".")[0] == field),
        )
    ]
    return {key: data[key] for key in order if key in data}


def without_defaults(data: dict[str, Any], options: RunOptions) -> dict[str, Any]:
    """``data`` without the keys that can be left out and still give ``options``; networks and ``loss`` stay whole."""
    wanted = options.model_dump(mode="json")
    short = copy.deepcopy(data)
    for path in list(_paths(short)):
        kept_below = any(known[: len(path)] == path for known in _KEPT)
        if kept_below or path[0] in ("network_g", "network_d", "loss") or path[-1] == "type":
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
