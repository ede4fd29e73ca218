"""``report.html``: one self-contained file that shows what a run did and how good it became."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atelier.evaluate.beginning import read_beginning
from atelier.evaluate.best import Best, best_so_far
from atelier.evaluate.charts import Chart, make_chart, show_count, show_number
from atelier.evaluate.feature_maps import feature_rows
from atelier.evaluate.page import fill_template, flat_rows
from atelier.evaluate.results import LIKE_THE_TRUTH, format_change, format_value
from atelier.evaluate.run_record import RunRecord, read_run
from atelier.evaluate.sections import set_section
from atelier.evaluate.verdict import comparable_baseline, judge
from atelier.files import atomic_write


def write_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the report of the run in ``run_dir`` and return its path; the file appears whole or not at all.

    The file needs no network: style, script and pictures are inside. Whatever the run lacks is named in the report.

    Args:
        run_dir: ``experiments/NAME``.
        output: where to; default ``run_dir/report.html``.

    Raises:
        UserError: ``run_dir`` holds no run, or the file cannot be written.
    """
    run_dir = Path(run_dir)
    record = read_run(run_dir)
    path = Path(output) if output is not None else run_dir / "report.html"
    atomic_write(path, render(record))
    return path


def render(record: RunRecord) -> str:
    """The report as HTML text."""
    sections = [set_section(record, name, index) for index, name in enumerate(record.validations)]
    verdict = judge(record)
    return fill_template(
        "report.html.j2",
        {"value": format_value, "change": format_change, "count": show_count},
        record=record,
        verdict=verdict,
        facts=_facts(record),
        quality_charts=_quality_charts(record),
        training_charts=_training_charts(record),
        sections=sections,
        beginning=read_beginning(record.folder),
        features=feature_rows(record.folder),
        environment=flat_rows(record.environment),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


# facts


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """Label and value of what stands at the top."""
    facts = []
    reached = max(
        [int(line["iter"]) for line in record.train[-1:]]
        + [each[-1].iteration for each in record.validations.values()],
        default=None,
    )
    training = record.options.get("train")
    total = training.get("total_iter") if isinstance(training, Mapping) else None
    if reached is not None:
        of_total = f" of {total:,}" if isinstance(total, int) else ""
        facts.append(("Iterations", f"{reached:,}{of_total}"))
    best = _best(record)
    if best is not None:
        facts.append(("Best checkpoint", best))
    network, scale = record.options.get("network_g"), record.options.get("scale")
    if isinstance(network, Mapping) and "type" in network:
        facts.append(("Network", f"{network['type']}" + (f" ×{scale}" if isinstance(scale, int) else "")))
    rates = _series(record, "images_per_s")
    if rates:
        facts.append(("Speed, median", f"{show_number(statistics.median(y for _, y in rates))} images/s"))
    shares = _series(record, "data_share")
    if shares:
        facts.append(("Waiting for data, mean", f"{100 * statistics.fmean(y for _, y in shares):.1f} %"))
    taught = _series(record, "teacher_share")
    if taught:
        facts.append(("Teacher's share of time", f"{100 * statistics.fmean(y for _, y in taught):.1f} %"))
    if record.caches:
        facts.append(("Teacher's answers on disk", f"{sum(record.caches.values()) / 1e9:.3g} GB"))
    memory = _series(record, "memory_mb")
    if memory:
        facts.append(("Peak memory", f"{max(y for _, y in memory):,.0f} MB"))
    return facts


def _best(record: RunRecord) -> str | None:
    """The validation that the best weights come from: of the first set, by its first metric."""
    files = sorted((record.folder / "models").glob("net_g_best.*"))
    if not files or not record.validations:
        return None
    best: Best | None = None
    for result in next(iter(record.validations.values())):
        best, _ = best_so_far(result, best)
    if best is None:
        return None
    # The metric and the set stand in the section of the set; a fact is one glance.
    return f"step {best.iteration:,} ({best.value:.2f})"


def _series(record: RunRecord, key: str) -> list[tuple[float, float]]:
    """(iteration, value) of every training line that has a finite number under ``key``."""
    points = ((float(line["iter"]), _number(line.get(key))) for line in record.train)
    return [(x, y) for x, y in points if math.isfinite(y)]


def _number(value: Any) -> float:
    """A logged value (``inf`` and ``nan`` are logged as strings) as float, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


# curves


def _percent(value: float) -> str:
    return f"{value:.1f} %"


def _quality_charts(record: RunRecord) -> list[Chart]:
    charts = []
    for name, results in record.validations.items():
        for key, mean in results[-1].metrics.items():
            protocol = mean.protocol
            points = [
                (float(each.iteration), each.metrics[key].value)
                for each in results
                if key in each.metrics and each.metrics[key].protocol == protocol
            ]
            reference = record.baselines.get(name)
            base = comparable_baseline(reference, key, mean)
            line = None
            if base is not None and reference is not None:
                line = (base.value, f"{reference.method} {format_value(base.value, protocol)}")
            charts.append(
                make_chart(
                    protocol,
                    points,
                    unit=f"set {name}" if len(record.validations) > 1 else "",
                    show=lambda value, protocol=protocol: format_value(value, protocol),  # type: ignore[misc]
                    reference=line,
                    higher_is_better=None if key in LIKE_THE_TRUTH else mean.higher_is_better,
                )
            )
    return [chart for chart in charts if chart is not None]


def _named_series(record: RunRecord, section: str) -> dict[str, list[tuple[float, float]]]:
    """Name -> (iteration, value) for everything that training lines tell under ``section``."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in record.train:
        told = line.get(section)
        for name, value in told.items() if isinstance(told, Mapping) else ():
            found.setdefault(name, []).append((float(line["iter"]), _number(value)))
    return found


def _detail_charts(record: RunRecord) -> list[Chart | None]:
    """What a distilled run tells beside its losses: each term's share, and each pair's spread and error."""
    charts = []
    for name, points in _named_series(record, "details").items():
        if name.startswith("share_"):
            percent = [(x, 100 * y) for x, y in points]
            title = f"Share of {name.removeprefix('share_')}"
            charts.append(make_chart(title, percent, unit="% of the loss", show=_percent, from_zero=True))
        elif name.startswith("grad_share_"):
            percent = [(x, 100 * y) for x, y in points]
            title = f"Gradient of {name.removeprefix('grad_share_')}"
            charts.append(
                make_chart(title, percent, unit="% of the student's gradient", show=_percent, from_zero=True)
            )
        elif name.startswith("tap_std_student_"):
            title = f"Student's spread, pair {name.removeprefix('tap_std_student_')}"
            charts.append(make_chart(title, points, unit="standard deviation", from_zero=True))
        elif name.startswith("tap_error_"):
            title = f"Feature error, pair {name.removeprefix('tap_error_')}"
            charts.append(make_chart(title, points, unit="relative", from_zero=True))
    return charts


def _training_charts(record: RunRecord) -> list[Chart]:
    charts = [
        make_chart(f"Discriminator's {name}", points, unit="mean output")
        if name.startswith("out_d_")
        else make_chart(f"Loss {name}", points, unit="weighted", may_be_log=True)
        for name, points in _named_series(record, "losses").items()
    ]
    charts += _detail_charts(record)
    rates = _series(record, "lr")
    charts.append(make_chart("Learning rate", rates, from_zero=True))
    charts.append(
        make_chart("Gradient norm", _series(record, "grad_norm"), unit="before clipping", may_be_log=True)
    )
    charts.append(make_chart("Speed", _series(record, "images_per_s"), unit="images/s", from_zero=True))
    shares = [(x, 100 * y) for x, y in _series(record, "data_share")]
    charts.append(make_chart("Waiting for data", shares, unit="% of the time", show=_percent, from_zero=True))
    return [chart for chart in charts if chart is not None]
