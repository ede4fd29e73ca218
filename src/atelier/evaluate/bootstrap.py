"""Confidence intervals of means over pictures, by the percentile bootstrap with a fixed seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from atelier.randomness import Streams

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 1_000


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of ``values`` (Efron & Tibshirani 1993, chapter 13); the same at every call.

    Values that are not finite are left out, as they are from the mean; None where fewer than two are left.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if len(finite) < 2:
        return None
    generator = Streams(0, 0, 0)("bootstrap")
    means = [
        finite[generator.integers(0, len(finite), (_CHUNK, len(finite)))].mean(axis=1)
        for _ in range(RESAMPLES // _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return low, high
