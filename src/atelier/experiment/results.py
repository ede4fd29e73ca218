"""The numbers of a study as its runs left them: scores, curves, one flat table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from atelier.errors import UserError
from atelier.evaluate.results import ValidationResult
from atelier.evaluate.run_record import RunRecord, read_run
from atelier.experiment.measure import read_result
from atelier.experiment.plan import Plan, Run

#: The mean over all test sets, each counting alike.
ALL = "all"
#: Points a curve keeps; more than a screen shows.
MOST_POINTS = 400
COLUMNS = ("arm", "seed", "step", "set", "image", "metric", "value")


@dataclass(frozen=True)
class RunResults:
    """One finished run.

    Attributes:
        run: which.
        tests: test set -> its result.
        record: everything else the run's folder tells.
        weights: ``ema`` or ``raw``: what was measured.
    """

    run: Run
    tests: Mapping[str, ValidationResult]
    record: RunRecord
    weights: str

    def score(self, test: str, metric: str) -> float:
        """The mean over a set's pictures; over the sets' means for :data:`ALL`."""
        if test != ALL:
            return self.tests[test].metrics[metric].value
        means = [result.metrics[metric].value for result in self.tests.values()]
        return math.fsum(means) / len(means)


@dataclass(frozen=True)
class Results:
    """All finished runs of a plan.

    Attributes:
        plan: the study.
        runs: (arm, seed) -> its results.
        missing: runs that are not done.
    """

    plan: Plan
    runs: Mapping[tuple[str, int], RunResults]
    missing: tuple[Run, ...] = field(default=())

    @property
    def tests(self) -> list[str]:
        """The test sets; :data:`ALL` first where there are several."""
        names = list(self.plan.study.test)
        return [ALL, *names] if len(names) > 1 else names

    @property
    def main_set(self) -> str:
        """Where the verdict is made: all sets together."""
        return self.tests[0]

    def of(self, arm: str) -> dict[int, RunResults]:
        """Seed -> results of an arm, in the order of its seeds."""
        seeds = self.plan.arms[arm].seeds
        return {seed: self.runs[arm, seed] for seed in seeds if (arm, seed) in self.runs}

    def scores(self, arm: str, test: str, metric: str) -> dict[int, float]:
        """Seed -> score; seeds without a finite one (equal pictures have no PSNR) are left out."""
        found = {seed: each.score(test, metric) for seed, each in self.of(arm).items()}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}


def collect(plan: Plan) -> Results:
    """Read every run that is done.

    Raises:
        UserError: a damaged result, or two runs measured by different protocols, whose numbers cannot be compared.
    """
    found: dict[tuple[str, int], RunResults] = {}
    missing = []
    for run in plan.runs:
        result = read_result(run)
        if result is None:
            missing.append(run)
            continue
        tests = {name: ValidationResult.from_json(each) for name, each in result["sets"].items()}
        found[run.arm, run.seed] = RunResults(run, tests, read_run(run.folder), str(result["weights"]))
    _one_protocol(found.values())
    return Results(plan, found, tuple(missing))


def _one_protocol(runs: Iterable[RunResults]) -> None:
    """Every metric of every set was computed in one way, on the same pictures."""
    first: dict[tuple[str, ...], tuple[str, str]] = {}
    for each in runs:
        for name, result in each.tests.items():
            told: dict[tuple[str, ...], str] = {
                (name, key): mean.protocol for key, mean in result.metrics.items()
            }
            told[(name,)] = ", ".join(result.images)
            for place, protocol in told.items():
                known, key = first.setdefault(place, (protocol, each.run.key))
                if known != protocol:
                    what = "pictures" if len(place) == 1 else f"metric {place[1]}"
                    raise UserError(
                        f"test set '{name}', {what}: {key} was measured as '{known}', {each.run.key} as '{protocol}'; "
                        "such numbers cannot be compared. Delete the result.json of the one that is wrong, and start "
                        "the study again"
                    )


def results_csv(results: Results) -> str:
    """Every value of every picture: validations on the way, then the tests."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for name in results.plan.arms:
        for seed, each in results.of(name).items():
            measured = [result for every in each.record.validations.values() for result in every]
            for result in [*measured, *each.tests.values()]:
                for image, values in result.images.items():
                    for metric, value in values.items():
                        table.writerow(
                            [name, seed, result.iteration, result.name, image, metric, repr(value)]
                        )
    return text.getvalue()


def curves_of(each: RunResults) -> dict[str, Any]:
    """What a run's records say over its steps.

    ``validation``: set -> metric -> [[step, value], ...]; ``train``: steps, learning rates, and every group of named
    numbers that the run logged (``losses`` and whatever its objective adds), thinned to at most 400 points.
    """
    validation = {
        name: {
            metric: [[result.iteration, result.metrics[metric].value] for result in every]
            for metric in every[-1].metrics
        }
        for name, every in each.record.validations.items()
    }
    records = each.record.train
    stride = max(1, math.ceil(len(records) / MOST_POINTS))
    kept = records[stride - 1 :: stride]
    groups = {key for record in kept for key, value in record.items() if isinstance(value, dict)}
    train: dict[str, Any] = {
        "step": [record["iter"] for record in kept],
        "lr": [record.get("lr") for record in kept],
    }
    for group in sorted(groups):
        names = dict.fromkeys(name for record in kept for name in record.get(group, {}))
        train[group] = {name: [record.get(group, {}).get(name) for record in kept] for name in names}
    return {"validation": validation, "train": train}
