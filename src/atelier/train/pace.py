"""How fast a run goes, told at every print."""

from __future__ import annotations

import time

import torch

from atelier.data.stream import SampleStream


class Pace:
    """Seconds per step and the share of them spent waiting for data, validation and saving left out."""

    def __init__(self, iteration: int, data: SampleStream) -> None:
        self._data = data
        self._iteration = iteration
        self._start = time.monotonic()
        self._waited = data.wait_s
        self._pause = 0.0
        self._pause_start = 0.0

    def paused(self) -> Pace:
        """A context whose time does not count."""
        return self

    def __enter__(self) -> None:
        self._pause_start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._pause += time.monotonic() - self._pause_start

    def take(self, iteration: int) -> tuple[int, float, float]:
        """Steps, seconds and seconds of waiting since the last call."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        steps = max(iteration - self._iteration, 1)
        seconds = max(now - self._start - self._pause, 1e-9)
        waiting = self._data.wait_s - self._waited
        self._iteration, self._start, self._pause, self._waited = iteration, now, 0.0, self._data.wait_s
        return steps, seconds, waiting
