"""Small line charts: one series each, scaled and thinned here, drawn by the report's template.

Positions are percent of the plotting area from its left and top, so text stays crisp at any width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: More points than this are joined into buckets; a report is about 1000 pixels wide.
MAX_POINTS = 500
#: Positive series that span more than this factor get a logarithmic scale (where the chart allows one).
LOG_SPAN = 50.0

Point = tuple[float, float]
Tick = tuple[float, str]


@dataclass(frozen=True)
class Chart:
    """One curve, ready to draw.

    Attributes:
        title: what is plotted.
        unit: its unit or scale, in words; may be empty.
        path: SVG path data in a 1000×1000 box.
        points: per drawn point x, y in percent, and the texts of its iteration and value.
        x_ticks, y_ticks: position in percent and label.
        reference: a horizontal line to compare with, None for none.
        marked: index of a point to mark, None for none.
        notes: what was done to the data (thinned, left out, logarithmic).
        summary: the curve in one sentence, for readers who do not see it.
    """

    title: str
    unit: str
    path: str
    points: list[tuple[float, float, str, str]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    reference: Tick | None
    marked: int | None
    notes: list[str]
    summary: str


def make_chart(
    title: str,
    points: Sequence[Point],
    *,
    unit: str = "",
    show: Callable[[float], str] | None = None,
    reference: tuple[float, str] | None = None,
    higher_is_better: bool | None = None,
    may_be_log: bool = False,
    from_zero: bool = False,
) -> Chart | None:
    """Scale one series; None when it holds no finite value.

    Args:
        title: what is plotted.
        points: (iteration, value), ascending.
        unit: of the values, in words.
        show: a value as text; default four significant digits.
        reference: value and label of a line to compare with.
        higher_is_better: marks the best point; None marks none.
        may_be_log: a logarithmic scale where the values span more than a factor of 50.
        from_zero: the value axis starts at 0.
    """
    show = show or show_number
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return None
    notes = []
    if len(finite) < len(points):
        notes.append(f"{len(points) - len(finite)} values are not finite and left out")
    drawn, per_bucket = _thin(finite)
    if per_bucket > 1:
        notes.append(f"each point is the mean of up to {per_bucket} log lines")
    values = [y for _, y in drawn] + ([reference[0]] if reference and math.isfinite(reference[0]) else [])
    log = may_be_log and min(values) > 0 and max(values) / min(values) > LOG_SPAN
    if log:
        notes.append("logarithmic scale")
    low, high, y_values = log_axis(values) if log else linear_axis(values, from_zero)
    left, right = drawn[0][0], drawn[-1][0]
    x_values = _x_ticks(left, right)

    def x_of(x: float) -> float:
        return 50.0 if right == left else round(100 * (x - left) / (right - left), 3)

    def share_of_log(y: float) -> float:
        # Differences of logarithms: the quotient of the ends may be beyond what a float holds.
        return (math.log(y) - math.log(low)) / (math.log(high) - math.log(low))

    def y_of(y: float) -> float:
        share = share_of_log(y) if log else (y - low) / (high - low)
        return round(100 * (1 - share), 3)

    places = [(x_of(x), y_of(y), show_count(x), show(y)) for x, y in drawn]
    marked = None
    if higher_is_better is not None:
        marked = (max if higher_is_better else min)(range(len(drawn)), key=lambda i: drawn[i][1])
    line = (y_of(reference[0]), reference[1]) if reference and math.isfinite(reference[0]) else None
    ends = [f"{show(y)} at iteration {show_count(x)}" for x, y in (drawn[0], drawn[-1])]
    return Chart(
        title,
        unit,
        "M" + "L".join(f"{10 * x:.1f} {10 * y:.1f}" for x, y, _, _ in places),
        places,
        [(x_of(x), short_count(x)) for x in x_values],
        [(y_of(y), axis_number(y, y_values)) for y in y_values],
        line,
        marked,
        notes,
        f"{title}: {', then '.join(ends)}",
    )


def show_number(value: float) -> str:
    """Four significant digits: ``0.03124``, ``2.000e-4``, ``51.30``."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    digits = 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}".replace("-", "−")


def show_count(value: float) -> str:
    """An iteration with thousands separators."""
    return f"{value:,.0f}"


def short_count(value: float) -> str:
    """An iteration as short as an axis needs it: ``20k``."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * limit or (abs(value) >= limit and value % (limit / 10) == 0):
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def axis_number(value: float, all_values: Sequence[float]) -> str:
    """A tick's label, in as many decimals as tell the ticks apart."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    step = min((b - a for a, b in itertools.pairwise(all_values)), default=abs(value))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}".replace("-", "−")


def _thin(points: Sequence[Point]) -> tuple[list[Point], int]:
    """At most ``MAX_POINTS`` points; a bucket stands at its last iteration with its mean value."""
    size = math.ceil(len(points) / MAX_POINTS)
    buckets = [points[i : i + size] for i in range(0, len(points), size)]
    return [(bucket[-1][0], math.fsum(y for _, y in bucket) / len(bucket)) for bucket in buckets], size


def nice_step(span: float, parts: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that cuts ``span`` into at most ``parts``."""
    raw = span / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def linear_axis(values: Sequence[float], from_zero: bool) -> tuple[float, float, list[float]]:
    """Ends and ticks of an axis that holds ``values``."""
    low, high = min(values), max(values)
    if from_zero and low >= 0:
        low = 0.0
    if high == low:
        pad = abs(high) * 0.05 or 1.0
        low, high = (low if from_zero and low == 0 else low - pad), high + pad
    step = nice_step(high - low, 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def log_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Whole powers of ten around positive ``values``: ends and ticks."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    every = math.ceil((last - first) / 5)
    ticks = [10.0**power for power in range(first, last + 1, every)]
    return 10.0**first, 10.0**last, ticks


def _x_ticks(left: float, right: float) -> list[float]:
    if left == right:
        return [left]
    step = max(nice_step(right - left, 4), 1.0)
    first, last = math.ceil(left / step - 1e-9), math.floor(right / step + 1e-9)
    return [index * step for index in range(first, last + 1)]
