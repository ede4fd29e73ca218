"""How long the teachers take inside the steps of a run, without making the host wait for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up stretches of work on ``device``.

    On a GPU, work is only queued while the host goes on: its stretches are measured by events on the device's own time
    line and read when :meth:`take` is called, which waits for the last of them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is done inside the block counts."""
        if self._device.type != "cuda":
            start = time.perf_counter()
            try:
                yield
            finally:
                self._seconds += time.perf_counter() - start
            return
        first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        first.record()
        try:
            yield
        finally:
            last.record()
            self._events.append((first, last))

    def take(self) -> float:
        """Seconds since the last call."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(first.elapsed_time(last) for first, last in self._events) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds
