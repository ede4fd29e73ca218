"""A film through a function: decoding, the function and encoding at the same time, and going on after a stop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from atelier.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atelier.images.video import FrameSource, VideoFrame
    from atelier.images.video_targets import FrameTarget

S = TypeVar("S")

_AHEAD = 3
"""Frames waiting between two stages: bounds memory, and evens out frames that take longer."""


@dataclass
class FilmReport:
    """What became of a film, and where its time went (each stage has a thread of its own).

    Attributes:
        frames: of the whole film.
        resumed: of them taken over from an earlier run.
        seconds: by the clock.
        decoding, processing, encoding: seconds in which that stage was busy.
        joining: seconds for putting the segments together.
        left_out: streams that the output cannot hold.
    """

    frames: int = 0
    resumed: int = 0
    seconds: float = 0.0
    decoding: float = 0.0
    processing: float = 0.0
    encoding: float = 0.0
    joining: float = 0.0
    left_out: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        taken = f" ({self.resumed} taken over)" if self.resumed else ""
        total = max(self.seconds, 1e-9)
        rate = (self.frames - self.resumed) / total
        shares = ", ".join(
            f"{name} {100 * seconds / total:.0f} %"
            for name, seconds in (
                ("decoding", self.decoding),
                ("processing", self.processing),
                ("encoding", self.encoding),
                ("joining", self.joining),
            )
        )
        lines = [f"{self.frames} frames{taken} in {self.seconds:.1f} s, {rate:.2f} frames/s; busy: {shares}"]
        lines += [f"not in the output: {stream}" for stream in self.left_out]
        return "\n".join(lines)


def transform_film(
    source: FrameSource,
    target: FrameTarget,
    process: Callable[[VideoFrame, S], tuple[NDArray[Any], S]],
    state: S,
    *,
    save_state: Callable[[S], bytes] | None = None,
    load_state: Callable[[bytes], S] | None = None,
    title: str = "Film",
    quiet: bool = False,
) -> FilmReport:
    """Send every frame of ``source`` through ``process`` into ``target``.

    ``process(frame, state)`` runs in the calling thread, in order, and gives the picture (``H×W×3``, of the size
    that ``target`` was opened with) and the state for the next frame. What ``save_state`` makes of the state is
    stored with each finished segment; a run that goes on begins with ``load_state`` of it, so the result equals
    that of a run that was never stopped, provided that the state holds all that ``process`` remembers. Memory
    does not grow with the length.

    On any error (also Ctrl-C) frames that are processed are still encoded, then the unfinished segment is taken
    away; finished ones stay.

    Args:
        state: for the first frame of the film.
        save_state: None: nothing has to be remembered.
        load_state: the inverse of ``save_state``.
        title: of the progress bar.
        quiet: show no progress.

    Raises:
        UserError: from reading or writing; whatever ``process`` raises.
    """
    began = time.monotonic()
    report = FilmReport(resumed=target.frames_done, left_out=list(target.left_out))
    kept = target.state
    if kept is not None and load_state is not None:
        state = load_state(kept)
    stop = threading.Event()
    decoded: queue.Queue[Any] = queue.Queue(_AHEAD)
    processed: queue.Queue[Any] = queue.Queue(_AHEAD)
    failures: list[BaseException] = []

    def decode() -> None:
        last: Any = None
        try:
            for frame in _timed(source.frames(target_start), report, "decoding"):
                if not _put(decoded, frame, stop):
                    return
        except BaseException as error:
            last = error
        _put(decoded, last, stop)

    def encode() -> None:
        try:
            while (item := _get(processed, stop)) is not None:
                pixels, frame, saved = item
                start = time.monotonic()
                if target.write(pixels, frame):
                    target.end_segment(saved)
                report.encoding += time.monotonic() - start
                bar.advance()
        except BaseException as error:
            failures.append(error)
            stop.set()

    target_start = report.frames = target.frames_done
    total = source.facts.frames
    with progress(title, total, "frames", done=report.frames, quiet=quiet) as bar:
        decoder, encoder = (
            threading.Thread(target=work, name=work.__name__, daemon=True) for work in (decode, encode)
        )
        decoder.start()
        encoder.start()
        finished = False
        broken: BaseException | None = None
        try:
            while (item := _get(decoded, stop)) is not None:
                if isinstance(item, BaseException):
                    broken = item
                    break
                start = time.monotonic()
                pixels, state = process(item, state)
                report.processing += time.monotonic() - start
                ends = target.segment is not None and (item.index + 1) % target.segment == 0
                saved = save_state(state) if save_state is not None and ends else None
                if not _put(processed, (pixels, item, saved), stop):
                    break
                report.frames += 1
                del item, pixels, saved
        except BaseException as error:
            # Ctrl-C too: what is processed is encoded first. A second one is not asked to wait.
            broken = error
        try:
            if _put(processed, None, stop):
                encoder.join()
                finished = not stop.is_set()
        finally:
            # The decoder may be waiting for room that nobody makes any more.
            stop.set()
            encoder.join()
            decoder.join()
            if failures or broken is not None or not finished:
                target.abandon()
    for failure in (*failures, broken):
        if failure is not None:
            raise failure
    start = time.monotonic()
    target.finish()
    report.joining = time.monotonic() - start
    report.seconds = time.monotonic() - began
    return report


def _timed(frames: Iterator[VideoFrame], report: FilmReport, stage: str) -> Iterator[VideoFrame]:
    while True:
        start = time.monotonic()
        frame = next(frames, None)
        setattr(report, stage, getattr(report, stage) + time.monotonic() - start)
        if frame is None:
            return
        yield frame


def _put(where: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    """Whether ``item`` found a place before everything stopped."""
    while not stop.is_set():
        try:
            where.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _get(where: queue.Queue[Any], stop: threading.Event) -> Any:
    """The next item; None where everything stopped."""
    while not stop.is_set():
        try:
            return where.get(timeout=0.1)
        except queue.Empty:
            continue
    return None
