"""``atelier train --build-cache``: the answers of a run's teachers, computed ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from atelier.errors import UserError
from atelier.objectives.distill.objective import DistillObjective
from atelier.objectives.distill.options import DistillOptions
from atelier.options.schema import RunOptions
from atelier.progress import progress, track
from atelier.train.distributed import Ranks, ranks_of
from atelier.train.folder import RunFolder
from atelier.train.preflight import look_ahead
from atelier.train.run import training_data
from atelier.train.starting import first_samples
from atelier.train.stopping import StopRequest, listening
from atelier.train.trainer import Trainer
from atelier.train.validating import Validator


def build_caches(
    options: RunOptions,
    *,
    launcher: str = "none",
    quiet: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Fill the caches of a distilling run for all its steps; nothing is trained and the run's folder is not touched.

    What training checks before its first step is checked here first. Steps whose answers are stored are passed over,
    so that the same command goes on after a stop, and mends files that are damaged.

    Args:
        options: the run.
        launcher: as for training; with N processes the caches are those of runs with N processes.
        quiet: no progress bar.
        say: prints a line.

    Returns:
        The exit code: 0, or 128 + signal number where a signal stopped it.

    Raises:
        UserError: no term of the run asks a teacher with ``source: plan_cache`` for an output; the caches would not
            fit; anything that would keep the run from starting.
    """
    objective = options.objective
    if not isinstance(objective, DistillOptions) or not any(
        each.source == "plan_cache" for each in objective.teacher
    ):
        raise UserError(
            "--build-cache: the run has no teacher with source: plan_cache; distill.teacher.0.source=plan_cache makes "
            "it one"
        )
    with ranks_of(options, launcher) as ranks:
        return _Build(options, ranks, quiet or not ranks.first, say if ranks.first else _silent).go()


class _Build:
    def __init__(self, options: RunOptions, ranks: Ranks, quiet: bool, say: Callable[[str], None]) -> None:
        self.options, self.ranks, self.quiet, self.say = options, ranks, quiet, say
        self.accumulate = options.train.accumulate

    def go(self) -> int:
        options, ranks = self.options, self.ranks
        data = training_data(options, ranks, quiet=self.quiet)
        try:
            validator = Validator(options, ranks, RunFolder(options.run_dir))
            trainer = Trainer(options, ranks, data=data.fingerprint)
            objective = trainer.objective
            assert isinstance(objective, DistillObjective)
            caches = objective.apprentice.school.caches if objective.apprentice is not None else []
            if not any(cache.stores for cache in caches):
                raise UserError(
                    "--build-cache: no term of this run asks its teacher for anything that is stored"
                )
            lines, warnings = look_ahead(trainer, first_samples(data), validator, ranks, quiet=self.quiet)
            for line in [*(f"note: {each}" for each in warnings), *lines]:
                self.say(line)
            total = options.train.total_iter
            steps = track(range(1, total + 1), "looking at the cache", total, "steps", quiet=self.quiet)
            missing = [step for step in steps if self._is_missing(objective, step)]
            with listening() as stop:
                try:
                    self._fill(trainer, objective, data.batches, missing, stop)
                finally:
                    for line in [*objective.remarks(), *objective.close()]:
                        self.say(line)
            objective.verify()
            ranks.agree_on_error(None)
            share = min(cache.coverage(total) for cache in caches if cache.stores)
            rest = f"; {stop.name}: stopped, the same command goes on" if stop else ""
            self.say(f"plan cache: {share:.0%} of {total:,} steps is there{rest}")
            return stop.exit_code
        finally:
            data.close()

    def _is_missing(self, objective: DistillObjective, step: int) -> bool:
        per_pass = self.options.datasets.train.batch_size_per_gpu // self.accumulate
        first = self.ranks.rank * self.accumulate
        return not all(
            objective.stored(step, range(slot * per_pass, (slot + 1) * per_pass))
            for slot in range(first, first + self.accumulate)
        )

    def _fill(
        self,
        trainer: Trainer,
        objective: DistillObjective,
        batches: Callable[[int, int], Iterator[object]],
        missing: list[int],
        stop: StopRequest,
    ) -> None:
        total = self.options.train.total_iter
        with progress(
            "asking the teacher", total, "steps", done=total - len(missing), quiet=self.quiet
        ) as bar:
            for first, last in _spans(missing):
                for step, batch in enumerate(batches(first, last), first):
                    for micro in batch.split(self.accumulate):  # type: ignore[attr-defined]
                        if self.options.train.channels_last:
                            micro = micro.to(memory_format=torch.channels_last)
                        with trainer.autocast():
                            objective.store(micro, step)
                    bar.advance()
                    if stop:
                        return


def _spans(steps: list[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of every stretch of consecutive numbers."""
    for place, step in enumerate(steps):
        if place == 0 or step != steps[place - 1] + 1:
            first = step
        if place == len(steps) - 1 or steps[place + 1] != step + 1:
            yield first, step


def _silent(line: str) -> None:
    return None
