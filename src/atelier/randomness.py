"""Random numbers as pure functions of where they are used.

A stream is named by (seed, step, sample, stage). Nothing is drawn from shared state, so resuming, the number of
workers or ranks, and adding another stage never shift the numbers of any other place (ARCHITECTURE, "Exactness").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


def _digest(seed: int, step: int, sample: int, stage: str, size: int) -> bytes:
    label = f"{seed}/{step}/{sample}/{stage}".encode()
    return hashlib.blake2b(label, digest_size=size).digest()


@dataclass(frozen=True)
class Streams:
    """All random streams of one sample: ``streams("flip")`` is always the same generator afresh.

    Attributes:
        seed: the run's ``manual_seed``.
        step: optimiser step, counted from 1 in training; 0 for validation.
        sample: index inside the global batch of that step (0-based), or the picture's index in validation.
    """

    seed: int
    step: int
    sample: int

    def __call__(self, stage: str) -> np.random.Generator:
        """A fresh NumPy generator for the named stage (Philox, keyed by a hash of all four names)."""
        key = int.from_bytes(_digest(self.seed, self.step, self.sample, stage, 16), "little")
        return np.random.Generator(np.random.Philox(key=key))

    def torch_seed(self, stage: str) -> int:
        """A seed in [0, 2**63) for a ``torch.Generator`` on any device."""
        return int.from_bytes(_digest(self.seed, self.step, self.sample, stage, 8), "little") >> 1
