"""The sampling plan: which picture, crop and flips sample k of step s is. A pure function of (seed, s, k).

Nothing is drawn from shared state, so the number of workers and ranks, prefetching and resuming change nothing, and
continuing a run means nothing but asking for the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from atelier.randomness import Streams

Order = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class SampleDraw:
    """One sample.

    Attributes:
        picture: index of the picture.
        y, x: top left corner of the crop in ``lq`` pixels; ``gt`` is cut at ``(y * scale, x * scale)``, so both
            crops show the same place exactly.
        hflip, vflip, transpose: what is done to the crop, in this order.
    """

    picture: int
    y: int
    x: int
    hflip: bool
    vflip: bool
    transpose: bool


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Order:
    """The permutation of ``range(count)`` in which epoch ``epoch`` visits the pictures.

    Pictures are sorted by 64 random bits each. NumPy guarantees the raw bits of its generators for good, but not
    how ``permutation`` uses them, and an order must survive an update of NumPy between stop and resume. Sorting
    100,000 pictures takes some 10 ms once an epoch, which a keyed cipher (the O(1) alternative) would not earn back.
    A step can straddle two epochs; hence more than one order is kept.
    """
    bits = Streams(seed, 0, epoch)("epoch order").bit_generator.random_raw(count)
    return np.argsort(bits, kind="stable")


class SamplePlan:
    """The plan of a run.

    Args:
        seed: the run's ``manual_seed``.
        global_batch: samples per step over all ranks.
        lq_sizes: ``(h, w)`` of every whole ``lq`` picture (of clean ones: gt sides divided by scale, rounded down).
        lq_size: side of the ``lq`` crop. Sides below it start at 0 and are padded by the reader.
        use_hflip: mirror left-right with probability 1/2.
        use_rot: mirror top-bottom and transpose, each with probability 1/2 (with ``use_hflip``: all 8 positions).
        pool: 0, or: every sample is one of the ``pool`` before its step instead of its own (see :meth:`origin`).
    """

    def __init__(
        self,
        seed: int,
        global_batch: int,
        lq_sizes: Sequence[tuple[int, int]],
        *,
        lq_size: int,
        use_hflip: bool = True,
        use_rot: bool = True,
        pool: int = 0,
    ) -> None:
        self.seed, self.global_batch, self.lq_size = seed, global_batch, lq_size
        self.use_hflip, self.use_rot, self.pool = use_hflip, use_rot, pool
        self._sizes = np.asarray(lq_sizes, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._sizes)

    def origin(self, step: int, sample: int) -> tuple[int, int]:
        """The step and sample whose pair sample ``sample`` of step ``step`` is: its own but for a pool.

        Real-ESRGAN's pool hands out pairs of earlier steps. Here the earlier pair is drawn, evenly from the last
        ``pool`` before this step, by the sample's own stream, so nothing is kept and a resumed run does the same.
        Pairs may come twice or never, which the original's pool avoids. While fewer than the drawn number of pairs
        have passed, the sample is its own, as the original's are while its pool fills.
        """
        if not self.pool:
            return step, sample
        age = 1 + int(Streams(self.seed, step, sample)("pool").random() * self.pool)
        number = (step - 1) * self.global_batch - age
        if number < 0:
            return step, sample
        return number // self.global_batch + 1, number % self.global_batch

    def draw(self, step: int, sample: int) -> SampleDraw:
        """Sample ``sample`` (0-based inside the global batch) of step ``step`` (from 1)."""
        epoch, place = divmod((step - 1) * self.global_batch + sample, len(self))
        picture = int(epoch_order(self.seed, epoch, len(self))[place])
        height, width = self._sizes[picture]
        streams = Streams(self.seed, step, sample)
        corner = streams("crop").random(2)
        flips = streams("flip").random(3) < 0.5
        return SampleDraw(
            picture=picture,
            y=_start(corner[0], int(height) - self.lq_size),
            x=_start(corner[1], int(width) - self.lq_size),
            hflip=self.use_hflip and bool(flips[0]),
            vflip=self.use_rot and bool(flips[1]),
            transpose=self.use_rot and bool(flips[2]),
        )


def _start(fraction: float, room: int) -> int:
    """One of the ``room + 1`` places a crop can start at; 0 where the picture is too small."""
    return int(fraction * (room + 1)) if room > 0 else 0
