"""What a run says while it goes on: on the terminal, in its log, in its records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atelier.data.stream import SampleStream
from atelier.evaluate.results import ValidationResult
from atelier.options.schema import RunOptions
from atelier.train.detectors import Watch, read_records
from atelier.train.distributed import Ranks
from atelier.train.environment import peak_memory_mb
from atelier.train.folder import RunFolder
from atelier.train.pace import Pace
from atelier.train.tracking import Tracker
from atelier.train.trainer import DETAIL, Trainer
from atelier.train.validating_clips import AnyValidator


class Narrator:
    """The tracker and the health detectors of one run.

    Args:
        options: of the run.
        ranks: the first one alone writes.
        folder: of the run, open.
        pictures: how many entries the training set has, of which an epoch is made.
        start_iter: the step that the run begins after.
        quiet: no progress bar is shown.
    """

    def __init__(
        self,
        options: RunOptions,
        ranks: Ranks,
        folder: RunFolder,
        *,
        pictures: int,
        start_iter: int,
        quiet: bool,
    ) -> None:
        self.options, self.ranks, self.pictures = options, ranks, pictures
        self.global_batch = options.datasets.train.batch_size_per_gpu * ranks.world
        self.shows_bar = sys.stderr.isatty() and not quiet
        resolved = options.model_dump(mode="json")
        self.tracker = Tracker(
            folder, options.logger, options.name, resolved, start_iter=start_iter, active=ranks.first
        )
        earlier = read_records(folder.metrics) if ranks.first else []
        self._watch = Watch(options.health.detectors, options.train.total_iter, self.global_batch, earlier)

    def introduce(
        self,
        trainer: Trainer,
        data: SampleStream,
        notes: Sequence[str],
        beginnings: Sequence[str],
        restored: Sequence[str],
    ) -> None:
        """What the run is, what it learns from and how it begins."""
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
        for note in [*options.warnings(), *notes]:
            say(f"note: {note}")
        if trainer.start_report is not None:
            say(trainer.start_report.text())
        if trainer.start_report_d is not None:
            say(trainer.start_report_d.text("D"))
        for line in beginnings:
            say(line)
        if restored:
            say("resumed: " + ", ".join(restored))

    def steps(self, trainer: Trainer, pace: Pace, note: Callable[..., None]) -> None:
        """The steps since the last time; ``note`` writes beside the progress bar."""
        self.tell(trainer.objective.remarks())
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
        if self.shows_bar:
            self.tracker.log_only(line)
            note(0, note=" ".join(f"{name} {value:.4f}" for name, value in means.items()))
        else:
            self.tracker.say(line)

    def validation(
        self,
        trainer: Trainer,
        validator: AnyValidator,
        results: Mapping[str, ValidationResult],
        beside: Mapping[str, ValidationResult],
        *,
        averaged: bool,
    ) -> None:
        """The results of the averaged weights (if ``averaged``), and of the trained ones ``beside`` them."""
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

    def tell(self, remarks: Sequence[str]) -> None:
        """Remarks of the objective."""
        for remark in remarks:
            self.tracker.say(f"note: {remark}")

    def _look_at(self, record: Mapping[str, Any]) -> None:
        """Let the health detectors see ``record``; what they say goes into log, records and report."""
        for alarm in self._watch.see(record):
            self.tracker.say(alarm.text())
            self.tracker.record(alarm.to_json())

    def _epoch(self, trainer: Trainer) -> int:
        """How often the pictures have been gone through."""
        return (trainer.iteration - 1) * self.global_batch // self.pictures
