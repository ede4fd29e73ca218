"""Curves: scaling, thinning, ticks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.evaluate.charts import MAX_POINTS, make_chart, show_number


def test_a_straight_line_runs_from_corner_to_corner() -> None:
    chart = make_chart("x", [(0, 0.0), (50, 2.0), (100, 4.0)])
    assert chart is not None
    assert [(x, y) for x, y, _, _ in chart.points] == [(0, 100), (50, 50), (100, 0)]
    assert chart.path == "M0.0 1000.0L500.0 500.0L1000.0 0.0"
    assert chart.y_ticks == [(100, "0"), (75, "1"), (50, "2"), (25, "3"), (0, "4")]
    assert [label for _, label in chart.x_ticks] == ["0", "50", "100"]


def test_reference_line_is_inside_and_the_best_point_is_marked() -> None:
    chart = make_chart(
        "PSNR", [(1, 30.0), (2, 32.0), (3, 31.0)], reference=(28.0, "bicubic"), higher_is_better=True
    )
    assert chart is not None and chart.reference is not None
    assert 0 <= chart.reference[0] <= 100
    assert chart.reference[0] > max(y for _, y, _, _ in chart.points)
    assert chart.marked == 1
    lower = make_chart("MAE", [(1, 30.0), (2, 32.0)], higher_is_better=False)
    assert lower is not None and lower.marked == 0


def test_long_series_are_thinned_and_it_is_said() -> None:
    chart = make_chart("loss", [(i, float(i % 2)) for i in range(1, 10 * MAX_POINTS + 1)])
    assert chart is not None
    assert len(chart.points) == MAX_POINTS
    assert {text for _, _, _, text in chart.points} == {"0.5000"}
    assert chart.points[-1][2] == f"{10 * MAX_POINTS:,}"
    assert chart.notes == ["each point is the mean of up to 10 log lines"]


def test_wide_positive_series_get_a_logarithmic_scale_only_where_allowed() -> None:
    points = [(1, 10.0), (2, 1.0), (3, 0.1)]
    log, linear = make_chart("x", points, may_be_log=True), make_chart("x", points)
    assert log is not None and linear is not None
    assert [y for _, y, _, _ in log.points] == pytest.approx([0, 50, 100])
    assert log.notes == ["logarithmic scale"] and linear.notes == []


def test_values_that_are_not_finite_are_left_out_and_it_is_said() -> None:
    chart = make_chart("x", [(1, math.nan), (2, 1.0), (3, math.inf)])
    assert chart is not None
    assert len(chart.points) == 1 and chart.notes == ["2 values are not finite and left out"]
    assert make_chart("x", [(1, math.nan)]) is None
    assert make_chart("x", []) is None


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30),
    st.booleans(),
    st.booleans(),
    st.integers(1, 10**6),
)
def test_every_point_and_tick_lies_in_the_plot(values: list[float], log: bool, zero: bool, step: int) -> None:
    chart = make_chart(
        "x", [(step * (i + 1), v) for i, v in enumerate(values)], may_be_log=log, from_zero=zero
    )
    assert chart is not None
    assert all(0 <= x <= 100 and -0.01 <= y <= 100.01 for x, y, _, _ in chart.points)
    assert all(-0.01 <= y <= 100.01 for y, _ in chart.y_ticks)
    assert all(-0.01 <= x <= 100.01 for x, _ in chart.x_ticks)
    assert 1 <= len(chart.y_ticks) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.03124, "0.03124"), (51.3, "51.30"), (2e-4, "2.000e−4"), (0, "0.000"), (-3.5, "−3.500")],
)
def test_four_significant_digits(value: float, text: str) -> None:
    assert show_number(value) == text
