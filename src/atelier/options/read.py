"""From an option file (or a dict) and overrides to checked options."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.options import basicsr, kair
from atelier.options.foreign import ForeignTree
from atelier.options.messages import validate_tree
from atelier.options.overrides import OptionTree, apply_overrides, force
from atelier.options.schema import MODELS_WITH_COMPONENTS, RunOptions
from atelier.options.source import OptionFile, read_option_file

_Recognises = Callable[[Mapping[str, Any]], bool]
_Converts = Callable[[OptionFile, int | None], tuple[ForeignTree, list[str]]]
_PROGRAMS: dict[str, tuple[_Recognises, _Converts]] = {
    "KAIR": (kair.is_kair, kair.convert),
    "BasicSR": (basicsr.is_basicsr, basicsr.convert),
}


def load_run_options(
    source: str | Path | dict[str, Any] | RunOptions,
    overrides: Sequence[str] = (),
    forced: Sequence[str] = (),
) -> RunOptions:
    """Read, override and check the options of a run.

    Args:
        source: an option file (YAML, JSON with comments, KAIR's JSON, BasicSR's YAML), its content as a dict, or
            checked options.
        overrides: ``key=value`` arguments, for example ``train.total_iter=2000``.
        forced: ``key:sub=value`` arguments that change the file itself before it is understood (``--force_yml``).

    Returns:
        The checked options, with the components of ``plugins`` known. What there is to say about another
        program's file that was converted on the way stands first among their ``warnings()``.

    Raises:
        UserError: every problem at once, one line each, naming file and line.
    """
    if isinstance(source, RunOptions):
        if not overrides:
            return source
        source = source.model_dump(mode="json")
    written: OptionFile | dict[str, Any] = source if isinstance(source, dict) else read_option_file(source)
    if not forced:
        return _checked(written, overrides)
    written = force(written, forced)
    try:
        return _checked(written, overrides)
    except UserError as error:
        # Lines are those of the file, where another value stands.
        raise UserError(f"{error}\n(with --force_yml {' '.join(forced)})") from None


def _checked(written: OptionFile | dict[str, Any], overrides: Sequence[str]) -> RunOptions:
    _refuse_study(written)
    notes: list[str] = []
    tree: OptionTree
    program = program_of(written.data if isinstance(written, OptionFile) else written)
    if program is not None:
        # KAIR states the batch of all processes together, so the share of each follows from their number.
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        tree, notes = read_foreign(program, written, overrides, processes)
    else:
        tree = apply_overrides(written, overrides)
    if import_plugins(tree):
        rebuild_models()
    options = validate_tree(RunOptions, tree)
    options._notes.extend(notes)
    return options


def _refuse_study(written: OptionFile | dict[str, Any]) -> None:
    """One message instead of one for each key of a file that is no run's."""
    data = written.data if isinstance(written, OptionFile) else written
    if "arms" in data and "base" in data:
        name = written.name if isinstance(written, OptionFile) else "STUDY"
        raise UserError(
            f"{name if isinstance(written, OptionFile) else 'the options'}: a study (base, arms), not one run; "
            f"atelier experiment {name} --dry-run checks it, without --dry-run it is run"
        )


def program_of(data: Mapping[str, Any]) -> str | None:
    """Whose option file this is: ``KAIR``, ``BasicSR``, or None for one of ours."""
    return next((name for name, (recognises, _) in _PROGRAMS.items() if recognises(data)), None)


def read_foreign(
    program: str,
    source: OptionFile | dict[str, Any],
    overrides: Sequence[str] = (),
    processes: int | None = None,
) -> tuple[ForeignTree, list[str]]:
    """Another program's file as options of ours, not yet checked, with overrides (of our keys) put in; notes on it.

    Args:
        program: as :func:`program_of` names it.
        source: the file, or its content.
        overrides: ``key=value`` arguments.
        processes: see :func:`atelier.options.kair.convert`.
    """
    file = source if isinstance(source, OptionFile) else OptionFile("", source)
    converted, notes = _PROGRAMS[program][1](file, processes)
    base = OptionFile(file.name, converted.data, converted.lines) if file.name else converted.data
    tree = apply_overrides(base, overrides)
    return ForeignTree(tree.name, tree.data, tree.lines, tree.overrides, converted.sources), notes


def import_plugins(tree: OptionTree) -> bool:
    """Import the modules under ``plugins``, which register their components; True when there are any.

    They are looked for on the Python path, then in the current folder and beside the option file. Both
    folders stay on the path, behind everything else, so that worker processes find the modules as well. A ``plugins``
    value of the wrong shape is left to the check of the schema.
    """
    plugins = tree.data.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        return False
    folders = [Path.cwd()] + ([Path(tree.name).resolve().parent] if tree.name is not None else [])
    if plugins:
        sys.path.extend(str(folder) for folder in dict.fromkeys(folders) if str(folder) not in sys.path)
    for place, name in enumerate(plugins):
        try:
            importlib.import_module(name)
        except Exception as error:
            prefix = tree.place(("plugins", place))
            where = f"{prefix}: plugins.{place}" if prefix else f"plugins.{place}"
            raise UserError(f"{where}: {_why_not(name, error, folders)}") from error
    return bool(plugins)


def import_modules(names: Sequence[str]) -> None:
    """Import plug-ins named on the command line (``--plugin``); raises :class:`UserError` as for ``plugins:``."""
    import_plugins(apply_overrides({"plugins": list(names)}, []))


def rebuild_models() -> None:
    """Make the schema know components that were registered after it was first loaded."""
    for model in MODELS_WITH_COMPONENTS:
        model.model_rebuild(force=True)


def _why_not(name: str, error: Exception, folders: list[Path]) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]:
        looked = " and in ".join(str(folder) for folder in dict.fromkeys(folders))
        return f"no module named '{name}'; looked on the Python path, in {looked}"
    if isinstance(error, UserError):
        return f"importing '{name}' failed: {error}"
    # The last frame outside the import machinery is the line of the plug-in that failed.
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    if isinstance(error, SyntaxError):
        at = f" ({error.filename}:{error.lineno})"
    else:
        at = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    said = str(error).partition("\n")[0]
    return f"importing '{name}' failed: {type(error).__name__}{': ' if said else ''}{said}{at}"
