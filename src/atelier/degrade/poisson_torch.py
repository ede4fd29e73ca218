"""Poisson counts of 8-bit levels on any device, by inverting the distribution at given even numbers.

torch's own sampler takes one generator for a whole tensor, on a GPU in an order that nobody promises; here a count is
a pure function of the level and its number.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MOST = 416
"""Counts are below this: a mean of 256 and ten of its standard deviations."""


def poisson_counts(levels: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
    """Counts of mean ``levels / 255 * V``, V the number of a picture's different levels rounded up to a power of two.

    The count is the smallest k whose probability of at most k exceeds the even number. Numbers of 24 bits end the
    upper tail at one in 2^24, 5.3 standard deviations.

    Args:
        levels: int64 in 0..255, ``N x M``: a picture a row.
        even: float32 in [0, 1), of the same shape; negative where a row has no picture, whose level does not count.

    Returns:
        ``(counts, V)``: int64 of that shape, without meaning where a row has no picture, and float32 ``N x 1``.
    """
    distributions, exponents = _tables(levels.device)
    seen = torch.zeros(len(levels), 257, dtype=torch.int64, device=levels.device)
    seen.scatter_(1, torch.where(even < 0, 256, levels), 1)
    exponent = exponents.index_select(0, seen[:, :256].sum(dim=1))
    rows = distributions.index_select(0, exponent).flatten(1)
    # Row l of the chosen table holds l + P(count <= k): one sorted line, in which each level searches its own part.
    found = torch.searchsorted(rows, levels + even.double(), right=True)
    return found - levels * MOST, torch.exp2(exponent.float())[:, None]


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """``level + P(count <= k)`` as float64 ``9 x 256 x MOST`` for V = 1, 2, ... 256; and log2 V by the number of
    levels, 0 to 256."""
    count = np.arange(MOST)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, MOST)))])
    means = np.multiply.outer(2.0 ** np.arange(9), np.arange(256) / 255)[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(count == 0, 0.0, count * np.log(means)) - means - factorials
    sums = np.minimum(np.cumsum(np.exp(logs), axis=2), 1.0)
    sums[:, :, -1] = 1.0  # what rounding left below it
    exponents = [max(different - 1, 0).bit_length() for different in range(257)]
    table = torch.from_numpy(sums + np.arange(256)[:, None])
    return table.to(device), torch.tensor(exponents, device=device)
