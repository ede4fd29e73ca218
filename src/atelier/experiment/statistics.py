"""What differences between training runs allow to say. The unit is the seed, never the picture.

Sources: Student (Biometrika 1908) for the paired test, Welch (Biometrika 1947) for unequal groups, Holm (Scand. J.
Statist. 1979) for several arms, Fisher (The Design of Experiments, 1935, §21) for flipping signs, Wilcoxon (Biometrics
Bulletin 1945) for pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Verdict = Literal["better", "worse", "not distinguishable", "identical", "no claim"]

#: Error probability of every test, and the coverage 1 - ALPHA of every interval.
ALPHA = 0.05
#: Chance of seeing an effect that a detectable difference promises.
POWER = 0.8
#: Below so many seeds even the most extreme of all 2^n flips has p > 0.03.
FEWEST_FLIPS = 6
#: All 2^n sign patterns are gone through up to here (a million); the t-test alone speaks above.
MOST_FLIPS = 20
#: Nobody trains so many seeds; beyond it the answer is "none".
MOST_SEEDS = 100_000


@dataclass(frozen=True)
class TTest:
    """A t-test: numbers, or arrays of them for many studies at once.

    Attributes:
        mean: the mean difference.
        sd: standard deviation of the differences (Welch: what one seed of each group contributes,
            sqrt(var a + var b)).
        low, high: the 95 % interval of the mean.
        p: two-sided.
        df: degrees of freedom.
        error: standard error of the mean.
    """

    mean: Any
    sd: Any
    low: Any
    high: Any
    p: Any
    df: Any
    error: Any


@dataclass(frozen=True)
class Comparison:
    """One arm against another in one number per seed; positive means the arm's number is larger.

    Attributes:
        n: seeds compared (unpaired: of the arm), ``n_reference`` of the other arm.
        paired: differences within seeds; False: Welch's test between two groups.
        mean, sd, low, high, p: see :class:`TTest`; None where there are too few seeds.
        p_holm: p adjusted over the arms compared together; None until :func:`with_holm`.
        p_sign_flip: exact p over all sign patterns; None for unpaired arms and below 6 seeds.
        detectable: smallest true difference that so many seeds show with 80 % probability.
        seeds_needed: seeds at which the difference that was seen would be detectable; None where there is none.
        identical: every difference is exactly 0.
    """

    n: int
    n_reference: int
    paired: bool
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_sign_flip: float | None = None
    detectable: float | None = None
    seeds_needed: int | None = None
    identical: bool = False


def paired_t(differences: npt.ArrayLike) -> TTest:
    """Student's test of a mean difference of 0.

    Args:
        differences: ``... × n``, one number per seed along the last axis, n at least 2.
    """
    d = np.asarray(differences, dtype=np.float64)
    n = d.shape[-1]
    if n < 2:
        raise ValueError(f"a t-test needs at least 2 differences, given {n}")
    sd = d.std(axis=-1, ddof=1)
    # Equal differences have no spread; rounding of their mean must not make one up.
    sd = np.where(d.max(axis=-1) == d.min(axis=-1), 0.0, sd)
    return _t_test(d.mean(axis=-1), sd, sd / math.sqrt(n), np.float64(n - 1))


def welch_t(a: npt.ArrayLike, b: npt.ArrayLike) -> TTest:
    """Welch's test of equal means of two groups with n_a and n_b (at least 2) numbers along the last axis."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n, m = x.shape[-1], y.shape[-1]
    if min(n, m) < 2:
        raise ValueError(f"Welch's test needs at least 2 numbers a group, given {n} and {m}")
    var_x, var_y = x.var(axis=-1, ddof=1), y.var(axis=-1, ddof=1)
    part_x, part_y = var_x / n, var_y / m
    whole = part_x + part_y
    below = part_x**2 / (n - 1) + part_y**2 / (m - 1)
    df = np.where(below > 0, whole**2 / np.where(below > 0, below, 1.0), n + m - 2.0)
    return _t_test(x.mean(axis=-1) - y.mean(axis=-1), np.sqrt(var_x + var_y), np.sqrt(whole), df)


def _t_test(mean: Any, sd: Any, error: Any, df: Any) -> TTest:
    from scipy.special import stdtr, stdtrit

    spread = error > 0
    statistic = np.abs(mean) / np.where(spread, error, 1.0)
    p = np.where(spread, 2.0 * stdtr(df, -statistic), np.where(mean == 0, 1.0, 0.0))
    half = stdtrit(df, 1 - ALPHA / 2) * error
    return TTest(mean, sd, mean - half, mean + half, p, df, error)


def sign_flip(differences: npt.ArrayLike) -> float | None:
    """Exact two-sided p: the share of the 2^n sign patterns whose mean is at least as far from 0 as the one seen.

    None below 6 differences, where it could not reach 0.03, and above 20.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not FEWEST_FLIPS <= d.size <= MOST_FLIPS:
        return None
    sums = np.zeros(1)
    for each in np.abs(d):
        sums = np.concatenate([sums - each, sums + each])
    seen = abs(float(d.sum()))
    # Sums of the same numbers in another order differ by rounding.
    return float(np.mean(np.abs(sums) >= seen - 1e-12 * (float(np.abs(d).sum()) or 1.0)))


def wilcoxon_over_pictures(differences: npt.ArrayLike) -> float | None:
    """Wilcoxon's signed-rank p over pictures: about these images, not about another training.

    None where fewer than two differ from 0.
    """
    d = np.asarray(differences, dtype=np.float64)
    if np.count_nonzero(d) < 2:
        return None
    from scipy.stats import wilcoxon

    return float(wilcoxon(d).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given.

    The k-th smallest of m (k from 0) times m - k, never below the one before, at most 1.
    """
    order = sorted(range(len(p)), key=lambda index: p[index])
    adjusted = [0.0] * len(p)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def detectable_difference(error: float, df: float) -> float:
    """(t_0.975 + t_0.8) · standard error: the smallest true difference seen with 80 % probability."""
    from scipy.special import stdtrit

    return float((stdtrit(df, 1 - ALPHA / 2) + stdtrit(df, POWER)) * error)


def seeds_needed(mean: float, sd: float, *, paired: bool = True) -> int | None:
    """The fewest seeds (per arm) with which a difference of ``mean`` is detectable; None for 0 or beyond 100,000."""
    if mean == 0:
        return None

    def enough(n: int) -> bool:
        return detectable_difference(sd / math.sqrt(n), n - 1 if paired else 2 * n - 2) <= abs(mean)

    if not enough(MOST_SEEDS):
        return None
    low, high = 2, MOST_SEEDS
    while low < high:  # the detectable difference falls with n
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def compare_paired(differences: Sequence[float]) -> Comparison:
    """One arm against another over the seeds both have; one difference (arm minus the other) a seed."""
    n = len(differences)
    if n < 2:
        return Comparison(n, n, True, mean=differences[0] if n else None)
    test = paired_t(differences)
    mean, sd = float(test.mean), float(test.sd)
    return Comparison(
        n,
        n,
        True,
        mean=mean,
        sd=sd,
        low=float(test.low),
        high=float(test.high),
        p=float(test.p),
        p_sign_flip=sign_flip(differences),
        detectable=detectable_difference(float(test.error), float(test.df)),
        seeds_needed=seeds_needed(mean, sd),
        identical=all(each == 0 for each in differences),
    )


def compare_unpaired(arm: Sequence[float], other: Sequence[float]) -> Comparison:
    """One arm against another with seeds of its own (Welch)."""
    if min(len(arm), len(other)) < 2:
        mean = float(np.mean(arm) - np.mean(other)) if arm and other else None
        return Comparison(len(arm), len(other), False, mean=mean)
    test = welch_t(arm, other)
    mean, sd = float(test.mean), float(test.sd)
    return Comparison(
        len(arm),
        len(other),
        False,
        mean=mean,
        sd=sd,
        low=float(test.low),
        high=float(test.high),
        p=float(test.p),
        detectable=detectable_difference(float(test.error), float(test.df)),
        seeds_needed=seeds_needed(mean, sd, paired=False),
        identical=len({*arm, *other}) == 1,
    )


def verdict_of(comparison: Comparison, *, min_effect: float, higher_is_better: bool) -> Verdict:
    """The verdict, in its fixed words.

    ``better`` and ``worse`` need an adjusted p below 0.05 (p itself where nothing was adjusted) and a mean of at least
    ``min_effect``; one seed allows no claim.
    """
    p = comparison.p if comparison.p_holm is None else comparison.p_holm
    if p is None or comparison.mean is None:
        return "no claim"
    if comparison.identical:
        return "identical"
    if p >= ALPHA or abs(comparison.mean) < min_effect:
        return "not distinguishable"
    return "better" if (comparison.mean > 0) == higher_is_better else "worse"


def gap_closed(
    arm: float, reference: float, teacher: float, *, higher_is_better: bool = True
) -> float | None:
    """100 · (arm - reference) / (teacher - reference) in percent; None (undefined) where the teacher is not better."""
    gap = teacher - reference
    if not math.isfinite(gap) or (gap <= 0 if higher_is_better else gap >= 0):
        return None
    return 100.0 * (arm - reference) / gap
