"""Charts of several series with a band each (the spread over seeds), drawn by the template beside the single curves.

Positions are percent of the plotting area, as in :mod:`atelier.evaluate.charts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from atelier.evaluate.charts import (
    LOG_SPAN,
    Tick,
    axis_number,
    linear_axis,
    log_axis,
    nice_step,
    short_count,
    show_count,
    show_number,
)

#: Series that have a colour of their own; more begin again with another dash.
COLOURS = 8


@dataclass(frozen=True)
class Series:
    """One line: (x, middle, low, high), ascending by x; ``place`` chooses its colour, the same in every chart."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    place: int


@dataclass(frozen=True)
class DrawnSeries:
    """One line, ready to draw.

    Attributes:
        name: as in the legend.
        colour: 0 to 7, a class of the style sheet.
        dashed: a second round of colours.
        line: SVG path data in a 1000×1000 box.
        band: the same for the area between low and high; empty where the two are one.
        points: x and y in percent, the texts of x and of the value.
    """

    name: str
    colour: int
    dashed: bool
    line: str
    band: str
    points: list[tuple[float, float, str, str]]


@dataclass(frozen=True)
class BandChart:
    """Several curves over one axis; ``references`` are horizontal lines with a label."""

    title: str
    unit: str
    series: list[DrawnSeries]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    references: list[Tick] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summary: str = ""


def make_band_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    show: Callable[[float], str] = show_number,
    show_x: Callable[[float], str] = show_count,
    whole_x: bool = True,
    reference: tuple[float, str] | None = None,
    may_be_log: bool = False,
    from_zero: bool = False,
) -> BandChart | None:
    """Scale the series; None when they hold no finite point.

    Args:
        title: what is plotted.
        series: the lines; points that are not finite are left out.
        unit: of the values, or what x is, in words.
        show: a value as text.
        show_x: an x as text.
        whole_x: x counts something, so ticks stand at whole numbers.
        reference: value and label of a line to compare with.
        may_be_log: a logarithmic scale where the values span more than a factor of 50.
        from_zero: the value axis starts at 0.
    """
    kept = [
        Series(each.name, finite, each.place)
        for each in series
        if (finite := [point for point in each.points if all(map(math.isfinite, point))])
    ]
    if not kept:
        return None
    lost = sum(len(each.points) for each in series) - sum(len(each.points) for each in kept)
    count = "1 value is" if lost == 1 else f"{lost} values are"
    notes = [f"{count} not finite and left out"] if lost else []
    values = [value for each in kept for point in each.points for value in point[1:]]
    values += [reference[0]] if reference is not None else []
    log = may_be_log and min(values) > 0 and max(values) / min(values) > LOG_SPAN
    if log:
        notes.append("logarithmic scale")
    low, high, y_values = log_axis(values) if log else linear_axis(values, from_zero)
    xs = [point[0] for each in kept for point in each.points]
    left, right = min(xs), max(xs)

    def x_of(x: float) -> float:
        return 50.0 if right == left else round(100 * (x - left) / (right - left), 3)

    def y_of(y: float) -> float:
        share = (
            (math.log(y) - math.log(low)) / (math.log(high) - math.log(low))
            if log
            else (y - low) / (high - low)
        )
        return round(100 * (1 - share), 3)

    drawn = []
    for each in kept:
        places = [(x_of(x), y_of(y), show_x(x), show(y)) for x, y, _, _ in each.points]
        upper = [(x_of(x), y_of(top)) for x, _, _, top in each.points]
        lower = [(x_of(x), y_of(bottom)) for x, _, bottom, _ in each.points]
        band = _path([*upper, *reversed(lower)]) + "Z" if upper != lower and len(upper) > 1 else ""
        line = _path([(x, y) for x, y, _, _ in places])
        drawn.append(DrawnSeries(each.name, each.place % COLOURS, each.place >= COLOURS, line, band, places))
    ends = [f"{each.name} ends at {each.points[-1][3]}" for each in drawn]
    return BandChart(
        title,
        unit,
        drawn,
        _x_ticks(left, right, x_of, whole=whole_x),
        [(y_of(y), axis_number(y, y_values)) for y in y_values],
        [(y_of(reference[0]), reference[1])] if reference is not None else [],
        notes,
        f"{title}: {', '.join(ends)}",
    )


def band_of(runs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float, float, float]]:
    """(x, mean, lowest, highest) over several curves, at every x that all of them have."""
    by_x = [dict(run) for run in runs]
    shared = sorted(set.intersection(*(set(each) for each in by_x))) if by_x else []
    found = []
    for x in shared:
        values = [each[x] for each in by_x]
        found.append((x, math.fsum(values) / len(values), min(values), max(values)))
    return found


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{10 * x:.1f} {10 * y:.1f}" for x, y in points)


def _x_ticks(left: float, right: float, x_of: Callable[[float], float], *, whole: bool) -> list[Tick]:
    if left == right:
        ticks = [left]
    else:
        step = max(nice_step(right - left, 4), 1.0) if whole else nice_step(right - left, 4)
        first, last = math.ceil(left / step - 1e-9), math.floor(right / step + 1e-9)
        ticks = [index * step for index in range(first, last + 1)]
    return [(x_of(x), short_count(x) if whole else axis_number(x, ticks)) for x in ticks]
