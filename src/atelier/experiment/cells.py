"""How the numbers of a study are written in its reports: one way for Markdown and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atelier.evaluate.results import decimals, format_value


def difference_cells(told: Mapping[str, Any], unit: str) -> list[str]:
    """Difference, 95 % interval, p (Holm), p of the signs, detectable difference of one comparison."""
    interval = "–"
    if told["low"] is not None:
        digits = decimals(unit) + 1
        interval = f"{told['low']:+.{digits}f} … {told['high']:+.{digits}f}".replace("-", "−")
    needed = f" ({told['seeds_needed']} seeds for the one seen)" if told["seeds_needed"] else ""
    return [
        "–"
        if told["mean"] is None
        else change_cell(told["mean"], unit) + ("" if told["paired"] else ", unpaired"),
        interval,
        p_cell(told["p_holm"]),
        p_cell(told["p_sign_flip"]),
        "–" if told["detectable"] is None else spread_cell(told["detectable"], unit) + needed,
    ]


def value_cell(value: float | None, unit: str) -> str:
    """A value in the metric's decimals and unit; a dash where there is none."""
    return "–" if value is None else format_value(value, unit)


def change_cell(value: float, unit: str) -> str:
    """One decimal more than values have: differences between arms are small."""
    text = f"{value:+.{decimals(unit) + 1}f}".replace("-", "−")
    return text + (" dB" if decimals(unit) == 2 else "")


def spread_cell(value: float | None, unit: str) -> str:
    """A standard deviation, or any size of differences."""
    return "–" if value is None else f"{value:.{decimals(unit) + 1}f}"


def p_cell(value: float | None) -> str:
    """A p-value with three decimals."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def percent_cell(value: float | None, teacher: str | None) -> str:
    """A gap closed: undefined where the teacher is not better, a dash where there is no teacher."""
    if value is None:
        return "undefined" if teacher is not None else "–"
    return f"{value:.1f} %".replace("-", "−")


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(str(text).split())


def latency_rows(study: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Arm or teacher -> for every batch size p50, p95 and the ratio of p50 to the reference's; memory."""
    latency = study["latency"]
    if latency is None:
        return []
    base = latency["networks"][study["reference"]]
    rows = []
    for name, by_batch in latency["networks"].items():
        cells = []
        for batch, time in by_batch.items():
            ratio = time["p50"] / base[batch]["p50"]
            cells += [f"{1000 * time['p50']:.2f} ms", f"{1000 * time['p95']:.2f} ms", f"×{ratio:.2f}"]
        rows.append((name, [*cells, f"{latency['memory'][name] / 1e6:.1f} MB"]))
    return rows


def hours_text(hours: float) -> str:
    """Hours, or minutes and seconds where these say more."""
    if hours >= 1:
        return f"{hours:.2f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"
