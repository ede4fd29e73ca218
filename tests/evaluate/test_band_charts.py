"""Several curves with bands over one axis."""

from __future__ import annotations

import math

import pytest

from atelier.evaluate.band_charts import Series, band_of, make_band_chart


def test_a_band_reaches_from_the_lowest_to_the_highest_at_shared_steps() -> None:
    runs = [[(1.0, 10.0), (2.0, 20.0), (3.0, 5.0)], [(1.0, 14.0), (2.0, 18.0)]]
    assert band_of(runs) == [(1.0, 12.0, 10.0, 14.0), (2.0, 19.0, 18.0, 20.0)]
    assert band_of([]) == []


def test_lines_and_bands_share_one_scale() -> None:
    wide = Series("wide", [(0, 2.0, 0.0, 4.0), (10, 2.0, 1.0, 3.0)], 0)
    single = Series("single", [(0, 1.0, 1.0, 1.0), (5, 3.0, 3.0, 3.0)], 9)
    chart = make_band_chart("x", [wide, single])
    assert chart is not None
    first, second = chart.series
    assert first.line == "M0.0 500.0L1000.0 500.0"
    assert first.band == "M0.0 0.0L1000.0 250.0L1000.0 750.0L0.0 1000.0Z"
    assert second.band == "" and second.line == "M0.0 750.0L500.0 250.0"
    assert (first.colour, first.dashed, second.colour, second.dashed) == (0, False, 1, True)
    assert [label for _, label in chart.y_ticks] == ["0", "1", "2", "3", "4"]


def test_the_axis_holds_the_bands_and_the_reference() -> None:
    series = [Series("a", [(1, 5.0, 4.0, 6.0), (2, 5.0, 4.5, 5.5)], 0)]
    chart = make_band_chart("x", series, reference=(0.0, "zero"))
    assert chart is not None
    assert chart.references == [(100.0, "zero")]
    x, y, _, _ = chart.series[0].points[0]
    assert x == 0 and y == pytest.approx(100 * 1 / 6, abs=1e-3)


def test_fractions_on_the_x_axis_are_told_apart() -> None:
    chart = make_band_chart(
        "x",
        [Series("a", [(0.1, 1.0, 1.0, 1.0), (0.5, 2.0, 2.0, 2.0)], 0)],
        show_x=lambda x: f"{x} h",
        whole_x=False,
    )
    assert chart is not None
    assert [label for _, label in chart.x_ticks] == ["0.1", "0.2", "0.3", "0.4", "0.5"]
    assert chart.series[0].points[1][2] == "0.5 h"


def test_points_that_are_not_finite_are_left_out_and_it_is_said() -> None:
    bad = (2.0, math.inf, 1.0, math.inf)
    chart = make_band_chart("x", [Series("a", [(1.0, 1.0, 1.0, 1.0), bad], 0), Series("b", [bad], 1)])
    assert chart is not None
    assert [each.name for each in chart.series] == ["a"]
    assert chart.notes == ["2 values are not finite and left out"]
    assert make_band_chart("x", [Series("b", [bad], 1)]) is None
