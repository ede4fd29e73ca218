"""Files and folders that an option file names and that are not there; nothing is opened, and torch is not loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from atelier.errors import UserError
from atelier.options.schema import RunOptions


def absent_data(options: RunOptions) -> list[str]:
    """``datasets.train.dataroot_gt: datasets/DF2K does not exist`` for every root and list of names that is absent."""
    sets = {"train": options.datasets.train, **options.datasets.validation}
    return _absent(
        (f"datasets.{name}.{key}", path)
        for name, data in sets.items()
        for key, paths in data.paths().items()
        for path in paths
    )


def absent_weights(options: RunOptions, *, start: bool = True) -> list[str]:
    """The same for weight files: start weights, teachers, VGG's where a loss names them.

    Args:
        options: a run's.
        start: also those that only a new run reads; a checkpoint that is continued replaces them.
    """
    return [*_absent(_weights(options, start)), *_lacking("network_g", options.network_g)]


def check_weights(options: RunOptions, *, start: bool) -> None:
    """Raise one :class:`UserError` where two or more weight files are absent; a single one is told by its reader."""
    absent = absent_weights(options, start=start)
    if len(absent) > 1:
        raise UserError("\n".join(absent))


def _weights(options: RunOptions, start: bool) -> Iterator[tuple[str, Path]]:
    keys = ("pretrain_network_g", "pretrain_network_ema", "pretrain_network_d", "resume_state")
    objective = options.objective
    if start:
        for key in keys:
            yield from ((f"path.{key}", path) for path in _paths(getattr(options.path, key)))
        projectors = getattr(objective, "pretrain_projectors", None)
        yield from (("distill.pretrain_projectors", path) for path in _paths(projectors))
    yield from _named_files("network_g", options.network_g)
    for number, teacher in enumerate(getattr(objective, "teacher", ())):
        yield f"distill.teacher.{number}.weights", teacher.weights
    for loss in options.train.all_losses:
        named = getattr(loss, "vgg_weights", None)
        if named is not None and named != "random":
            yield f"{loss.type}.vgg_weights", Path(named)


def _named_files(key: str, options: BaseModel) -> Iterator[tuple[str, Path]]:
    """Every file or folder that the options of a network name, also inside its parts."""
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, BaseModel):
            yield from _named_files(f"{key}.{name}", value)
        elif isinstance(value, Path):
            yield f"{key}.{name}", value


def _lacking(key: str, options: BaseModel) -> Iterator[str]:
    """What parts of a network need that nobody named (``lacking()`` of their options)."""
    lacking = getattr(options, "lacking", None)
    if lacking is not None:
        yield from (f"{key}.{line}" for line in lacking())
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, BaseModel):
            yield from _lacking(f"{key}.{name}", value)


def _paths(value: object) -> list[Path]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, Path)]


def _absent(named: Iterable[tuple[str, Path]]) -> list[str]:
    return [f"{key}: {path} does not exist" for key, path in named if not path.expanduser().exists()]
