"""Signed errors, the scale they share, and where several pictures disagree."""

from __future__ import annotations

import numpy as np
import pytest

from atelier.evaluate.crops import largest_disagreement
from atelier.evaluate.error_maps import NEUTRAL, Scale, common_scale, signed_error

BLUE, RED = (0, 0, 255), (255, 0, 0)


def test_error_is_luma_with_its_sign() -> None:
    gt = np.full((2, 3, 3), 100, np.uint8)
    restored = gt.copy()
    restored[0, 1, 1] += 10  # green
    restored[1, 2] -= 20
    error = signed_error(restored, gt)
    assert error.shape == (2, 3)
    assert error[0, 1] == pytest.approx(10 * 128.553 / 255, abs=1e-9)
    assert error[1, 2] == pytest.approx(-20 * (65.481 + 128.553 + 24.966) / 255, abs=1e-9)
    assert error[0, 0] == 0
    grey = np.full((1, 1, 1), 7, np.uint8)
    assert signed_error(grey + np.uint8(3), grey)[0, 0] == pytest.approx(3)


def test_colours_say_sign_and_size() -> None:
    painted = Scale(10, BLUE, RED).paint(np.array([[-10.0, 0.0, 10.0, 99.0, 5.0]]))
    assert [tuple(each) for each in painted[0, :4].tolist()] == [BLUE, NEUTRAL, RED, RED]
    middle = [(a + b) / 2 for a, b in zip(NEUTRAL, RED, strict=True)]
    assert painted[0, 4].tolist() == pytest.approx(middle, abs=0.51)


def test_one_scale_holds_all_maps() -> None:
    small, large = np.full((10, 10), 0.5), np.full((10, 10), -12.0)
    assert common_scale([small], BLUE, RED).limit == 1
    assert common_scale([small, large], BLUE, RED).limit == 15
    few = np.zeros((20, 20))
    few[0, 0] = 200.0  # one pixel of 400 does not darken all others
    assert common_scale([few], BLUE, RED).limit == 1


def test_the_legend_mixes_the_colours_of_the_maps() -> None:
    assert Scale(5, BLUE, RED).gradient == (
        "linear-gradient(to right, rgb(0,0,255), rgb(245,245,245), rgb(255,0,0))"
    )


def test_disagreement_is_where_versions_leave_their_mean() -> None:
    chance = np.random.default_rng(0)
    base = chance.integers(0, 200, (40, 60, 3), dtype=np.uint8)
    others = [base.copy() for _ in range(3)]
    others[2][20:28, 36:44] += 40
    assert largest_disagreement(others, 8, 4) == (20, 36, 8, 8)
    # An offset that all share is no disagreement.
    shared = [each.copy() for each in others]
    for each in shared:
        each[:8, :8] = 255
    assert largest_disagreement(shared, 8, 4) == (20, 36, 8, 8)
