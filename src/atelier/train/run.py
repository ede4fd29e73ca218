"""One training run from options to report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.compress.solved import crops_for
from atelier.data.stream import SampleStream
from atelier.errors import RunStopped, UserError
from atelier.evaluate.report import write_report
from atelier.options.absent import check_weights
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.progress import progress
from atelier.train.beginning import Beginning
from atelier.train.checkpoint import CheckpointStore
from atelier.train.distributed import Ranks, ranks_of
from atelier.train.folder import RunFolder
from atelier.train.narrator import Narrator
from atelier.train.pace import Pace
from atelier.train.preflight import look_ahead
from atelier.train.resume import choose_checkpoint
from atelier.train.showing_features import keep_feature_maps
from atelier.train.starting import first_samples, origin_of
from atelier.train.stopping import StopRequest, listening
from atelier.train.tracking import check_trackers
from atelier.train.trainer import Trainer
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
    auto_resume: bool = False,
    accept_changes: bool = False,
    launcher: str = "none",
    quiet: bool = False,
) -> list[str]:
    """Everything that a run checks before its first step, without the run: ``atelier train --preflight``.

    Arguments are those of :func:`train`, so that what is looked at is what it would do.

    Returns:
        Lines for people. Nothing is written: pictures are read without the shard cache.

    Raises:
        UserError: what would keep the run from starting.
    """
    options = load_run_options(source, overrides)
    with ranks_of(options, launcher) as ranks:
        run = _Run(options, ranks, quiet=quiet)
        return run.look(auto_resume=auto_resume, accept_changes=accept_changes)


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


def _uncached(options: RunOptions) -> RunOptions:
    return options.model_copy(update={"cache": options.cache.model_copy(update={"enabled": False})})


class _Run:
    """The steps of :func:`train`, sharing what they need."""

    def __init__(self, options: RunOptions, ranks: Ranks, *, quiet: bool) -> None:
        self.options, self.ranks = options, ranks
        self.quiet = quiet or not ranks.first
        self.folder = RunFolder(options.run_dir)
        self.suffix = ".safetensors" if options.checkpoint_format == "safetensors" else ".pth"
        self.store = CheckpointStore(self.folder, self.suffix)
        self.global_batch = options.datasets.train.batch_size_per_gpu * ranks.world
        self.beginning = Beginning(options, ranks, self.folder, self.store)

    def look(self, *, auto_resume: bool, accept_changes: bool) -> list[str]:
        """Set up and look ahead; nothing is written. The lines of the log's beginning, warnings first."""
        self.go(auto_resume=auto_resume, accept_changes=accept_changes, only_look=True)
        notes = [*self.options.warnings(), *self.beginning.notes]
        return [*(f"note: {note}" for note in notes), *self.beginning.lines]

    def go(self, *, auto_resume: bool, accept_changes: bool, only_look: bool = False) -> RunResult:
        """Set up, train, finish."""
        options, ranks, beginning = self.options, self.ranks, self.beginning
        check_trackers(options.logger)
        # Everything that can be wrong with data and network is found before the older run is moved aside.
        checkpoint = choose_checkpoint(
            options, self.store, auto_resume=auto_resume, report=beginning.notes.append
        )
        check_weights(options, start=checkpoint is None)
        origin = origin_of(options, checkpoint)
        data = training_data(_uncached(options) if only_look else options, ranks, quiet=self.quiet)
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
            restored = beginning.restore(origin, trainer, validator, past, accept=accept_changes)
        else:
            restored = []
            beginning.start(origin, trainer, samples if inherits else None)
            if samples is not None and options.objective.looks_ahead:
                lines, warnings = look_ahead(trainer, samples, validator, ranks, quiet=self.quiet)
                beginning.lines += lines
                beginning.notes += warnings
        if only_look:
            if origin.checkpoint is not None and origin.continues:
                beginning.lines.append(
                    f"goes on after step {trainer.iteration}: {origin.checkpoint.state_path}"
                )
            data.close()
            return RunResult(self.folder.root, trainer.iteration, False, 0, {}, None)
        if ranks.first:
            beginning.open_folder(origin, trainer)
        ranks.barrier()
        self.narrator = Narrator(
            options,
            ranks,
            self.folder,
            pictures=len(data),
            start_iter=trainer.iteration,
            quiet=self.quiet,
        )
        self.tracker = self.narrator.tracker
        try:
            self.narrator.introduce(trainer, data, beginning.notes, beginning.lines, restored)
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
                self.narrator.tell([*trainer.objective.remarks(), *trainer.objective.close()])
            finally:
                self.tracker.close()

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
        hidden = not self.narrator.shows_bar
        never = options.path.never_resumes
        again = f"{'path.resume=auto' if never else 'the same command with --auto_resume'} continues"

        def rescue() -> str:
            # Other ranks are in the middle of a step that this one will not join.
            if self.ranks.world > 1 or trainer.iteration == saved:
                return ""
            self._check_health(trainer)
            self._save(trainer, validator, past)
            return f"\nstep {trainer.iteration} is saved; {again}"

        with progress("training", total, "steps", done=trainer.iteration, quiet=hidden) as bar:
            for batch in _fed(data.batches(trainer.iteration + 1, total), rescue):
                trainer.step(batch)
                step = trainer.iteration
                last = step == total
                bar.advance()
                tells = step % logger.print_freq == 0 or last
                validates = bool(validator.sets) and (step % options.val.val_freq == 0 or last)
                saves = step % logger.save_checkpoint_freq == 0 or last
                stops = not last and self._should_stop(stop, step)
                if tells or validates or saves or stops:
                    self._check_health(trainer)
                if tells:
                    self.narrator.steps(trainer, pace, bar.advance)
                if validates:
                    with pace.paused():
                        metrics = self._validate(trainer, validator)
                if saves or stops:
                    with pace.paused():
                        self._save(trainer, validator, past)
                    saved = step
                if stops:
                    self.tracker.say(
                        f"{stop.name or 'another rank'}: stopped after step {saved}, which is saved; {again}"
                    )
                    break
        return metrics

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
        self.narrator.validation(trainer, validator, results, beside, averaged=averaged)
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
        self.narrator.tell([*trainer.objective.remarks(), *trainer.objective.close()])
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


def _fed(batches: Iterator[Any], rescue: Callable[[], str]) -> Iterator[Any]:
    """The batches; where one cannot be made, ``rescue`` keeps the steps before and says so behind the error."""
    while True:
        try:
            batch = next(batches, None)
        except UserError as error:
            raise type(error)(f"{error}{rescue()}") from error
        if batch is None:
            return
        yield batch
