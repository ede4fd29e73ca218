"""What a run's numbers say, in words: against the baseline, per picture, and how far that carries."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atelier.evaluate.best import is_better
from atelier.evaluate.films import TRUTH
from atelier.evaluate.results import (
    LIKE_THE_TRUTH,
    MetricMean,
    ValidationResult,
    format_change,
    format_value,
    shows_change,
)
from atelier.evaluate.run_record import RunRecord

#: Sets below this size get a word of caution.
FEW_PICTURES = 10


@dataclass(frozen=True)
class Verdict:
    """A headline (``tone``: ``good``, ``bad`` or ``open``) and the sentences below it."""

    headline: str
    tone: str
    sentences: list[str]


@dataclass(frozen=True)
class MetricRow:
    """One metric of one set: the baseline, the last and the best iteration; None where there is nothing."""

    key: str
    protocol: str
    higher_is_better: bool
    baseline: MetricMean | None
    last: MetricMean
    best: MetricMean
    best_iteration: int
    change: float | None
    improved: bool | None
    better_images: int
    compared_images: int

    @property
    def directed(self) -> bool:
        """Whether more or less is better at all; else ``improved`` is None."""
        return self.key not in LIKE_THE_TRUTH

    @property
    def worse(self) -> bool:
        """Worse than the baseline by something that the shown decimals show."""
        return self.improved is False and self.change is not None and shows_change(self.change, self.protocol)


def metric_rows(record: RunRecord, name: str) -> list[MetricRow]:
    """Every metric of set ``name``'s last validation, compared with the baseline of the same protocol."""
    last, reference = record.last(name), record.baselines.get(name)
    rows = []
    for key, mean in last.metrics.items():
        base = comparable_baseline(reference, key, mean)
        best = _best_of(record.validations[name], key, mean)
        change = mean.value - base.value if base is not None else None
        gains = image_gains(last, reference, key) if base is not None else {}
        rows.append(
            MetricRow(
                key,
                mean.protocol,
                mean.higher_is_better,
                base,
                mean,
                best.metrics[key],
                best.iteration,
                change,
                is_better(mean.value, base.value, higher_is_better=mean.higher_is_better)
                if base and key not in LIKE_THE_TRUTH
                else None,
                sum(gain > 0 for gain in gains.values()),
                len(gains),
            )
        )
    return rows


def comparable_baseline(reference: ValidationResult | None, key: str, mean: MetricMean) -> MetricMean | None:
    """The baseline's mean of ``key``, None where there is none or its protocol differs."""
    base = reference.metrics.get(key) if reference is not None else None
    return base if base is not None and base.protocol == mean.protocol else None


def image_gains(result: ValidationResult, reference: ValidationResult | None, key: str) -> dict[str, float]:
    """Picture -> improvement over the baseline (positive is better, whichever way the metric points)."""
    if reference is None or comparable_baseline(reference, key, result.metrics[key]) is None:
        return {}
    sign = 1 if result.metrics[key].higher_is_better else -1
    gains = {}
    for image, values in result.images.items():
        if key in values and key in reference.images.get(image, {}):
            gain = sign * (values[key] - reference.images[image][key])
            if not math.isnan(gain):
                gains[image] = gain
    return gains


def judge(record: RunRecord) -> Verdict:
    """The verdict on the first metric of the first set; other metrics and sets are named beside it."""
    if not record.validations:
        return Verdict(
            "Not measured", "open", ["This run has no validation yet, so nothing is known about quality."]
        )
    name = next(iter(record.validations))
    rows = metric_rows(record, name)
    if not rows:
        return Verdict("Not measured", "open", ["The last validation holds no metric."])
    last, first = record.last(name), rows[0]
    ema = record.ema.get((name, last.iteration))
    weights = "" if ema is None else (", averaged weights" if ema else ", weights as trained")
    sentences = [_sentence(row, record.baselines.get(name)) for row in rows]
    where = f"Set “{name}”, {_pictures(len(last.images))}, iteration {last.iteration:,}{weights}."
    if 0 < len(last.images) < FEW_PICTURES:
        where += " So few cannot stand for all others: another set may tell otherwise."
    sentences.append(where)
    if first.best_iteration != last.iteration:
        sentences.append(
            f"The best value so far, {format_value(first.best.value, first.protocol)}, was reached at iteration "
            f"{first.best_iteration:,}."
        )
    others = [other for other in record.validations if other != name]
    sentences += [_other_set(record, other) for other in others]
    headline, tone = _headline(rows, record.baselines.get(name))
    rival = _rival(record, name, first)
    if rival is not None:
        headline, tone = f"{headline}; {rival} is better still", "bad" if tone == "bad" else "open"
    return Verdict(headline, tone, sentences)


def _rival(record: RunRecord, name: str, row: MetricRow) -> str | None:
    """The way of colouring beside the judged one, and its value, that ``row`` ranks first; None where none is."""
    rivals = {
        title: means[row.key].value
        for title, means in record.rows.get(name, {}).items()
        if title != TRUTH and row.key in means and means[row.key].protocol == row.protocol
    }
    above = {
        title: value
        for title, value in rivals.items()
        if is_better(value, row.last.value, higher_is_better=row.higher_is_better)
        and shows_change(value - row.last.value, row.protocol)
    }
    if not row.directed or not above:
        return None
    title = (max if row.higher_is_better else min)(above, key=above.__getitem__)
    reference = record.baselines.get(name)
    if reference is not None and title == reference.method:
        return None  # what it is compared with anyway
    return f"{title} ({format_value(above[title], row.protocol)})"


def _headline(rows: list[MetricRow], reference: ValidationResult | None) -> tuple[str, str]:
    first = rows[0]
    if first.baseline is None or first.change is None or reference is None:
        return f"{format_value(first.last.value, first.protocol)}, with nothing to compare it to", "open"
    if not first.directed:
        return (
            f"{format_value(first.last.value, first.protocol)}, which alone is neither better nor worse",
            "open",
        )
    method = _method(reference)
    size = format_value(abs(first.change), first.protocol)
    if first.change == 0 or not math.isfinite(first.change):
        return f"No difference to {method} that could be stated", "open"
    if not first.improved:
        return f"{size} worse than {method}", "bad"
    headline = f"{size} better than {method}"
    if first.better_images < first.compared_images:
        headline += " on average, but not on every picture"
    worse = [row.protocol for row in rows[1:] if row.worse]
    return (f"{headline}; worse in {', '.join(worse)}", "open") if worse else (headline, "good")


def _sentence(row: MetricRow, reference: ValidationResult | None) -> str:
    text = f"{row.protocol}: {format_value(row.last.value, row.protocol)}"
    if row.baseline is not None and row.change is not None and reference is not None:
        text += (
            f" against {format_value(row.baseline.value, row.protocol)} for {_method(reference)} "
            f"({format_change(row.change, row.protocol)})"
        )
        if row.directed:
            text += f", better on {row.better_images} of {_pictures(row.compared_images)}"
    if row.last.excluded:
        text += f"; {_pictures(row.last.excluded)} without a finite value left out of the mean"
    return text + "."


def _other_set(record: RunRecord, name: str) -> str:
    parts = []
    for row in metric_rows(record, name):
        change = f" ({format_change(row.change, row.protocol)})" if row.change is not None else ""
        parts.append(f"{row.protocol} {format_value(row.last.value, row.protocol)}{change}")
    return f"Set “{name}”: {', '.join(parts) or 'no metric'}."


def _best_of(results: list[ValidationResult], key: str, mean: MetricMean) -> ValidationResult:
    same = [each for each in results if key in each.metrics and each.metrics[key].protocol == mean.protocol]
    best = same[0]
    for each in same[1:]:
        if is_better(
            each.metrics[key].value, best.metrics[key].value, higher_is_better=mean.higher_is_better
        ):
            best = each
    return best


def _method(reference: ValidationResult) -> str:
    return "the unrestored input" if reference.method == "input" else str(reference.method)


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
