"""One training run from options to report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atelier.archs.load import options_of
from atelier.archs.load_report import LoadReport
from atelier.compress.solved import RULE, crops_for
from atelier.data.batch import Batch
from atelier.data.stream import SampleStream
from atelier.errors import RunStopped, UserError
from atelier.evaluate.best import Best
from atelier.evaluate.report import write_report
from atelier.files import atomic_write
from atelier.options.absent import check_weights
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.options.write import save_run_options
from atelier.progress import progress
from atelier.train.checkpoint import CheckpointStore
from atelier.train.detectors import Watch, read_records
from atelier.train.distributed import Ranks, ranks_of
from atelier.train.environment import peak_memory_mb, write_environment
from atelier.train.folder import RunFolder
from atelier.train.pace import Pace
from atelier.train.preflight import look_ahead
from atelier.train.resume import choose_checkpoint, compare_past
from atelier.train.showing_features import keep_feature_maps
from atelier.train.starting import (
    Origin,
    check_start_losses,
    first_samples,
    likeness,
    origin_of,
    start_losses,
    task_difference,
)
from atelier.train.stopping import StopRequest, listening
from atelier.train.tracking import Tracker, check_trackers
from atelier.train.trainer import DETAIL, Trainer
from atelier.train.validating_clips import AnyValidator, validator_of

#: With several ranks a wish to stop is shared every so many steps, so that all of them stop at the same one.
STOP_CHECK = 10


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        folder: ``experiments/NAME``.
        iteration: the last step that was trained.
        finished: False when a signal stopped the run before ``total_iter``.
        exit_code: 0, or 128 + signal number.
        metrics: set -> metric -> mean of the last validation.
        report: path of ``report.html`` (rank 0 only).
    """

    folder: Path
    iteration: int
    finished: bool
    exit_code: int
    metrics: Mapping[str, Mapping[str, float]]
    report: Path | None


def train(
    source: RunOptions | dict[str, Any] | str | Path,
    overrides: tuple[str, ...] | list[str] = (),
    *,
    auto_resume: bool = False,
    accept_changes: bool = False,
    launcher: str = "none",
    quiet: bool = False,
) -> RunResult:
    """Train a network.

    Args:
        source: options, a mapping of them, or the path of an option file.
        overrides: ``key=value`` strings that win over the file.
        auto_resume: continue from the newest complete checkpoint of this name, if there is one.
        accept_changes: continue even though options that decide the past have changed.
        launcher: ``none``, ``pytorch`` under torchrun, or ``slurm`` under srun.
        quiet: show no progress bar.

    Returns:
        Where everything is, and the last validation.

    Raises:
        UserError: anything the user can mend, in one message.
    """
    options = load_run_options(source, overrides)
    with ranks_of(options, launcher) as ranks:
        return _Run(options, ranks, quiet=quiet).go(auto_resume=auto_resume, accept_changes=accept_changes)


def look_ahead_of(
    source: RunOptions | dict[str, Any] | str | Path,
    overrides: tuple[str, ...] | list[str] = (),
    *,
    launcher: str = "none",
    quiet: bool = False,
) -> list[str]:
    """Everything that a run checks before its first step, without the run: ``atelier train --preflight``.

    Returns:
        Lines for people. Nothing is written.

    Raises:
        UserError: what would keep the run from starting.
    """
    options = load_run_options(source, overrides)
    with ranks_of(options, launcher) as ranks:
        return _Run(options, ranks, quiet=quiet).look()


def training_data(options: RunOptions, ranks: Ranks, *, quiet: bool) -> SampleStream:
    """This rank's share of the samples that the run trains on."""
    return options.datasets.train.open(
        scale=options.scale,
        degradation=options.effective_degradation,
        seed=options.manual_seed,
        global_batch=options.datasets.train.batch_size_per_gpu * ranks.world,
        rank=ranks.rank,
        world=ranks.world,
        in_channels=options.network_g.in_channels,
        device=ranks.device,
        cache=options.cache,
        quiet=quiet,
    )


class _Run:
    """The steps of :func:`train`, sharing what they need."""

    def __init__(self, options: RunOptions, ranks: Ranks, *, quiet: bool) -> None:
        self.options, self.ranks = options, ranks
        self.quiet = quiet or not ranks.first
        self.folder = RunFolder(options.run_dir)
        self.suffix = ".safetensors" if options.checkpoint_format == "safetensors" else ".pth"
        self.store = CheckpointStore(self.folder, self.suffix)
        self.global_batch = options.datasets.train.batch_size_per_gpu * ranks.world
        self.pictures = 0
        self.notes: list[str] = []
        self.beginnings: list[str] = []

    def look(self) -> list[str]:
        """Set up and look ahead; nothing is written. The lines of the log's beginning, warnings first."""
        self.go(auto_resume=False, accept_changes=False, only_look=True)
        return [*(f"note: {note}" for note in [*self.options.warnings(), *self.notes]), *self.beginnings]

    def go(self, *, auto_resume: bool, accept_changes: bool, only_look: bool = False) -> RunResult:
        """Set up, train, finish."""
        options, ranks = self.options, self.ranks
        check_trackers(options.logger)
        # Everything that can be wrong with data and network is found before the older run is moved aside.
        checkpoint = choose_checkpoint(options, self.store, auto_resume=auto_resume, report=self.notes.append)
        check_weights(options, start=checkpoint is None)
        origin = origin_of(options, checkpoint)
        data = training_data(options, ranks, quiet=self.quiet)
        self.pictures = len(data)
        validator = validator_of(options, ranks, self.folder)
        inherits = origin.start is not None and origin.start.mode(options.path.load) == "inherit"
        samples = first_samples(data) if inherits or options.objective.looks_ahead else None
        self.shown = samples.lq if samples is not None else None
        calibration = [samples.lq] if inherits and samples is not None else None
        if origin.start is not None and origin.start.heritage is not None:
            side = options.datasets.images.gt_size // options.scale
            calibration = [first_samples(data, crops_for(side)).lq]
        trainer = Trainer(options, ranks, origin.start, calibration, data.fingerprint)
        trainer.objective.join(data)
        past = {
            **options.model_dump(mode="json"),
            "global_batch": self.global_batch,
            "data": data.fingerprint,
        }
        if origin.continues:
            restored = self._restore(origin, trainer, validator, past, accept=accept_changes)
        else:
            restored = []
            self._begin(origin, trainer, samples if inherits else None)
            if samples is not None and options.objective.looks_ahead:
                lines, warnings = look_ahead(trainer, samples, validator, ranks, quiet=self.quiet)
                self.beginnings += lines
                self.notes += warnings
        if only_look:
            data.close()
            return RunResult(self.folder.root, trainer.iteration, False, 0, {}, None)
        if ranks.first:
            self._open_folder(origin, trainer)
        ranks.barrier()
        resolved = options.model_dump(mode="json")
        self.tracker = Tracker(
            self.folder,
            options.logger,
            options.name,
            resolved,
            start_iter=trainer.iteration,
            active=ranks.first,
        )
        earlier = read_records(self.folder.metrics) if ranks.first else []
        self.watch = Watch(options.health.detectors, options.train.total_iter, self.global_batch, earlier)
        try:
            self._introduce(trainer, data, restored)
            with listening() as stop:
                try:
                    metrics = self._loop(trainer, data, validator, past, stop)
                except UserError as error:
                    self.tracker.log_only(f"stopped: {error}")
                    raise
            return self._finish(trainer, validator, stop, metrics)
        finally:
            data.close()
            try:
                self._tell([*trainer.objective.remarks(), *trainer.objective.close()])
            finally:
                self.tracker.close()

    def _restore(
        self,
        origin: Origin,
        trainer: Trainer,
        validator: AnyValidator,
        past: Mapping[str, Any],
        *,
        accept: bool,
    ) -> list[str]:
        """Go on where the checkpoint stands."""
        assert origin.checkpoint is not None
        state = origin.state
        if "past" in state:
            changes = compare_past(state["past"], past, accept=accept, report=self.notes.append)
            if self.ranks.first and any(change.path[0] in {"datasets", "degradation"} for change in changes):
                self.folder.forget_references()
        restored = trainer.load(state, origin.checkpoint)
        self._check_place(trainer)
        validator.best = Best.from_json(state["best"]) if state.get("best") else None
        return restored

    def _begin(self, origin: Origin, trainer: Trainer, samples: Batch | None) -> None:
        """A new run, which may begin with what another one has learned."""
        trainer.iteration = origin.iteration
        trainer.begin_discriminator()
        if origin.checkpoint is not None:
            carried = trainer.carry_discriminator(origin.state, origin.checkpoint)
            self.beginnings += [carried] if carried is not None else []
        report = trainer.start_report
        if report is None:
            return
        path = self.options.path
        if origin.changes:
            self.notes.append(f"the architecture changed since the checkpoint: {', '.join(origin.changes)}")
        if origin.checkpoint is not None:
            moments = trainer.carry_moments(origin.state, set(report.loaded))
            trainer.start_report = replace(report, iteration=origin.iteration, optimizer=moments.by_fate)
            self.beginnings.append(moments.text())
            how = (
                "path.resume_iteration: keep"
                if path.resume_iteration == "keep"
                else "a new run counts from 0"
            )
            self.beginnings.append(
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
            self.beginnings.append(f"start: {heritage.title} made as small as network_g, {how}")
        former = options_of(origin.start.weights)
        told = task_difference(former, self.options.network_g)
        if told is not None:
            self.notes.append(f"{origin.start.weights.path} {told}")
        if samples is not None and self.ranks.first:
            try:
                net = trainer.nets["g"]
                alike = likeness(net, origin.start.weights, samples)
                self.beginnings += [alike] if alike is not None else []
                losses = start_losses(self.options, net, samples)
                self.beginnings.append(check_start_losses(*losses, same_task=told is None, heritage=heritage))
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
            self.beginnings.append(
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

    def _open_folder(self, origin: Origin, trainer: Trainer) -> None:
        """Make the run's folder ready; where a new run begins, an older one of its name is renamed, never lost."""
        checkpoint = origin.checkpoint
        in_place = (
            origin.continues and checkpoint is not None and _same_place(checkpoint.run, self.folder.root)
        )
        if in_place and checkpoint is not None:
            self.folder.keep_metrics_until(checkpoint.iteration)
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
        save_run_options(self.options, self.folder.options)
        write_environment(self.folder.root / "environment.json", self.ranks)
        if trainer.start_report is not None:
            told = {"changes": list(origin.changes), "lines": self.beginnings}
            atomic_write(self.folder.load_report, json.dumps(trainer.start_report.to_json() | told, indent=1))

    def _introduce(self, trainer: Trainer, data: SampleStream, restored: list[str]) -> None:
        options = self.options
        say = self.tracker.say
        net = trainer.nets["g"]
        count = sum(parameter.numel() for parameter in net.parameters())
        kind = f"{options.network_g.type} x{options.scale}"
        say(f"run {options.name}: {kind}, {count:,} parameters, on {self.ranks.device}")
        entries = "clips" if options.network_g.works_on == "clips" else "pictures"
        say(
            f"data: {len(data):,} {entries}, {options.datasets.train.batch_size_per_gpu} x {self.ranks.world} samples "
            f"a step, {options.train.total_iter:,} steps"
        )
        for note in [*options.warnings(), *self.notes]:
            say(f"note: {note}")
        if trainer.start_report is not None:
            say(trainer.start_report.text())
        if trainer.start_report_d is not None:
            say(trainer.start_report_d.text("D"))
        for line in self.beginnings:
            say(line)
        if restored:
            say("resumed: " + ", ".join(restored))

    def _loop(
        self,
        trainer: Trainer,
        data: SampleStream,
        validator: AnyValidator,
        past: Mapping[str, Any],
        stop: StopRequest,
    ) -> dict[str, dict[str, float]]:
        options = self.options
        logger, total = options.logger, options.train.total_iter
        metrics: dict[str, dict[str, float]] = {}
        if validator.sets:
            self._baseline(validator, fresh=trainer.iteration == 0)
        pace = Pace(trainer.iteration, data)
        saved = trainer.iteration
        with progress(
            "training", total, "steps", done=trainer.iteration, quiet=self.quiet or not _terminal()
        ) as bar:
            for batch in data.batches(trainer.iteration + 1, total):
                trainer.step(batch)
                step = trainer.iteration
                last = step == total
                bar.advance()
                if step % logger.print_freq == 0 or last:
                    self._print(trainer, pace, bar.advance)
                validates = bool(validator.sets) and (step % options.val.val_freq == 0 or last)
                saves = step % logger.save_checkpoint_freq == 0 or last
                stops = not last and self._should_stop(stop, step)
                if validates or saves or stops:
                    self._check_health(trainer)
                if validates:
                    with pace.paused():
                        metrics = self._validate(trainer, validator)
                if saves or stops:
                    with pace.paused():
                        self._save(trainer, validator, past)
                    saved = step
                if stops:
                    never = self.options.path.never_resumes
                    again = "path.resume=auto" if never else "the same command with --auto_resume"
                    self.tracker.say(
                        f"{stop.name or 'another rank'}: stopped after step {saved}, which is saved; {again} continues"
                    )
                    break
        return metrics

    def _epoch(self, trainer: Trainer) -> int:
        """How often the pictures have been gone through."""
        return (trainer.iteration - 1) * self.global_batch // self.pictures

    def _should_stop(self, stop: StopRequest, step: int) -> bool:
        if self.ranks.world == 1:
            return bool(stop)
        return step % STOP_CHECK == 0 and self.ranks.any(bool(stop))

    def _check_health(self, trainer: Trainer) -> None:
        """Raise on every rank if any saw a non-finite value; nothing is saved after that."""
        message = None
        try:
            trainer.health.verdict()
        except RunStopped as error:
            message = str(error)
        self.ranks.agree_on_error(message)

    def _tell(self, remarks: Sequence[str]) -> None:
        for remark in remarks:
            self.tracker.say(f"note: {remark}")

    def _print(self, trainer: Trainer, pace: Pace, note: Callable[..., None]) -> None:
        self._check_health(trainer)
        self._tell(trainer.objective.remarks())
        values = trainer.meters.means(self.ranks)
        details = {name[len(DETAIL) :]: value for name, value in values.items() if name.startswith(DETAIL)}
        means = {name: value for name, value in values.items() if not name.startswith(DETAIL)}
        norm = means.pop("grad_norm", None)
        steps, seconds, waiting = pace.take(trainer.iteration)
        guided = trainer.objective.guided_seconds()
        record = {
            "kind": "train",
            "iter": trainer.iteration,
            "lr": trainer.learning_rate,
            "losses": means,
            **({"details": details} if details else {}),
            "images_per_s": self.global_batch * steps / seconds,
            "data_share": min(waiting / seconds, 1.0),
            **({"teacher_share": min(guided / seconds, 1.0)} if guided is not None else {}),
            "memory_mb": peak_memory_mb(self.ranks.device),
            "grad_norm": norm,
        }
        self.tracker.record(record)
        if not self.ranks.first:
            return
        self._look_at(record)
        line = self.tracker.train_line(
            record, self.options.train.total_iter, self._epoch(trainer), (seconds / steps, waiting / steps)
        )
        if _terminal() and not self.quiet:
            self.tracker.log_only(line)
            note(0, note=" ".join(f"{name} {value:.4f}" for name, value in means.items()))
        else:
            self.tracker.say(line)

    def _look_at(self, record: Mapping[str, Any]) -> None:
        """Let the health detectors see ``record``; what they say goes into log, records and report."""
        for alarm in self.watch.see(record):
            self.tracker.say(alarm.text())
            self.tracker.record(alarm.to_json())

    def _baseline(self, validator: AnyValidator, *, fresh: bool) -> None:
        for result in validator.baselines(quiet=self.quiet).values():
            if fresh:
                self.tracker.record(result.to_json())

    def _validate(self, trainer: Trainer, validator: AnyValidator) -> dict[str, dict[str, float]]:
        with trainer.evaluating():
            net, averaged = trainer.evaluation_net()
            results = validator.run(net, trainer.iteration, quiet=self.quiet)
            both = averaged and self.options.val.measure == "both"
            beside = (
                validator.run(trainer.nets["g"], trainer.iteration, quiet=self.quiet, beside=True)
                if both
                else {}
            )
        is_best = validator.note_best(results)
        if is_best:
            self._everywhere(
                lambda: trainer.weight_writers()["g"](self.folder.models / f"net_g_best{self.suffix}")
            )
        measured: list[dict[str, Any]] = []
        for key, result in results.items():
            signs = {"signs": validator.signs[key]} if validator.signs[key] else {}
            record = {**result.to_json(ema=averaged), **signs}
            self.tracker.record(record)
            measured.append(record)
        for record in validator.records():
            self.tracker.record(record)
        for result in beside.values():
            self.tracker.record({**result.to_json(ema=False), "kind": "validation_beside"})
        best = validator.best
        assert best is not None
        epoch = self._epoch(trainer)
        self.tracker.say(
            f"validation at step {trainer.iteration}\n"
            f"{self.tracker.validation_text(results, beside, epoch, validator.table(results))}\n"
            f"best {best.protocol} on {best.name}: {best.value:.4f} @ {best.iteration} iter"
        )
        for record in measured if self.ranks.first else []:
            self._look_at(record)
        return {
            key: {name: mean.value for name, mean in result.metrics.items()}
            for key, result in results.items()
        }

    def _save(self, trainer: Trainer, validator: AnyValidator, past: Mapping[str, Any]) -> None:
        best = validator.best.to_json() if validator.best is not None else None

        def save() -> None:
            state = {**trainer.state(), "past": dict(past), "best": best}
            self.store.save(trainer.iteration, trainer.weight_writers(), state)
            if self.options.path.layout == "kair":
                trainer.write_kair_files(self.folder.models)
            self.store.prune(self.options.logger.keep_last, trainer.iteration)

        self._everywhere(save)

    def _everywhere(self, write: Callable[[], None]) -> None:
        """Write on rank 0; a failure there ends the run on every rank with its reason."""
        message = None
        if self.ranks.first:
            try:
                write()
            except UserError as error:
                message = str(error)
        self.ranks.agree_on_error(message)

    def _finish(
        self,
        trainer: Trainer,
        validator: AnyValidator,
        stop: StopRequest,
        metrics: dict[str, dict[str, float]],
    ) -> RunResult:
        finished = trainer.iteration >= self.options.train.total_iter
        trainer.objective.verify()
        self._tell([*trainer.objective.remarks(), *trainer.objective.close()])
        report = None
        if self.ranks.first:
            file = self.folder.models / f"net_g_best{self.suffix}"
            if validator.best is not None and file.exists():
                best = validator.best
                self.tracker.say(
                    f"best: {best.protocol} on {best.name} {best.value:.4f} at step {best.iteration}: {file}"
                )
            kept = trainer.objective.on_disk()
            if kept:
                self.tracker.record({"kind": "caches", "iter": trainer.iteration, "bytes": dict(kept)})
            if self.shown is not None:
                keep_feature_maps(trainer.objective, self.shown, self.folder.root)
            report = write_report(self.folder.root)
            self.tracker.say(f"report: {report}")
        code = 0 if finished else (stop.exit_code or 143)
        return RunResult(self.folder.root, trainer.iteration, finished, code, metrics, report)


def _terminal() -> bool:
    return sys.stderr.isatty()


def _moved(report: LoadReport | None, root: Path, target: Path) -> LoadReport | None:
    """``report`` with the place its file has now that the folder ``root`` is called ``target``."""
    if report is None or report.path is None or not report.path.resolve().is_relative_to(root.resolve()):
        return report
    return replace(report, path=target / report.path.resolve().relative_to(root.resolve()))


def _same_place(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
