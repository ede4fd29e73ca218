"""Continuing a run: which checkpoint, and whether the options still describe the same past."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.options.schema import RunOptions
from atelier.options.write import UNSET, OptionChange, as_in_files, diff_options
from atelier.train.basicsr_checkpoint import (
    BasicSRCheckpoint,
    basicsr_checkpoint_at,
    newest_basicsr_checkpoint,
)
from atelier.train.checkpoint import Checkpoint, CheckpointStore
from atelier.train.folder import RunFolder
from atelier.train.kair_checkpoint import kair_checkpoint_at, kair_files, newest_kair_checkpoint

#: Options that decide what the steps before the checkpoint saw. Changing one of them makes the resumed run differ
#: from any run that was never stopped, so it needs an explicit yes.
PAST = (
    "scale",
    "manual_seed",
    "degradation",
    "objective",
    "datasets.train",
    "network_g",
    "global_batch",
    "data",
)

#: Parts of the past that do not change any sample.
HARMLESS = (
    "datasets.train.num_worker_per_gpu",
    "datasets.train.prefetch",
    "datasets.train.pin_memory",
    "datasets.train.name",
    "datasets.train.batch_size_per_gpu",  # counted through global_batch
    "objective.gradients_every",
    "objective.cache.dir",
    "objective.cache.max_gb",
    "objective.cache.verify",
)

#: Options that older checkpoints do not know, with what they did; a run that still does so continues them exactly.
ADDED: dict[str, object] = {
    "degradation.run_on": "workers",
    "network_g.extra_residual": False,
    "objective.start": "none",
    "path.inherit.rstb": "first",
}


def choose_checkpoint(
    options: RunOptions, store: CheckpointStore, *, auto_resume: bool, report: Callable[[str], None]
) -> Checkpoint | None:
    """The checkpoint to continue from, None for a fresh start.

    With ``--auto_resume`` or ``path.resume: auto`` it is the newest complete one of this run's folder, ours, KAIR's or
    BasicSR's; where the folder has none, or neither is asked for, the one that ``path.resume_state`` names. So a run
    that began with another run's checkpoint goes on by the same command. Without the flag, a name of this very folder
    goes back to that step also where the options say ``auto``. ``path.resume: never`` wins over the flag.

    Raises:
        UserError: ``resume_state`` names a file that is no complete checkpoint, or is not given where the folder holds
            checkpoints and none of them is complete.
    """
    path, named = options.path, options.path.resume_state
    if path.never_resumes:
        key = "ignore_resume_network: true" if path.ignore_resume_network else "resume: never"
        report(f"path.{key}: the run starts afresh" + (", against --auto_resume" if auto_resume else ""))
        return None
    goes_back = named is not None and _same_folder(named.parent.parent, store.folder.root)
    if not auto_resume and (path.resume != "auto" or goes_back):
        return None if named is None else _told(_named_checkpoint(named), report)
    flaws: list[str] = []
    newest = _newest(store, flaws.append)
    if newest is None and named is None:
        flaws = flaws or _without_step(store)
        if flaws:
            listed = "\n".join(f"  {each}" for each in flaws)
            raise UserError(
                f"{store.folder.root} holds checkpoints, but none that is complete:\n{listed}\n"
                "path.resume=never starts afresh; the folder is then kept under another name"
            )
    for each in flaws:
        report(each)
    if newest is None:
        return None if named is None else _told(_named_checkpoint(named), report)
    if named is not None and named.resolve() != newest.state_path.resolve():
        report(
            f"path.resume_state: {named} is passed over: the run goes on from {newest.state_path}, the newest "
            "checkpoint of its own folder"
        )
    return _told(newest, report)


def _newest(store: CheckpointStore, report: Callable[[str], None]) -> Checkpoint | None:
    found = (
        store.newest(report),
        newest_kair_checkpoint(store.folder, report),
        newest_basicsr_checkpoint(store.folder, report),
    )
    # Of equal steps the first, so ours.
    return max((each for each in found if each is not None), key=lambda each: each.iteration, default=None)


def _without_step(store: CheckpointStore) -> list[str]:
    """What looks like a network of KAIR's in a folder without any checkpoint, and why it is none."""
    return [
        f"{each} has no step"
        if step is None
        else f"{each} was set aside when the run went back to an older step"
        for each, step in kair_files(store.folder)
    ]


def _same_folder(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _told(checkpoint: Checkpoint | None, report: Callable[[str], None]) -> Checkpoint | None:
    """Say what a checkpoint of BasicSR's cannot give."""
    if isinstance(checkpoint, BasicSRCheckpoint):
        report(
            f"{checkpoint.state_path} is BasicSR's: weights, moments of the optimisers and the step are continued; "
            "it holds no random state, so sampling goes on from the plan at this step, not bit for bit"
        )
    return checkpoint


def _named_checkpoint(state_path: Path) -> Checkpoint:
    if not state_path.exists():
        raise UserError(f"path.resume_state: {state_path} does not exist")
    if state_path.suffix == ".pth":
        return kair_checkpoint_at(state_path)
    if state_path.suffix != ".state" or not state_path.stem.isdigit():
        raise UserError(
            f"path.resume_state: {state_path}: expected a file like training_states/5000.state, or KAIR's "
            "models/5000_G.pth"
        )
    if not state_path.with_suffix(".json").exists():
        basicsrs = basicsr_checkpoint_at(state_path)
        if basicsrs is not None:
            return basicsrs
    store = CheckpointStore(RunFolder(state_path.parent.parent))
    checkpoint = store.complete(int(state_path.stem))
    if checkpoint is None:
        older = store.newest()
        hint = f"; the newest complete one there is {older.state_path}" if older else ""
        raise UserError(
            f"path.resume_state: {state_path} belongs to no complete checkpoint (its manifest or a model file is "
            f"missing or damaged){hint}"
        )
    return checkpoint


def compare_past(
    old: Mapping[str, Any], new: Mapping[str, Any], *, accept: bool, report: Callable[[str], None]
) -> list[OptionChange]:
    """Show what changed since the checkpoint; refuse changes of the past unless ``accept``.

    Args:
        old: the options (plus ``global_batch`` and ``data``) stored with the checkpoint.
        new: the same of this start.

    Raises:
        UserError: an option that changes the past differs and ``accept`` is false.
    """
    changes = [
        change
        for change in diff_options(dict(old), dict(new))
        if not _below(change, HARMLESS)
        and not (change.old is UNSET and ADDED.get(_key(change)) == change.new)
    ]
    if not changes:
        return []
    kind = str((new.get("objective") or {}).get("type", ""))
    listed = _in_words(changes, kind)
    report(f"options changed since the checkpoint:\n{listed}")
    allowed = (new.get("objective") or {}).get("allow_change", False)
    past = [change for change in changes if _below(change, PAST) and not _judged_later(change, allowed)]
    if past and not accept:
        raise UserError(
            f"changed since the checkpoint:\n{listed}\n"
            f"of these, {', '.join(_key(as_in_files(change, kind)) for change in past)} would "
            "alter what the saved steps saw, so the resumed run would match no uninterrupted one; undo that, start a "
            "new run under another name, or say --accept-changes"
        )
    return changes


def _in_words(changes: list[OptionChange], objective: str) -> str:
    """One line a change, by the keys of this ``objective``'s files; a fingerprint of data says nothing to a reader."""
    lines = []
    for change in changes:
        if change.path == ("data",):
            lines.append("data: names, sizes or pairing of the training pictures are not what they were")
        elif change.path == ("global_batch",):
            lines.append(f"global_batch (batch_size_per_gpu x processes): {change.old} -> {change.new}")
        else:
            lines.append(str(as_in_files(change, objective)))
    return "\n".join(f"  {line}" for line in lines)


def _judged_later(change: OptionChange, allowed: bool) -> bool:
    """Whether the objective itself says if this may change: a teacher is known by what its file holds, not by its path.

    Args:
        change: of one option.
        allowed: ``distill.allow_change``.
    """
    if change.path[0] != "objective":
        return False
    return allowed or (change.path[1:2] == ("teacher",) and change.path[-1] == "weights")


def _key(change: OptionChange) -> str:
    return ".".join(map(str, change.path))


def _below(change: OptionChange, prefixes: tuple[str, ...]) -> bool:
    path = _key(change)
    return any(path == prefix or path.startswith(prefix + ".") for prefix in prefixes)
