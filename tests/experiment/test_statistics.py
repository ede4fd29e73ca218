"""The instrument: what it says of studies whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from atelier.experiment.statistics import (
    Comparison,
    compare_paired,
    compare_unpaired,
    detectable_difference,
    gap_closed,
    holm,
    paired_t,
    seeds_needed,
    sign_flip,
    verdict_of,
    welch_t,
    wilcoxon_over_pictures,
)


def verdict(comparison: Comparison, min_effect: float = 0.0, *, higher: bool = True) -> str:
    return verdict_of(comparison, min_effect=min_effect, higher_is_better=higher)


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_interval_covers_the_truth_in_95_of_100_paired_studies(seeds: int) -> None:
    drawn = np.random.default_rng(11).normal(0.07, 0.04, (4000, seeds))
    test = paired_t(drawn)
    covered = np.mean((test.low <= 0.07) & (test.high >= 0.07))
    assert 0.93 <= covered <= 0.97
    # Teeth: an interval that takes the normal distribution for t misses this at so few seeds.
    assert np.mean(np.abs(test.mean - 0.07) <= 1.96 * test.error) < 0.93


def test_the_interval_covers_the_truth_with_unequal_groups() -> None:
    rng = np.random.default_rng(12)
    test = welch_t(rng.normal(30.1, 0.1, (4000, 6)), rng.normal(30.0, 0.03, (4000, 4)))
    assert 0.93 <= np.mean((test.low <= 0.1) & (test.high >= 0.1)) <= 0.97


def test_without_an_effect_hardly_any_study_sees_one() -> None:
    """Five arms, no effect in any: Holm keeps the chance of a single better or worse at 5 % for the whole study."""
    drawn = np.random.default_rng(13).normal(0.0, 0.05, (1000, 5, 6))
    p = paired_t(drawn).p
    unadjusted = calm = 0
    for study, row in zip(drawn, p, strict=True):
        adjusted = holm(row.tolist())
        verdicts = {
            verdict(Comparison(6, 6, True, mean=float(d.mean()), p=float(one), p_holm=other))
            for d, one, other in zip(study, row, adjusted, strict=True)
        }
        calm += verdicts == {"not distinguishable"}
        unadjusted += bool((row < 0.05).any())
    assert calm / 1000 >= 0.94
    assert unadjusted / 1000 > 0.15  # what looking at five p values would have done


def test_a_real_effect_of_the_detectable_size_is_seen_in_about_80_of_100() -> None:
    size = detectable_difference(0.05 / math.sqrt(10), 9)
    drawn = np.random.default_rng(14).normal(size, 0.05, (4000, 10))
    assert 0.74 <= np.mean(paired_t(drawn).p < 0.05) <= 0.86


def test_t_tests_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(30, 0.2, 7), rng.normal(29.8, 0.05, 5)
    ours, theirs = paired_t(a[:5] - b), scipy.stats.ttest_rel(a[:5], b)
    interval = theirs.confidence_interval()
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    ours, theirs = welch_t(a, b), scipy.stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval()
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_students_own_example() -> None:
    """Student 1908: additional sleep under two drugs, ten patients; t 4.0621, p 0.00283."""
    test = paired_t([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert test.mean / test.error == pytest.approx(4.0621, abs=1e-4)
    assert test.p == pytest.approx(0.002833, abs=1e-6)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def test_sign_flips_are_counted_exactly() -> None:
    assert sign_flip([0.1] * 5) is None
    assert sign_flip([0.1, 0.2, 0.05, 0.3, 0.1, 0.2]) == 2 / 64
    d = np.random.default_rng(3).normal(0.02, 0.05, 8)
    means = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True)))
        for signs in itertools.product((-1, 1), repeat=8)
    ]
    expected = sum(mean >= abs(d.sum()) - 1e-12 for mean in means) / 256
    assert sign_flip(d) == expected
    assert sign_flip(np.zeros(6)) == 1.0
    assert sign_flip(np.ones(21)) is None


def test_seeds_needed_is_the_fewest_that_suffice() -> None:
    n = seeds_needed(0.05, 0.1)
    assert n is not None
    assert detectable_difference(0.1 / math.sqrt(n), n - 1) <= 0.05
    assert detectable_difference(0.1 / math.sqrt(n - 1), n - 2) > 0.05
    assert seeds_needed(0.0, 0.1) is None
    assert seeds_needed(1e-9, 0.1) is None
    assert seeds_needed(0.5, 0.0) == 2


def test_detectable_difference_by_the_formula() -> None:
    assert detectable_difference(1 / math.sqrt(6), 5) == pytest.approx(
        (2.570582 + 0.919544) / math.sqrt(6), rel=1e-5
    )


def test_verdicts_in_their_fixed_words() -> None:
    assert verdict(compare_paired([0.5])) == "no claim"
    assert verdict(compare_paired([])) == "no claim"
    assert verdict(compare_unpaired([1.0, 2.0], [1.5])) == "no claim"
    assert verdict(compare_paired([0.0, 0.0, 0.0])) == "identical"
    assert verdict(compare_unpaired([30.0, 30.0], [30.0, 30.0])) == "identical"
    clear = compare_paired([0.10, 0.11, 0.09, 0.10])
    assert verdict(clear) == "better"
    assert verdict(clear, higher=False) == "worse"
    assert verdict(compare_paired([-0.10, -0.11, -0.09, -0.10])) == "worse"
    # Certain, but too small to matter.
    assert verdict(clear, min_effect=0.2) == "not distinguishable"
    # Large, but not certain.
    assert verdict(compare_paired([1.0, -0.8, 1.2])) == "not distinguishable"
    # Certain alone, not among so many arms.
    assert clear.p is not None and clear.p < 0.05
    among = Comparison(4, 4, True, mean=0.1, p=clear.p, p_holm=0.06)
    assert verdict(among) == "not distinguishable"


def test_equal_differences_leave_no_doubt() -> None:
    same = compare_paired([0.1, 0.1, 0.1])
    assert (same.sd, same.low, same.high, same.p) == (0.0, same.mean, same.mean, 0.0)
    assert not same.identical
    assert verdict(same) == "better"


def test_gap_closed_reproduces_the_published_study() -> None:
    """Student alone, distilled and teacher on Set5 x4: 8.8 % of the gap in RGB, 6.9 % in Y."""
    rgb = gap_closed(30.5026, 30.4560, 30.9883)
    y = gap_closed(32.4083, 32.3705, 32.9158)
    assert rgb is not None and round(rgb, 1) == 8.8
    assert y is not None and round(y, 1) == 6.9


def test_gap_closed_is_undefined_without_a_gap() -> None:
    assert gap_closed(30.0, 30.0, 30.0) is None
    assert gap_closed(30.0, 30.0, 29.0) is None
    assert gap_closed(0.2, 0.3, 0.4, higher_is_better=False) is None
    assert gap_closed(0.2, 0.3, 0.1, higher_is_better=False) == pytest.approx(50.0)


def test_wilcoxon_over_pictures() -> None:
    d = np.random.default_rng(5).normal(0.1, 0.1, 12)
    assert wilcoxon_over_pictures(d) == pytest.approx(float(scipy.stats.wilcoxon(d).pvalue))
    assert wilcoxon_over_pictures([0.0, 0.0, 0.0]) is None
