"""A comparison as files: ``comparison.html``, ``comparison.md``, ``pictures.csv``, ``summary.csv``; and as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atelier.evaluate.charts import show_count
from atelier.evaluate.comparison import Column, Comparison
from atelier.evaluate.comparison_pages import picture_parts
from atelier.evaluate.criteria import Judgement
from atelier.evaluate.page import fill_template
from atelier.evaluate.results import decimals, format_change, format_value, shows_change
from atelier.evaluate.sections import Cell, ImageRow
from atelier.files import atomic_write

_PAGE = "comparison.html"
#: What :func:`write_comparison` writes.
FILES = ("pictures.csv", "summary.csv", "comparison.md", _PAGE)
#: Below so many pictures no change is called significant: a resampled mean of 2 takes 3 values.
FEWEST_FOR_INTERVALS = 5


@dataclass(frozen=True)
class Entry:
    """One cell of the quality table: the mean and the change against the first model, each with its interval."""

    value: str
    interval: str
    change: str
    change_interval: str
    better: str
    sign: int


def write_comparison(
    comparison: Comparison, judgements: Sequence[Judgement], folder: Path
) -> dict[str, Path]:
    """Write the four files into ``folder`` and return their paths by name; each appears whole or not at all."""
    folder = Path(folder)
    texts = {
        "pictures.csv": pictures_csv(comparison),
        "summary.csv": summary_csv(comparison),
        "comparison.md": render(comparison, judgements, "comparison.md.j2"),
        _PAGE: render(comparison, judgements, "comparison.html.j2"),
    }
    for name, text in texts.items():
        atomic_write(folder / name, text)
    return {name: folder / name for name in texts}


def render(comparison: Comparison, judgements: Sequence[Judgement], template: str) -> str:
    """The comparison through one of the templates."""
    cards, crops = picture_parts(comparison) if template.endswith(".html.j2") else ([], [])
    columns, rows = _image_rows(comparison, {card.image: card.anchor for card in cards})
    return fill_template(
        template,
        {"count": show_count, "cell": _markdown},
        comparison=comparison,
        title=_title(comparison),
        headline=headline(comparison, judgements),
        tone=_tone(comparison, judgements),
        caution=caution(comparison),
        judgements=judgements,
        metrics=list(comparison.first.result.metrics.items()),
        quality=quality_rows(comparison),
        costs=cost_rows(comparison),
        cards=cards,
        crops=crops,
        image_columns=columns,
        image_rows=rows,
        hidden=len(comparison.first.result.images) - len(cards),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _title(comparison: Comparison) -> str:
    labels = [column.label for column in comparison.models]
    return labels[0] if len(labels) == 1 else ", ".join(labels[:-1]) + " and " + labels[-1]


def headline(comparison: Comparison, judgements: Sequence[Judgement]) -> str:
    """One sentence: what the judged model reaches, and how many criteria it meets."""
    column = next(each for each in comparison.columns if each.label == comparison.judged)
    mean = column.result.metrics["psnr"]
    text = f"{column.label}: {format_value(mean.value, mean.protocol)}"
    rival = comparison.original or comparison.columns[-1].label
    other = next(each for each in comparison.columns if each.label == rival).result.metrics["psnr"]
    text += f", {format_change(mean.value - other.value, mean.protocol)} against {rival}"
    plain = _plain_winner(comparison)
    if plain is not None:
        better = plain.result.metrics["psnr"].value
        what = "The unrestored input is better: it" if plain.label == "input" else ""
        what = what or f"Plain upsampling is better: {plain.label}"
        text += f". {what} has {format_value(better, mean.protocol)}"
    if judgements:
        counted = [each for each in judgements if each.state != "not measurable"]
        passed = sum(each.state == "pass" for each in counted)
        text += f". {passed} of {len(counted)} measurable criteria met"
    return text + "."


def _plain_winner(comparison: Comparison) -> Column | None:
    """The plain enlargement (or the input) of the highest mean PSNR, where that is above the judged model's."""
    columns = {column.label: column.result.metrics["psnr"].value for column in comparison.columns}
    best = max(
        (column for column in comparison.columns if not column.is_model),
        key=lambda column: columns[column.label],
    )
    return best if columns[best.label] > columns[comparison.judged] else None


def caution(comparison: Comparison) -> str:
    """What to know before reading the intervals; empty where there are pictures enough."""
    count = len(comparison.first.result.images)
    if count >= FEWEST_FOR_INTERVALS:
        return ""
    return f"{count} picture{'s' * (count > 1)}: too few pictures for an interval to mean much"


def _tone(comparison: Comparison, judgements: Sequence[Judgement]) -> str:
    states = {judgement.state for judgement in judgements}
    if "fail" in states:
        return "bad"
    return "good" if "pass" in states and _plain_winner(comparison) is None else "open"


def quality_rows(comparison: Comparison) -> list[tuple[Column, list[Entry]]]:
    """A row a column of the comparison, an entry a metric."""
    rows = []
    for column in comparison.columns:
        entries = []
        for key, mean in column.result.metrics.items():
            interval, change = column.intervals[key], column.changes.get(key)
            sign = 0
            if (
                change is not None
                and change.interval is not None
                and change.count >= FEWEST_FOR_INTERVALS
                and not _holds_zero(change.interval)
                and shows_change(change.mean, mean.protocol)
            ):
                sign = 1 if (change.mean > 0) == mean.higher_is_better else -1
            entries.append(
                Entry(
                    format_value(mean.value, mean.protocol)
                    + (f" ({mean.excluded} left out)" if mean.excluded else ""),
                    _span(interval, mean.protocol),
                    format_change(change.mean, mean.protocol) if change is not None else "",
                    _span(change.interval, mean.protocol, sign=True) if change is not None else "",
                    f"better on {change.better} of {change.count}" if change is not None else "",
                    sign,
                )
            )
        rows.append((column, entries))
    return rows


def _span(interval: tuple[float, float] | None, protocol: str, *, sign: bool = False) -> str:
    """``31.20 to 33.10`` in the metric's decimals; empty where there is no interval."""
    if interval is None:
        return ""
    form = f"{'+' if sign else ''}.{decimals(protocol)}f"
    return f"{interval[0]:{form}} to {interval[1]:{form}}".replace("-", "−")


def _holds_zero(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0 <= interval[1]


def cost_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Label and texts (parameters, multiply-adds, file, memory, latency, ratio) of every model."""
    rows = []
    for column in comparison.models:
        cost = column.cost
        if cost is None:
            continue
        timing, ratio = cost.timing, comparison.time_ratio(column)
        rows.append(
            (
                column.label,
                [
                    f"{cost.parameters:,}" if cost.parameters is not None else "not known",
                    f"{cost.macs / 1e9:.3f} G" if cost.macs is not None else "not counted",
                    f"{cost.file_bytes / 1e6:.2f} MB",
                    f"{cost.memory_bytes / 1e6:.1f} MB" if cost.memory_bytes is not None else "not known",
                    f"{1e3 * timing.median:.1f} ms ({1e3 * timing.lower:.1f} to {1e3 * timing.upper:.1f})"
                    if timing is not None
                    else ("not measured" if cost.can_be_timed else "not computed"),
                    f"×{ratio:.2f}" if ratio is not None else "–",
                ],
            )
        )
    return rows


def _image_rows(
    comparison: Comparison, anchors: dict[str, str]
) -> tuple[list[tuple[str, str]], list[ImageRow]]:
    columns = [
        (mean.protocol, column.label)
        for key, mean in comparison.first.result.metrics.items()
        if key in ("psnr", "ssim", "lpips", "colour_shift")
        for column in comparison.columns
    ]
    rows = []
    for image in comparison.first.result.images:
        cells = []
        for key, mean in comparison.first.result.metrics.items():
            if key not in ("psnr", "ssim", "lpips", "colour_shift"):
                continue
            for column in comparison.columns:
                value = column.result.images[image][key]
                text = format_value(value, mean.protocol).removesuffix(" dB")
                cells.append(Cell(text, max(-1e300, min(1e300, value))))
        rows.append(ImageRow(image, cells, anchors.get(image)))
    return columns, rows


def pictures_csv(comparison: Comparison) -> str:
    """One line a picture and column, numbers in full precision; the last lines are the means."""
    keys = list(comparison.first.result.metrics)
    rows: list[list[str]] = [["picture", "model", *keys]]
    for image in comparison.first.result.images:
        for column in comparison.columns:
            values = column.result.images[image]
            rows.append([image, column.label, *(repr(values[key]) for key in keys)])
    rows += [
        ["mean", column.label, *(repr(column.result.metrics[key].value) for key in keys)]
        for column in comparison.columns
    ]
    return _csv(rows)


def summary_csv(comparison: Comparison) -> str:
    """One line a column: means, intervals, paired changes, costs; empty where nothing was measured."""
    keys = list(comparison.first.result.metrics)
    parts = ("", "_low", "_high", "_change", "_change_low", "_change_high")
    costs = [
        "parameters",
        "macs",
        "file_bytes",
        "memory_bytes",
        "latency_s",
        "latency_lower_s",
        "latency_upper_s",
    ]
    rows = [["model", *(key + part for key in keys for part in parts), *costs, "latency_ratio"]]
    for column in comparison.columns:
        row = [column.label]
        for key in keys:
            change = column.changes.get(key)
            row += [repr(column.result.metrics[key].value), *_both(column.intervals[key])]
            row += [repr(change.mean) if change else "", *_both(change.interval if change else None)]
        cost, ratio = column.cost, comparison.time_ratio(column)
        if cost is None:
            row += [""] * (len(costs) + 1)
        else:
            timing = cost.timing
            seconds = (timing.median, timing.lower, timing.upper) if timing is not None else (None,) * 3
            numbers = (cost.parameters, cost.macs, cost.file_bytes, cost.memory_bytes, *seconds, ratio)
            row += ["" if number is None else repr(number) for number in numbers]
        rows.append(row)
    return _csv(rows)


def _both(interval: tuple[float, float] | None) -> list[str]:
    return [repr(each) for each in interval] if interval is not None else ["", ""]


def _csv(rows: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def summary_text(comparison: Comparison, judgements: Sequence[Judgement] = ()) -> str:
    """The means and costs as aligned plain text for a terminal."""
    metrics = comparison.first.result.metrics.values()
    head = ["model", *(mean.protocol.partition(" (")[0] for mean in metrics)]
    lines = [head]
    for column, entries in quality_rows(comparison):
        lines.append([column.label, *(entry.value for entry in entries)])
    blocks = [_aligned(lines), "(" + "; ".join(mean.protocol for mean in metrics) + ")"]
    costs = [["model", "parameters", "multiply-adds", "file", "memory", "latency", "ratio"]]
    costs += [[label, *texts] for label, texts in cost_rows(comparison)]
    blocks.append(_aligned(costs))
    for key, reason in comparison.missing():
        blocks.append(f"{key}: not computed: {reason}")
    if judgements:
        table = [["criterion", "required", "has", "verdict"]]
        table += [[each.name, each.required, each.value or "–", each.state] for each in judgements]
        blocks.append(_aligned(table))
    return "\n\n".join(blocks)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
