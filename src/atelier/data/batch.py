"""What a training step gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        lq, gt: ``N x C x H x W`` float32 on the device; gt in [0, 1], lq too unless its degradation leaves it.
        samples: one ``file @ y,x`` string each, for messages.
        numbers: each sample's place in the step's batch over all ranks (``Streams(seed, step, number)``).
    """

    lq: Tensor
    gt: Tensor
    samples: list[str]
    numbers: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def split(self, parts: int) -> list[Batch]:
        """``parts`` equal micro-batches in order; raises ValueError where the samples do not divide."""
        if parts < 1 or len(self) % parts:
            raise ValueError(f"{len(self)} samples cannot be split into {parts} equal parts")
        size = len(self) // parts
        return [
            Batch(
                self.lq[k : k + size],
                self.gt[k : k + size],
                self.samples[k : k + size],
                self.numbers[k : k + size],
            )
            for k in range(0, len(self), size)
        ]

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """The same samples after ``Tensor.to`` (device, memory format)."""
        return Batch(self.lq.to(*args, **kwargs), self.gt.to(*args, **kwargs), self.samples, self.numbers)
