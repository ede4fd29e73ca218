"""From scores to what may be said: ``study.json``, which holds every number that a report shows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.evaluate.results import is_decibel
from atelier.experiment.costs import costs_of
from atelier.experiment.measure import measure_teacher, measured_by
from atelier.experiment.options import StudyOptions
from atelier.experiment.plan import Arm, Plan
from atelier.experiment.results import ALL, Results, curves_of
from atelier.experiment.statistics import (
    Comparison,
    compare_paired,
    compare_unpaired,
    gap_closed,
    holm,
    verdict_of,
    wilcoxon_over_pictures,
)

#: A teacher that is less than this above the trained reference (dB) holds students back rather than up.
TEACHER_AHEAD = 0.3

Table = dict[str, dict[str, Comparison]]


def analyse(results: Results, manifest: Mapping[str, Any], *, command: str) -> dict[str, Any]:
    """The whole study as plain data.

    Args:
        results: the finished runs.
        manifest: states, notes and fingerprints.
        command: how the study is started.
    """
    plan, study = results.plan, results.plan.study
    others = [name for name in plan.arms if name != plan.reference.name]
    against = compare_arms(results, [(name, plan.reference.name) for name in others])
    planned = compare_arms(results, [(one, other) for one, other in study.contrasts])
    teachers, notes = _teachers(results)
    higher = _higher_is_better(results)
    arms = []
    for name, arm in plan.arms.items():
        scores = {
            test: {metric: results.scores(name, test, metric) for metric in study.metrics}
            for test in results.tests
        }
        compared = against.get((name, plan.reference.name))
        arms.append(
            {
                "name": name,
                "reference": name == plan.reference.name,
                "seeds": list(arm.seeds),
                "paired": arm.paired,
                "same_start": arm.same_start,
                "steps": arm.steps,
                "changes": [change.in_full() for change in arm.changes],
                "runs": _runs(results, arm, manifest),
                "scores": {
                    test: {metric: _by_seed(values) for metric, values in by_metric.items()}
                    for test, by_metric in scores.items()
                },
                "summary": {
                    test: {metric: _summary(list(values.values())) for metric, values in by_metric.items()}
                    for test, by_metric in scores.items()
                },
                "comparison": _comparison(study, compared, higher) if compared is not None else None,
                "verdict": _verdict(study, compared, results.main_set, higher),
                "per_image": _per_image(results, name) if compared is not None else None,
                "gap_closed": _gaps(results, arm, compared, teachers, higher),
                "catch_up": _catch_up(results, arm),
                "teacher": _teacher_name(study, plan, arm),
                "cost": costs_of(results, arm),
                "curves": {str(seed): curves_of(each) for seed, each in results.of(name).items()},
            }
        )
    notes += [*manifest.get("notes", []), *plan.warnings]
    return {
        "name": study.name,
        "command": command,
        "complete": not results.missing,
        "missing": [{"run": run.key, **_state(manifest, run.key)} for run in results.missing],
        "notes": notes,
        "reference": plan.reference.name,
        "seeds": study.seeds,
        "budget": {
            **study.budget.model_dump(mode="json"),
            "cost_of_a_step": manifest.get("cost_of_a_step"),
        },
        "primary": {
            **study.primary.model_dump(mode="json"),
            "protocol": protocol(results),
            "set": results.main_set,
            "higher_is_better": higher.get(study.primary.metric, True),
        },
        "protocols": _protocols(results),
        "min_effect": study.min_effect,
        "tests": {name: _pictures(results, name) for name in study.test},
        "data": manifest.get("data", {}),
        "arms": arms,
        "contrasts": [
            {
                "arm": one,
                "against": other,
                "planned": [one, other] not in manifest.get("later_contrasts", []),
                "comparison": _comparison(study, planned[one, other], higher),
                "verdict": _verdict(study, planned[one, other], results.main_set, higher),
            }
            for one, other in study.contrasts
        ],
        "teachers": {
            path: {"sha256": told["sha256"], "sets": told["sets"], "means": _teacher_means(results, told)}
            for path, told in teachers.items()
        },
        "environment": _environment(results),
    }


def compare_arms(results: Results, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Table]:
    """(arm, other) -> set -> metric -> comparison, p adjusted by Holm over the pairs for each set and metric."""
    tables: dict[tuple[str, str], Table] = {
        pair: {
            test: {metric: _compare(results, pair, test, metric) for metric in results.plan.study.metrics}
            for test in results.tests
        }
        for pair in pairs
    }
    for test in results.tests:
        for metric in results.plan.study.metrics:
            tested = [(pair, p) for pair in tables if (p := tables[pair][test][metric].p) is not None]
            for (pair, _), adjusted in zip(tested, holm([p for _, p in tested]), strict=True):
                tables[pair][test][metric] = replace(tables[pair][test][metric], p_holm=adjusted)
    return tables


def _compare(results: Results, pair: tuple[str, str], test: str, metric: str) -> Comparison:
    arm, other = (results.scores(name, test, metric) for name in pair)
    if results.plan.study.is_paired(*pair):
        return compare_paired([arm[seed] - other[seed] for seed in arm if seed in other])
    return compare_unpaired(list(arm.values()), list(other.values()))


def _comparison(study: StudyOptions, table: Table, higher: Mapping[str, bool]) -> dict[str, Any]:
    """As plain data; a verdict stands with the primary metric alone, for which ``min_effect`` is meant."""
    return {
        test: {
            metric: asdict(each)
            | ({"verdict": _verdict(study, table, test, higher)} if metric == study.primary.metric else {})
            for metric, each in by_metric.items()
        }
        for test, by_metric in table.items()
    }


def _verdict(study: StudyOptions, table: Table | None, test: str, higher: Mapping[str, bool]) -> str | None:
    if table is None:
        return None
    metric = study.primary.metric
    return verdict_of(
        table[test][metric], min_effect=study.min_effect, higher_is_better=higher.get(metric, True)
    )


def _higher_is_better(results: Results) -> dict[str, bool]:
    for each in results.runs.values():
        for result in each.tests.values():
            return {key: mean.higher_is_better for key, mean in result.metrics.items()}
    return {}


def protocol(results: Results) -> str:
    """How the primary number was made, in one line."""
    study, options = results.plan.study, results.plan.reference.options
    metric = study.metrics[study.primary.metric].build(options.scale, options.network_g.out_channels)
    tile = f"tiles of {options.val.tile}" if options.val.tile is not None else "whole pictures"
    used = sorted({each.weights for each in results.runs.values()}) or [study.primary.weights]
    return (
        f"{metric.protocol}, rounded to the levels of the file, {' and '.join(used)} weights, "
        f"{study.primary.checkpoint} checkpoint, {tile}, padding "
        f"{options.val.padding}; mean over the pictures of a set, then over sets"
    )


def _protocols(results: Results) -> dict[str, str]:
    options = results.plan.reference.options
    return {
        name: metric.build(options.scale, options.network_g.out_channels).protocol
        for name, metric in results.plan.study.metrics.items()
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def _by_seed(values: Mapping[int, float]) -> dict[str, float]:
    return {str(seed): value for seed, value in values.items()}


def _state(manifest: Mapping[str, Any], key: str) -> dict[str, Any]:
    entry = manifest.get("runs", {}).get(key, {})
    return {"state": entry.get("state", "pending"), "error": entry.get("error")}


def _runs(results: Results, arm: Arm, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = []
    for seed in arm.seeds:
        run = results.plan.run_of(arm.name, seed)
        each = results.runs.get((arm.name, seed))
        told.append(
            {
                "seed": seed,
                "folder": str(run.folder),
                "digest": run.digest,
                **_state(manifest, run.key),
                "attempt": manifest.get("runs", {}).get(run.key, {}).get("attempt", 0),
                "alarms": [asdict(alarm) for alarm in each.record.alarms] if each is not None else [],
            }
        )
    return told


def _per_image(results: Results, name: str) -> dict[str, Any]:
    """Differences of the primary metric picture by picture, averaged over the seeds, and Wilcoxon's p over them."""
    plan, metric = results.plan, results.plan.study.primary.metric
    arm, other = results.of(name), results.of(plan.reference.name)
    if plan.arms[name].paired:
        shared = [seed for seed in arm if seed in other]
        arm, other = {seed: arm[seed] for seed in shared}, {seed: other[seed] for seed in shared}
    differences: dict[str, dict[str, float]] = {}
    if arm and other:
        for test in plan.study.test:
            images = next(iter(arm.values())).tests[test].images
            found = {
                image: statistics.fmean(each.tests[test].images[image][metric] for each in arm.values())
                - statistics.fmean(each.tests[test].images[image][metric] for each in other.values())
                for image in images
            }
            differences[test] = {image: value for image, value in found.items() if abs(value) < float("inf")}
    every = [value for found in differences.values() for value in found.values()]
    return {
        "metric": metric,
        "differences": differences,
        "wilcoxon_p": wilcoxon_over_pictures(every),
        "about": "about these images, not about another training",
    }


def _teacher_name(study: StudyOptions, plan: Plan, arm: Arm) -> str | None:
    """The teacher that an arm's gap is measured to: the study's, else its own, else the first one of the study."""
    if study.teacher is not None:
        return str(study.teacher)
    for each in (arm, *plan.arms.values()):
        for teacher in getattr(each.options.objective, "teacher", ()):
            return str(teacher.weights)
    return None


def _teachers(results: Results) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Teacher file -> its results in the runs' protocol; what there is to say about them."""
    plan, study = results.plan, results.plan.study
    found: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    if not results.runs:
        return found, notes
    names = dict.fromkeys(_teacher_name(study, plan, arm) for arm in plan.arms.values())
    for name in names:
        if name is None:
            continue
        try:
            found[name] = measure_teacher(study, plan.reference.options, Path(name), plan.own / "teachers")
        except UserError as error:
            notes.append(str(error))
            continue
        metric, main = study.primary.metric, results.main_set
        reference = _summary(list(results.scores(plan.reference.name, main, metric).values()))["mean"]
        ahead = None if reference is None else _teacher_means(results, found[name])[main][metric] - reference
        if ahead is not None and is_decibel(_protocols(results)[metric]) and ahead < TEACHER_AHEAD:
            notes.append(
                f"the teacher {name} is {ahead:+.2f} dB from the trained reference; one that is not at least "
                f"{TEACHER_AHEAD} dB above it tends to hold students back"
            )
    return found, notes


def _teacher_means(results: Results, told: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    means = {
        name: {metric: float(mean["value"]) for metric, mean in each["metrics"].items()}
        for name, each in told["sets"].items()
    }
    together = {
        metric: statistics.fmean(each[metric] for each in means.values())
        for metric in results.plan.study.metrics
    }
    return {test: together if test == ALL else means[test] for test in results.tests}


def _gaps(
    results: Results,
    arm: Arm,
    table: Table | None,
    teachers: Mapping[str, dict[str, Any]],
    higher: Mapping[str, bool],
) -> dict[str, dict[str, float | None]] | None:
    """Set -> metric -> percent of the way from the reference to the teacher; None where that is not defined."""
    told = teachers.get(_teacher_name(results.plan.study, results.plan, arm) or "")
    if table is None or told is None:
        return None
    means = _teacher_means(results, told)
    gaps: dict[str, dict[str, float | None]] = {}
    for test, by_metric in table.items():
        gaps[test] = {}
        for metric, each in by_metric.items():
            reference = list(results.scores(results.plan.reference.name, test, metric).values())
            gaps[test][metric] = None
            if each.mean is not None and reference:
                base = statistics.fmean(reference)
                gaps[test][metric] = gap_closed(
                    base + each.mean, base, means[test][metric], higher_is_better=higher.get(metric, True)
                )
    return gaps


def _catch_up(results: Results, arm: Arm) -> dict[str, Any] | None:
    """How soon the arm's validation reaches the reference's last one, as a share of the reference's steps.

    By the validation metric of the primary's protocol (else the first), mean over validation sets, seed by seed.
    """
    reference = results.of(results.plan.reference.name)
    if arm.name == results.plan.reference.name or not arm.paired:
        return None
    wanted = _protocols(results)[results.plan.study.primary.metric]
    shares: list[float | None] = []
    used = None
    for seed, each in results.of(arm.name).items():
        if seed not in reference or not reference[seed].record.validations:
            continue
        first = next(iter(reference[seed].record.validations.values()))[-1].metrics
        used = next((key for key, mean in first.items() if mean.protocol == wanted), next(iter(first)))
        goal = _over_sets(reference[seed].record.validations, used)
        own = _over_sets(each.record.validations, used)
        if not goal or not own:
            continue
        last, sign = goal[max(goal)], 1 if first[used].higher_is_better else -1
        reached = [step for step, value in sorted(own.items()) if sign * (value - last) >= 0]
        shares.append(reached[0] / max(goal) if reached else None)
    if used is None or not shares:
        return None
    known = [share for share in shares if share is not None]
    return {
        "metric": used,
        "share_of_steps": statistics.median(known) if len(known) == len(shares) else None,
        "reached": len(known),
        "of": len(shares),
    }


def _over_sets(validations: Mapping[str, Sequence[Any]], metric: str) -> dict[int, float]:
    by_step: dict[int, list[float]] = {}
    for every in validations.values():
        for result in every:
            if metric in result.metrics:
                by_step.setdefault(result.iteration, []).append(result.metrics[metric].value)
    return {
        step: statistics.fmean(values) for step, values in by_step.items() if len(values) == len(validations)
    }


def _pictures(results: Results, test: str) -> list[str]:
    for each in results.runs.values():
        return list(each.tests[test].images)
    return []


def _environment(results: Results) -> dict[str, Any]:
    """The machine and versions of the runs, where all tell the same; the differing keys otherwise."""
    found = [dict(each.record.environment) for each in results.runs.values()]
    if not found:
        return {}
    same = {key: value for key, value in found[0].items() if all(each.get(key) == value for each in found)}
    differing = sorted({key for each in found for key in each} - set(same))
    return {**same, "measured_by": measured_by(results.plan.study)} | (
        {"differs_between_runs": differing} if differing else {}
    )
