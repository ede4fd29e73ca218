"""A film's frames with what can be known of them before they are coloured: lightness, motion, cuts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from atelier.colorize.coloured import ColorizeOptions
from atelier.colorize.flow import FlowBackend
from atelier.colorize.reference_files import ReferenceFile
from atelier.colorize.scenes import SceneRule, thumbnail
from atelier.colorize.state import ClipFlow
from atelier.colorize.working import WorkingSize, lightness
from atelier.errors import UserError
from atelier.images.files import image_shape
from atelier.images.video import FrameSource, VideoFrame

#: What colours a film of one frame.
STILL = "--mode exemplar colours it from the references alone"


@dataclass
class Look:
    """What is known of a frame before it is coloured."""

    whole: Tensor
    work: Tensor
    small: Tensor
    motion: Future[tuple[ClipFlow | None, bool]]


class Busy:
    """Seconds in which each stage worked, added up from several threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, began: float) -> float:
        """Count the time since ``began`` and give the present."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - began
        return now


class Ahead:
    """The source, with each frame's lightness and motion found while the frames before it are coloured.

    Motion is found ahead where it depends on lightness alone and remembers nothing; whether a scene begins always is.
    """

    path: Path | None = None

    def __init__(
        self,
        source: FrameSource,
        flow: FlowBackend,
        size: WorkingSize,
        rule: SceneRule,
        options: ColorizeOptions,
        device: torch.device,
        busy: Busy,
        named: tuple[int, str],
        before: tuple[Tensor | None, Tensor | None],
    ) -> None:
        self._source, self.facts = source, source.facts
        self._flow, self._size, self._rule, self._device, self._busy = flow, size, rule, device, busy
        self._finds_flow = (
            options.mode != "exemplar" and not flow.needs_colour and flow.initial_state() is None
        )
        self._mode, self._named = options.mode, named
        self._work, self._small = before
        self._looks: dict[int, Look] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="motion")

    def frames(self, start: int = 0) -> Iterator[VideoFrame]:
        """Frames of the source; each can be taken once it was given."""
        count = start
        for frame in self._source.frames(start):
            self._looks[frame.index] = self._look(frame)
            count = frame.index + 1
            yield frame
        if count == 1 and self._mode != "exemplar":
            raise _one_frame(self.facts.name, STILL)
        if self._named[0] >= count:
            raise _beyond(self.facts.name, count, self._named)

    def take(self, index: int) -> Look:
        """What is known of frame ``index``; forgotten here."""
        return self._looks.pop(index)

    def fingerprint(self) -> str | None:
        """The source's."""
        return self._source.fingerprint()

    def close(self) -> None:
        """The source is closed by who opened it."""

    def stop(self) -> None:
        """Wait for what is under way, drop what is not."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @torch.no_grad()
    def _look(self, frame: VideoFrame) -> Look:
        began = time.perf_counter()
        whole = lightness(frame.pixels)
        small = thumbnail(whole)
        whole = whole.to(self._device)
        work = self._size.shrink(whole)
        self._busy.add("lightness", began)
        motion = self._pool.submit(self._motion, frame.index, work, self._work, small, self._small)
        self._work, self._small = work, small
        return Look(whole, work, small, motion)

    @torch.no_grad()
    def _motion(
        self, index: int, work: Tensor, last_work: Tensor | None, small: Tensor, last_small: Tensor | None
    ) -> tuple[ClipFlow | None, bool]:
        """(motion, whether a scene begins)."""
        if last_work is None or last_small is None:
            return None, False
        began = time.perf_counter()
        cut = self._rule.is_cut(small, last_small, index)
        began = self._busy.add("scenes", began)
        if not self._finds_flow:
            return None, cut
        found = self._flow.estimate(work, last_work)
        self._busy.add("flow", began)
        return ClipFlow(found.flow[:, None], found.confidence[:, None]), cut


def last_named(references: Sequence[ReferenceFile], rule: SceneRule) -> tuple[int, str]:
    """(the highest frame number that anybody named, by what); -1 where none was."""
    named = [(file.frame, f"the reference {file}") for file in references if file.frame is not None]
    return max([*named, (rule.last_named, "--scene-cut")], key=lambda entry: entry[0])


def _beyond(film: str, count: int, named: tuple[int, str]) -> UserError:
    return UserError(f"{named[1]} names frame {named[0]}, but {film} has {count} frames, 0 to {count - 1}")


def _one_frame(film: str, remedy: str) -> UserError:
    return UserError(f"{film} has one frame: there is no motion to carry colours along; {remedy}")


def check_source(
    source: FrameSource, options: ColorizeOptions, named: tuple[int, str], *, remedy: str = STILL
) -> None:
    """What can be known of the frames without decoding them; ``remedy`` is the advice for a film of one frame."""
    files: Sequence[Path] = getattr(source, "files", ())
    facts = source.facts
    for path in files:
        height, width, _ = image_shape(path)
        if (height, width) != (facts.height, facts.width):
            raise UserError(
                f"{path} is {width}x{height}, the first frame ({files[0].name}) is "
                f"{facts.width}x{facts.height}; all frames of a film have one size"
            )
    count = facts.frames
    if count is None or (source.path is None and not files):
        return
    # What a container says of its length is an estimate; counting packets is quick and exact.
    if source.path is not None and (count <= 2 or named[0] >= 0.9 * count):
        count = _packets(source)
    if count == 1 and options.mode != "exemplar":
        raise _one_frame(facts.name, remedy)
    if named[0] >= count:
        raise _beyond(facts.name, count, named)


def _packets(source: FrameSource) -> int:
    import av

    with av.open(str(source.path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        return sum(1 for packet in container.demux(stream) if packet.size and packet.pts is not None)
