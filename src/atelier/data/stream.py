"""What the trainer asks of training data, whatever a sample holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self


class StepBatch(Protocol):
    """Samples of one step on the device; what is in them is between the data set and the objective."""

    @property
    def samples(self) -> Sequence[str]:
        """One name each, for messages."""

    @property
    def numbers(self) -> Sequence[int]:
        """Each sample's place in the step's batch over all ranks (``Streams(seed, step, number)``)."""

    def __len__(self) -> int:
        """How many samples."""

    def split(self, parts: int) -> Sequence[Self]:
        """``parts`` equal micro-batches in order."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same samples after ``Tensor.to`` (device, memory format)."""


class SampleStream(Protocol):
    """This rank's share of every training step. Sample k of step s is a pure function of (seed, s, k)."""

    wait_s: float
    """Seconds spent in waiting for batches so far."""

    @property
    def fingerprint(self) -> str:
        """Digest of what is trained on."""

    def __len__(self) -> int:
        """Entries of an epoch (pictures, clips)."""

    def batches(self, first_step: int, last_step: int) -> Iterator[StepBatch]:
        """Batches of steps ``first_step`` (from 1) to ``last_step``, both included."""

    def close(self) -> None:
        """End the workers and let go of files."""
