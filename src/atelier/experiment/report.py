"""``report.html`` of a study: one self-contained page out of ``study.json``, the runs' records and their networks.

Every number on it is computed from the runs' files; the page names no time of writing, so that the same results give
the same file.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier.evaluate.charts import show_count
from atelier.evaluate.page import fill_template, flat_rows
from atelier.evaluate.results import ValidationResult, format_value
from atelier.evaluate.sections import Cell
from atelier.experiment.cells import (
    change_cell,
    difference_cells,
    hours_text,
    latency_rows,
    one_line,
    p_cell,
    percent_cell,
    spread_cell,
    value_cell,
)
from atelier.experiment.measure import read_result
from atelier.experiment.report_charts import training_charts, validation_charts
from atelier.experiment.report_pictures import PictureParts, picture_parts
from atelier.experiment.results import Results
from atelier.files import atomic_write

#: Verdicts in the order of the headline.
_VERDICTS = ("better", "worse", "not distinguishable", "identical", "no claim")
_TONE = {"better": 1, "worse": -1}


@dataclass(frozen=True)
class Extras:
    """What the page shows beside ``study.json``.

    Attributes:
        protocols: validation set -> metric -> how it is computed.
        images: arm -> test set -> picture -> primary metric, mean over seeds.
        weights: ``arm/seed_0`` -> file and SHA-256 of the network that was judged.
        pictures: crops and sliders.
    """

    protocols: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pictures: PictureParts = field(default_factory=PictureParts)


def write_study_report(study: Mapping[str, Any], results: Results, path: Path) -> Path:
    """Write the page of a study and return its path; the file appears whole or not at all.

    Args:
        study: the content of ``study.json``.
        results: the finished runs it was made from.
        path: where to.
    """
    atomic_write(path, render(study, extras_of(study, results)))
    return path


def extras_of(study: Mapping[str, Any], results: Results) -> Extras:
    """Everything beside ``study.json``, from the runs' folders; restores the pictures that are shown."""
    protocols: dict[str, dict[str, str]] = {}
    weights: dict[str, dict[str, str]] = {}
    for each in results.runs.values():
        for name, every in each.record.validations.items():
            found = {metric: mean.protocol for metric, mean in every[-1].metrics.items()}
            protocols.setdefault(name, {}).update(found)
        result = read_result(each.run)
        if result is not None:
            weights[each.run.key] = dict(result["model"])
    metric = results.plan.study.primary.metric
    images = {
        name: {
            test: {
                image: statistics.fmean(run.tests[test].images[image][metric] for run in runs)
                for image in study["tests"][test]
            }
            for test in study["tests"]
        }
        for name in results.plan.arms
        if (runs := list(results.of(name).values()))
    }
    teachers = {
        file: {test: ValidationResult.from_json(each) for test, each in told["sets"].items()}
        for file, told in study["teachers"].items()
    }
    return Extras(protocols, images, weights, picture_parts(results, teachers))


def render(study: Mapping[str, Any], extras: Extras) -> str:
    """The page as HTML text."""
    compared = [arm for arm in study["arms"] if not arm["reference"]]
    return fill_template(
        "study.html.j2",
        {"count": show_count, "line": one_line},
        study=study,
        unit=study["protocols"][study["primary"]["metric"]],
        headline=headline(study),
        tone="bad" if not study["complete"] else "open",
        facts=_facts(study),
        verdicts=_verdict_rows(study),
        contrasts=_contrast_rows(study),
        sets=_set_tables(study),
        gaps=_gap_rows(study),
        teachers=_teacher_rows(study),
        quality=validation_charts(study, extras.protocols),
        training=training_charts(study),
        costs=_cost_rows(study),
        latency=study["latency"],
        latencies=latency_rows(study),
        compared=[arm["name"] for arm in compared],
        wilcoxon=[p_cell(arm["per_image"]["wilcoxon_p"]) for arm in compared if arm["per_image"]],
        about=next((arm["per_image"]["about"] for arm in compared if arm["per_image"]), ""),
        images=_image_rows(study, extras),
        pictures=extras.pictures,
        arms=[(arm, _remarks(arm)) for arm in study["arms"]],
        runs=_run_rows(study, extras),
        alarms=_alarm_rows(study),
        environment=flat_rows(study["environment"]),
    )


def headline(study: Mapping[str, Any]) -> str:
    """One sentence: what came out, counted in the fixed words; or what is missing."""
    if not study["complete"]:
        missing = len(study["missing"])
        runs = sum(len(arm["seeds"]) for arm in study["arms"])
        return f"Incomplete: {missing} of {runs} runs {'is' if missing == 1 else 'are'} missing."
    found = Counter(arm["verdict"] for arm in study["arms"] if not arm["reference"])
    named = {
        verdict: ", ".join(arm["name"] for arm in study["arms"] if arm["verdict"] == verdict)
        for verdict in _VERDICTS
    }
    parts = [f"{verdict}: {named[verdict]}" for verdict in _VERDICTS if found[verdict]]
    return f"Against {study['reference']}, " + "; ".join(parts) + "."


def _facts(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    runs = sum(len(arm["seeds"]) for arm in study["arms"])
    steps = sorted({arm["steps"] for arm in study["arms"]})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    budget = study["budget"]
    equal = f"equal wall time, {budget['wall_time']}" if budget["wall_time"] else f"equal {budget['equal']}"
    hours = [arm["cost"]["hours"] for arm in study["arms"] if arm["cost"]["hours"] is not None]
    facts = [
        ("Arms", str(len(study["arms"]))),
        ("Seeds", ", ".join(map(str, study["seeds"]))),
        ("Runs done", f"{runs - len(study['missing'])} of {runs}"),
        ("Budget", f"{span} steps ({equal.replace('_', ' ')})"),
        ("Smallest effect that counts", spread_cell(study["min_effect"], _unit(study))),
    ]
    return [*facts, ("Training, all runs", hours_text(math.fsum(hours)))] if hours else facts


def _unit(study: Mapping[str, Any]) -> str:
    return str(study["protocols"][study["primary"]["metric"]])


def _verdict_rows(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    metric, test, unit = study["primary"]["metric"], study["primary"]["set"], _unit(study)
    rows = []
    for arm in study["arms"]:
        own = arm["summary"][test][metric]
        row = {"name": arm["name"], "n": own["n"], "reference": arm["reference"], "sign": 0}
        row |= {"mean": value_cell(own["mean"], unit), "sd": spread_cell(own["sd"], unit)}
        if not arm["reference"]:
            gap = arm["gap_closed"][test][metric] if arm["gap_closed"] else None
            row |= {
                "verdict": arm["verdict"],
                "sign": _TONE.get(arm["verdict"], 0),
                "cells": difference_cells(arm["comparison"][test][metric], unit),
                "gap": percent_cell(gap, arm["teacher"]),
            }
        rows.append(row)
    return rows


def _contrast_rows(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    metric, test, unit = study["primary"]["metric"], study["primary"]["set"], _unit(study)
    return [
        {
            "name": f"{each['arm']} against {each['against']}",
            "planned": each["planned"],
            "verdict": each["verdict"],
            "sign": _TONE.get(each["verdict"], 0),
            "cells": difference_cells(each["comparison"][test][metric], unit),
        }
        for each in study["contrasts"]
    ]


def _set_tables(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every test set: a row an arm, a cell a metric (mean, SD, difference, sign where the verdict says so)."""
    tables = []
    for test in study["arms"][0]["summary"]:
        rows = []
        for arm in study["arms"]:
            cells = []
            for metric, unit in study["protocols"].items():
                own = arm["summary"][test][metric]
                told = arm["comparison"][test][metric] if arm["comparison"] is not None else None
                cells.append(
                    {
                        "mean": value_cell(own["mean"], unit),
                        "sd": spread_cell(own["sd"], unit) if own["sd"] is not None else "",
                        "change": change_cell(told["mean"], unit)
                        if told is not None and told["mean"] is not None
                        else "",
                        "verdict": told.get("verdict", "") if told is not None else "",
                        "sign": _TONE.get(told.get("verdict"), 0) if told is not None else 0,
                    }
                )
            rows.append((arm["name"], cells))
        for path, told in study["teachers"].items():
            means = told["means"][test]
            teacher = [
                {"mean": value_cell(means[metric], unit), "sd": "", "change": "", "verdict": "", "sign": 0}
                for metric, unit in study["protocols"].items()
            ]
            rows.append((f"teacher {Path(path).name}", teacher))
        tables.append({"name": test, "pictures": study["tests"].get(test, []), "rows": rows})
    return tables


def _gap_rows(study: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Arm -> percent of the gap for every test set, by the primary metric; empty where no teacher was measured."""
    metric = study["primary"]["metric"]
    return [
        (
            arm["name"],
            [percent_cell(by_metric[metric], arm["teacher"]) for by_metric in arm["gap_closed"].values()],
        )
        for arm in study["arms"]
        if arm["gap_closed"] is not None
    ]


def _teacher_rows(study: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    metric, unit = study["primary"]["metric"], _unit(study)
    return [
        (path, told["sha256"], [value_cell(by_metric[metric], unit) for by_metric in told["means"].values()])
        for path, told in study["teachers"].items()
    ]


def _cost_rows(study: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Arm -> cells, each a list of lines."""
    rows = []
    for arm in study["arms"]:
        cost = arm["cost"]
        step, shown = cost["step_seconds"], cost["step_macs_per_sample"]
        rows.append(
            (
                arm["name"],
                [
                    [f"{cost['parameters']:,}", f"{cost['parameters_without_tables']:,}"],
                    [f"{_macs(count)} at {size.replace('x', '×')}" for size, count in cost["macs"].items()],
                    [_macs(shown) if shown is not None else "not counted"],
                    [f"{arm['steps']:,}"],
                    [
                        f"{1000 * step:.1f} ms" if step is not None else "–",
                        f"{cost['images_per_s']:.1f} images/s" if step is not None else "",
                    ],
                    [f"{100 * cost['data_share']:.1f} %" if cost["data_share"] is not None else "–"],
                    [
                        f"{100 * cost['teacher_share']:.1f} %" if cost["teacher_share"] is not None else "–",
                        f"{cost['cache_bytes'] / 1e9:.3g} GB stored"
                        if cost["cache_bytes"] is not None
                        else "",
                    ],
                    [f"{cost['peak_memory_mb']:,.0f} MB" if cost["peak_memory_mb"] else "–"],
                    [hours_text(cost["hours"]) if cost["hours"] is not None else "–"],
                    _catch_up(arm),
                ],
            )
        )
    return rows


def _macs(count: int) -> str:
    """Multiply-adds in the unit that shows three to six digits."""
    return f"{count / 1e9:.3f} G" if count >= 1e8 else f"{count / 1e6:.3f} M"


def _catch_up(arm: Mapping[str, Any]) -> list[str]:
    soon = arm["catch_up"]
    if soon is None:
        return ["–"]
    share = soon["share_of_steps"]
    return (
        [f"{100 * share:.0f} %", "of its steps"]
        if share is not None
        else [f"{soon['reached']} of {soon['of']}", "seeds do"]
    )


def _image_rows(study: Mapping[str, Any], extras: Extras) -> list[tuple[str, str | None, list[Cell]]]:
    """Picture, anchor of its slider, and cells: the reference's value, then each arm's difference."""
    unit, higher = _unit(study), study["primary"]["higher_is_better"]
    base = extras.images.get(study["reference"], {})
    rows = []
    for test, images in study["tests"].items():
        for image in images:
            value = base.get(test, {}).get(image)
            cells = [Cell("–", None) if value is None else Cell(format_value(value, unit), _finite(value))]
            for arm in study["arms"]:
                if arm["reference"]:
                    continue
                change = (arm["per_image"] or {"differences": {}})["differences"].get(test, {}).get(image)
                sign = 0 if not change else (1 if (change > 0) == higher else -1)
                cells.append(
                    Cell("–", None) if change is None else Cell(change_cell(change, unit), change, sign)
                )
            rows.append((f"{test}/{image}", extras.pictures.anchors.get((test, image)), cells))
    return rows


def _finite(value: float) -> float | None:
    """What the table sorts by; infinity as a number that JavaScript reads."""
    return None if math.isnan(value) else max(-1e300, min(1e300, value))


def _remarks(arm: Mapping[str, Any]) -> list[str]:
    remarks = []
    if not arm["same_start"]:
        remarks.append("another network or start: runs of a seed do not begin alike")
    if not arm["paired"]:
        remarks.append(f"seeds of its own ({', '.join(map(str, arm['seeds']))}): compared unpaired")
    return remarks


def _run_rows(study: Mapping[str, Any], extras: Extras) -> list[dict[str, Any]]:
    metric, test, unit = study["primary"]["metric"], study["primary"]["set"], _unit(study)
    rows = []
    for arm in study["arms"]:
        for run in arm["runs"]:
            key = f"{arm['name']}/seed_{run['seed']}"
            score = arm["scores"][test][metric].get(str(run["seed"]))
            rows.append(
                {
                    "key": key,
                    "state": run["state"],
                    "error": run["error"] or "",
                    "attempt": run["attempt"],
                    "score": value_cell(score, unit),
                    "digest": run["digest"],
                    "weights": extras.weights.get(key, {}),
                    "alarms": len(run["alarms"]),
                }
            )
    return rows


def _alarm_rows(study: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (f"{arm['name']}/seed_{run['seed']}", alarm)
        for arm in study["arms"]
        for run in arm["runs"]
        for alarm in run["alarms"]
    ]
