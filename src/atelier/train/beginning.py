"""How a run begins: where a checkpoint stands, or with weights that another run has learned, in a folder made ready."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from atelier.archs.load import options_of
from atelier.archs.load_report import LoadReport
from atelier.archs.weights import read_weights
from atelier.compress.solved import RULE
from atelier.data.batch import Batch
from atelier.errors import UserError
from atelier.evaluate.best import Best
from atelier.files import atomic_write
from atelier.options.schema import RunOptions
from atelier.options.write import save_run_options
from atelier.train.checkpoint import Checkpoint, CheckpointStore
from atelier.train.distributed import Ranks
from atelier.train.environment import write_environment
from atelier.train.folder import RunFolder
from atelier.train.resume import compare_past
from atelier.train.starting import Origin, check_start_losses, likeness, start_losses, task_difference
from atelier.train.trainer import Trainer
from atelier.train.validating_clips import AnyValidator


class Beginning:
    """Brings a trainer to where its run begins, and remembers what is to be said of it.

    Attributes:
        notes: what people should know before they wait for the result.
        lines: what happened, for the log and the report.
    """

    def __init__(self, options: RunOptions, ranks: Ranks, folder: RunFolder, store: CheckpointStore) -> None:
        self.options, self.ranks, self.folder, self.store = options, ranks, folder, store
        self.notes: list[str] = []
        self.lines: list[str] = []
        self._stale_references = False
        self._best_file: Path | None = None

    def restore(
        self,
        origin: Origin,
        trainer: Trainer,
        validator: AnyValidator,
        past: Mapping[str, Any],
        *,
        accept: bool,
    ) -> list[str]:
        """Go on where the checkpoint stands; nothing is written before :meth:`open_folder`.

        Args:
            origin: of the run; it continues.
            trainer: brought to the checkpoint's step.
            validator: gets the best value so far.
            past: what decides the samples and steps so far.
            accept: whether ``past`` may differ from the checkpoint's.

        Returns:
            What was restored, in words.

        Raises:
            UserError: the checkpoint does not fit these options.
        """
        assert origin.checkpoint is not None
        state = origin.state
        if "past" in state:
            changes = compare_past(state["past"], past, accept=accept, report=self.notes.append)
            self._stale_references = any(change.path[0] in {"datasets", "degradation"} for change in changes)
        restored = trainer.load(state, origin.checkpoint)
        self.lines += trainer.objective.remarks()
        self._check_place(trainer)
        validator.best = Best.from_json(state["best"]) if state.get("best") else None
        if validator.best is not None and not self._finds_best(validator.best.iteration, origin.checkpoint):
            self.notes.append(
                f"the best weights so far, of step {validator.best.iteration}, are in no file any more; the best of "
                "this run is that of the steps from here on"
            )
            validator.best = None
        return restored

    def _finds_best(self, iteration: int, checkpoint: Checkpoint) -> bool:
        """Whether a file still holds the weights of the best step so far, for :meth:`open_folder`; on every rank alike.

        In the folder of a run that went back, ``net_g_best`` is the best of the steps that were thrown away.
        """
        if self.ranks.first:
            store = CheckpointStore(RunFolder(checkpoint.run), self.store.suffix)
            named = store.folder.models / f"net_g_best{store.suffix}"
            if _step_of(named) == iteration:
                self._best_file = named
            else:
                kept = store.complete(iteration)
                file = kept.models.get("g") if kept is not None else None
                self._best_file = file if file is not None and file.suffix == store.suffix else None
        return self.ranks.any(self._best_file is not None)

    def start(self, origin: Origin, trainer: Trainer, samples: Batch | None) -> None:
        """A new run, which may begin with what another one has learned.

        Args:
            origin: of the run; it does not continue.
            trainer: with its starting weights loaded.
            samples: what the start is measured on; None: it is not measured.

        Raises:
            UserError: on every rank, where the start is no better than a random one.
        """
        trainer.iteration = origin.iteration
        trainer.begin_discriminator()
        if origin.checkpoint is not None:
            carried = trainer.carry_discriminator(origin.state, origin.checkpoint)
            self.lines += [carried] if carried is not None else []
        report = trainer.start_report
        if report is None:
            return
        path = self.options.path
        if origin.changes:
            self.notes.append(f"the architecture changed since the checkpoint: {', '.join(origin.changes)}")
        if origin.checkpoint is not None:
            moments = trainer.carry_moments(origin.state, set(report.loaded))
            trainer.start_report = replace(report, iteration=origin.iteration, optimizer=moments.by_fate)
            self.lines.append(moments.text())
            how = (
                "path.resume_iteration: keep"
                if path.resume_iteration == "keep"
                else "a new run counts from 0"
            )
            self.lines.append(
                f"step: {origin.iteration} ({how}; the checkpoint stood at {origin.state['iter']})"
            )
        report = trainer.start_report or report
        self._begin_gently(trainer, report)
        message = None
        assert origin.start is not None
        heritage = origin.start.heritage
        if heritage is not None:
            rules = {each.rule for each in report.inherited.values()}
            how = RULE if rules == {RULE} else "by the rules of path.inherit" if rules else "as it is"
            self.lines.append(f"start: {heritage.title} made as small as network_g, {how}")
        former = options_of(origin.start.weights)
        told = task_difference(former, self.options.network_g)
        if told is not None:
            self.notes.append(f"{origin.start.weights.path} {told}")
        if samples is not None and self.ranks.first:
            try:
                net = trainer.nets["g"]
                alike = likeness(net, origin.start.weights, samples)
                self.lines += [alike] if alike is not None else []
                losses = start_losses(self.options, net, samples)
                self.lines.append(check_start_losses(*losses, same_task=told is None, heritage=heritage))
            except UserError as error:
                message = str(error)
        self.ranks.agree_on_error(message)
        self._check_place(trainer)

    def _begin_gently(self, trainer: Trainer, report: LoadReport) -> None:
        """Let the rate rise where the weights are known and the optimiser's moments are not."""
        restored = len(report.optimizer["restored"]) if report.optimizer is not None else 0
        if report.mode == "strict" or 2 * restored >= report.tensors or self.options.train.warmup_iter > 0:
            return
        left = self.options.train.total_iter - trainer.iteration
        automatic = min(500, max(1, left // 10))
        wanted = self.options.path.inherit.warmup
        steps = automatic if wanted == "auto" else wanted
        if report.mode == "inherit" and steps:
            trainer.rise = (trainer.iteration, steps)
            self.lines.append(
                f"learning rate: rises over {steps} steps, so that an optimiser without moments does not throw away "
                "what was carried (path.inherit.warmup)"
            )
        elif not steps or report.mode == "flexible":
            self.notes.append(
                "Adam's first steps move every weight by the full rate, also what was learned: train.warmup_iter="
                f"{automatic} makes them gentler"
            )

    def _check_place(self, trainer: Trainer) -> None:
        total = self.options.train.total_iter
        if trainer.iteration > total:
            raise UserError(f"the checkpoint is at step {trainer.iteration}, beyond train.total_iter {total}")
        if trainer.iteration == total:
            self.notes.append(
                f"already at step {total} of {total}: nothing left to train; raise train.total_iter to go on"
            )

    def open_folder(self, origin: Origin, trainer: Trainer) -> None:
        """Make the run's folder ready; where a new run begins, an older one of its name is renamed, never lost."""
        checkpoint = origin.checkpoint
        in_place = (
            origin.continues and checkpoint is not None and _same_place(checkpoint.run, self.folder.root)
        )
        if in_place and checkpoint is not None:
            self.folder.keep_metrics_until(checkpoint.iteration)
            if self._stale_references:
                self.folder.forget_references()
            later = self.store.supersede_after(checkpoint.iteration)
            if later:
                self.notes.append(f"checkpoints of later steps no longer count: {', '.join(map(str, later))}")
        else:
            old = self.folder.archive()
            if old is not None:
                self.notes.append(f"an older run of this name was kept as {old}")
                trainer.start_report = _moved(trainer.start_report, self.folder.root, old)
                if checkpoint is not None and not checkpoint.state_path.exists():
                    self.notes.append("(the checkpoint this run continues from moved with it)")
        self.folder.create()
        self._keep_best()
        save_run_options(self.options, self.folder.options)
        write_environment(self.folder.root / "environment.json", self.ranks)
        if trainer.start_report is not None:
            told = {"changes": list(origin.changes), "lines": self.lines}
            atomic_write(self.folder.load_report, json.dumps(trainer.start_report.to_json() | told, indent=1))

    def _keep_best(self) -> None:
        """Let ``net_g_best`` be the weights that the run names as its best so far."""
        target = self.folder.models / f"net_g_best{self.store.suffix}"
        if self._best_file is not None and not _same_place(self._best_file, target):
            atomic_write(target, self._best_file.read_bytes())


def _step_of(path: Path) -> int | None:
    """The step whose weights a file holds; None where it does not say, cannot be read or is not there."""
    try:
        step = read_weights(path).metadata.get("iter")
    except UserError:
        return None
    return step if isinstance(step, int) else None


def _moved(report: LoadReport | None, root: Path, target: Path) -> LoadReport | None:
    """``report`` with the place its file has now that the folder ``root`` is called ``target``."""
    if report is None or report.path is None or not report.path.resolve().is_relative_to(root.resolve()):
        return report
    return replace(report, path=target / report.path.resolve().relative_to(root.resolve()))


def _same_place(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
