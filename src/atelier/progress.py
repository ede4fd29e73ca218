"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What long-running functions report to."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more pieces as done; ``note`` replaces the short remark at the end of the bar."""


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        return None


class _Lines:
    """One plain line every few seconds; used where output is a file or a pipe."""

    def __init__(
        self, title: str, total: int | None, unit: str, stream: TextIO, done: int, every_s: float = 10.0
    ) -> None:
        self.title, self.total, self.unit, self.stream, self.every_s = title, total, unit, stream, every_s
        self.done = self.first = done
        self.start = self.last = time.monotonic()
        self.note = ""

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last >= self.every_s:
            self.last = now
            self.write(now)

    def write(self, now: float) -> None:
        elapsed = max(now - self.start, 1e-9)
        rate = (self.done - self.first) / elapsed
        tail = f" · {self.note}" if self.note else ""
        count, time_left = str(self.done), ""
        if self.total is not None:
            left = max(self.total - self.done, 0) / rate if rate else 0.0
            count, time_left = f"{self.done}/{self.total}", f", {left:.0f} s left"
        line = f"{self.title}: {count} {self.unit} ({rate:.1f} {self.unit}/s{time_left}){tail}"
        print(line, file=self.stream, flush=True)


@contextmanager
def progress(
    title: str,
    total: int | None,
    unit: str = "pictures",
    *,
    done: int = 0,
    quiet: bool = False,
    stream: TextIO | None = None,
) -> Iterator[Progress]:
    """Show progress of ``total`` pieces of work, of which ``done`` are finished already.

    A live bar appears when ``stream`` (default: standard error) is a terminal; otherwise plain lines, at most one
    per ten seconds. ``total`` is None where it cannot be known (a pipe): count and rate are shown. ``quiet`` shows
    nothing (ranks other than 0, tests).
    """
    stream = stream if stream is not None else sys.stderr
    if quiet or (total is not None and total <= 0):
        yield _Silent()
        return
    if not stream.isatty():
        yield _Lines(title, total, unit, stream, done)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    start = time.monotonic()
    with RichProgress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task(title, total=total, completed=done, rate="", note="")

        class _Bar:
            finished = 0

            def advance(self, count: int = 1, note: str = "") -> None:
                self.finished += count
                rate = self.finished / max(time.monotonic() - start, 1e-9)
                bar.update(task, advance=count, rate=f"{rate:.1f} {unit}/s")
                if note:
                    bar.update(task, note=note)

        yield _Bar()


def track(
    items: Iterable[T], title: str, total: int, unit: str = "pictures", *, quiet: bool = False
) -> Iterator[T]:
    """Iterate over ``items`` while showing progress."""
    with progress(title, total, unit, quiet=quiet) as bar:
        for item in items:
            yield item
            bar.advance()
