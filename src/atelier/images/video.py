"""Films as streams of RGB frames: facts, exact timestamps, upright pixels, one frame in memory at a time."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from atelier.errors import UserError
from atelier.images.video_colour import Colour, ToRGB, Turn, turn_of
from atelier.images.video_damage import first_missing

if TYPE_CHECKING:
    from types import ModuleType

    from av import VideoFrame as AvFrame
    from av.container import InputContainer
    from numpy.typing import NDArray

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".nut", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob",
    ".wmv", ".flv", ".3gp", ".ogv", ".mxf", ".y4m",
)  # fmt: skip
"""Names that are taken for films."""

PIPE = "-"
"""Standard input or output, as y4m."""


@dataclass(frozen=True)
class StreamFacts:
    """A stream beside the film's pictures: its index in the file, "audio", "subtitle", ..., codec and language."""

    index: int
    kind: str
    codec: str
    language: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.index} ({self.codec}{', ' + self.language if self.language else ''})"


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a film before it is read to its end. Sizes and aspect are those of the upright picture.

    Attributes:
        name: for messages.
        width, height: pixels.
        time_base: seconds of one step of ``pts``.
        rate: average frames a second; None where the container does not say.
        frames: estimate of the number of frames; None where nothing is known (pipes).
        bits: per component as stored; pixels are uint8 up to 8 and uint16 above.
        pixel_format: FFmpeg's name.
        colour: as used for decoding, with everything settled that the file leaves open.
        said: as the file says it.
        sample_aspect: width over height of one pixel.
        turn: what made the pictures upright.
        interlaced: the first frame says so.
        streams: everything else in the file.
    """

    name: str
    width: int
    height: int
    time_base: Fraction
    rate: Fraction | None
    frames: int | None
    bits: int = 8
    pixel_format: str = "rgb24"
    colour: Colour = field(default_factory=Colour)
    said: Colour = field(default_factory=Colour)
    sample_aspect: Fraction = Fraction(1)
    turn: Turn = field(default_factory=Turn)
    interlaced: bool = False
    streams: tuple[StreamFacts, ...] = ()

    @property
    def caution(self) -> str | None:
        """What somebody who works on the frames should hear before."""
        if not self.interlaced:
            return None
        return (
            f"warning: {self.name} is interlaced: a frame holds the lines of two moments, and the combs between "
            "them are taken for edges; deinterlace it first, with ffmpeg's bwdif, say"
        )


@dataclass(frozen=True)
class VideoFrame:
    """One picture of a film.

    Attributes:
        pixels: ``H×W×3`` RGB, uint8 or uint16, upright, C-contiguous.
        pts: presentation time in steps of ``time_base``; strictly increasing over a film.
        duration: in the same steps; 0 where unknown.
        index: 0, 1, ... over the film.
        key: a key frame of the source.
    """

    pixels: NDArray[Any]
    pts: int
    time_base: Fraction
    index: int
    duration: int = 0
    key: bool = False

    @property
    def seconds(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)


class FrameSource(Protocol):
    """What films are read from: a video file, a y4m pipe, or numbered pictures."""

    facts: VideoFacts
    path: Path | None
    """The video file that audio and subtitles are copied from; None where there is none."""

    def frames(self, start: int = 0) -> Iterator[VideoFrame]:
        """Frames in order from index ``start`` on; can be asked for once."""

    def fingerprint(self) -> str | None:
        """Changes when the content does; None where it cannot be known before reading (pipes)."""

    def close(self) -> None:
        """Give the file back."""


def require_av(purpose: str) -> ModuleType:
    """PyAV, or a :class:`UserError` that says how to get it.

    Args:
        purpose: beginning of the message, such as "reading film.mp4".
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"{purpose} needs PyAV: pip install atelier[video]") from error
    return av


def open_video(path: str | Path, *, rate: Fraction | None = None, allow_damaged: bool = False) -> FrameSource:
    """Open a film: a video file, ``-`` (y4m on standard input), a folder of frames, or a pattern ``%06d.png``.

    Args:
        rate: frames a second of pictures, which say nothing themselves (default 25).
        allow_damaged: take what decodes of a file that is cut off or damaged.

    Raises:
        UserError: no such file, no frames, not a film, cut off (unless allowed), or PyAV is missing.
    """
    from atelier.images.video_frames import PictureReader, is_pattern

    name = str(path)
    if is_pattern(name) or Path(name).is_dir():
        return PictureReader(name, rate=rate or Fraction(25))
    if rate is not None:
        raise UserError(f"{name} has timestamps of its own; a rate is for folders and patterns of pictures")
    return VideoReader(name, allow_damaged=allow_damaged)


class VideoReader:
    """A video file or a y4m pipe (``-``), read once from its first frame to its last.

    Memory does not grow with the length. The best video stream is taken (no cover pictures).

    Raises:
        UserError: see :func:`open_video`.
    """

    def __init__(self, path: str, *, allow_damaged: bool = False) -> None:
        av = require_av(f"reading {path}")
        self.name = "standard input" if path == PIPE else path
        self.path = None if path == PIPE else Path(path)
        self.allow_damaged = allow_damaged
        self.damaged: list[int] = []
        """Indexes of frames that were left out or follow damage, with ``allow_damaged``."""
        self._av = av
        self._pipe: _Unseekable | None = None
        self._container = self._open(path)
        try:
            pictures = [s for s in self._container.streams.video if not _is_cover(s)]
            if not pictures:
                raise UserError(f"{self.name} has no video stream{_others(self._container)}")
            self._stream: Any = self._container.streams.best("video")
            if self._stream not in pictures:
                self._stream = pictures[0]
            if self._stream.codec_context is None:
                raise UserError(f"{self.name}: nothing here can decode its video")
            self._stream.codec_context.thread_type = "AUTO"
            missing = None if allow_damaged or self.path is None else first_missing(self.path, self._stream)
            if missing is not None:
                raise UserError(f"{self.name} is cut off: {missing}; --allow-damaged takes what is there")
            self._decoded = self._decode()
            first = next(self._decoded, None)
            if first is None:
                raise UserError(f"{self.name} has no frame that can be decoded")
            self._first: tuple[AvFrame, int] | None = first
            self.facts = self._facts(first[0])
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._container.close()

    def fingerprint(self) -> str | None:
        """SHA-256 over the size and eighteen samples of the bytes; None for a pipe."""
        return None if self.path is None else sample_file(self.path)

    def frames(self, start: int = 0) -> Iterator[VideoFrame]:
        """Frames from index ``start`` on. Those before are decoded and dropped: seeking is not exact everywhere."""
        if self._first is None:
            raise ValueError("the frames of a reader can be asked for once")
        first, self._first = self._first, None
        to_rgb = ToRGB(self.facts.colour)
        stored = (first[0].width, first[0].height, first[0].format.name)
        last: int | None = None
        step = self._step()
        # One at a time: a chain would keep the first frame alive for the whole film.
        current: tuple[AvFrame, int] | None = first
        index = 0
        while current is not None:
            frame, _ = current
            if (frame.width, frame.height) != stored[:2]:
                raise UserError(
                    f"{self.name}: frame {index} is {frame.width}x{frame.height}, those before are "
                    f"{stored[0]}x{stored[1]}; films that change size are not supported"
                )
            pts = frame.pts
            if pts is None or (last is not None and pts <= last):
                # Files without timestamps (raw streams), or with two frames at one moment.
                pts = 0 if last is None else last + (step if frame.pts is None else 1)
            last = pts
            if index >= start:
                pixels = self.facts.turn(to_rgb(frame))
                yield VideoFrame(
                    pixels, pts, self.facts.time_base, index, frame.duration or 0, bool(frame.key_frame)
                )
            del frame
            index += 1
            current = next(self._decoded, None)

    def _open(self, path: str) -> Any:
        try:
            if path == PIPE:
                self._pipe = _Unseekable(sys.stdin.buffer)
                return self._av.open(self._pipe, format="yuv4mpegpipe")
            return self._av.open(path, metadata_errors="replace")
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist") from error
        except self._av.EOFError as error:
            raise UserError(f"{self.name} has no frames: it ends after its header") from error
        except self._av.FFmpegError as error:
            known = "y4m data" if path == PIPE else "a film that FFmpeg can read, or it is cut off"
            raise UserError(f"{self.name} is not {known} ({error.strerror or error})") from error

    def _decode(self) -> Iterator[tuple[AvFrame, int]]:
        """Decoded frames with their index; damage is an error that names the frame, or is noted where allowed."""
        index = 0
        demuxed = self._container.demux(self._stream)
        while True:
            try:
                packet = next(demuxed, None)
                if packet is None:
                    self._require_whole_end(index)
                    return
                if packet.size and self._pipe is not None:
                    self._pipe.frame = packet.size
                if packet.is_corrupt:
                    self._damage(index, "its data is incomplete")
                decoded = packet.decode()
            except self._av.FFmpegError as error:
                if isinstance(error, self._av.EOFError):
                    self._require_whole_end(index)
                    return
                self._damage(index, str(error.strerror or error))
                if not isinstance(error, self._av.InvalidDataError):
                    return
                continue
            for frame in cast("list[AvFrame]", decoded):
                if frame.is_corrupt:
                    self._damage(index, "its data is damaged")
                yield frame, index
                index += 1
            del decoded, packet

    def _require_whole_end(self, index: int) -> None:
        # FFmpeg drops the beginning of a frame at the end of a pipe without a word.
        if self._pipe is not None and not self._pipe.ends_whole():
            self._damage(index, "the data ends within it")

    def _damage(self, index: int, reason: str) -> None:
        if not self.allow_damaged:
            raise UserError(
                f"{self.name}: frame {index} cannot be decoded ({reason}); the frames before it are fine; "
                "--allow-damaged takes what decodes"
            )
        if not self.damaged or self.damaged[-1] != index:
            self.damaged.append(index)

    def _step(self) -> int:
        rate = self.facts.rate or Fraction(25)
        return max(round(1 / (rate * self.facts.time_base)), 1)

    def _facts(self, frame: AvFrame) -> VideoFacts:
        stream = self._stream
        matrix = next((bytes(d) for d in cast(Any, frame.side_data) if d.type.name == "DISPLAYMATRIX"), None)
        turn = turn_of(matrix)
        width, height = (frame.height, frame.width) if turn.transpose else (frame.width, frame.height)
        aspect = Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
        said = Colour(
            int(frame.colorspace),
            int(frame.color_range) if not frame.format.name.startswith("yuvj") else 2,
            int(frame.color_primaries),
            int(frame.color_trc),
        )
        time_base = stream.time_base or Fraction(1, 90000)
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        try:
            # By the lines as they were encoded: turning a picture changes nothing of its colours.
            settled = said.settled(frame.height)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        return VideoFacts(
            name=self.name,
            width=width,
            height=height,
            time_base=time_base,
            rate=Fraction(rate) if rate else None,
            frames=self._estimate(rate),
            bits=frame.format.components[0].bits,
            pixel_format=frame.format.name,
            colour=settled,
            said=said,
            sample_aspect=(1 / aspect if turn.transpose else aspect) if aspect > 0 else Fraction(1),
            turn=turn,
            interlaced=bool(frame.interlaced_frame),
            streams=tuple(
                StreamFacts(
                    s.index,
                    s.type,
                    s.codec_context.name if s.codec_context is not None else "no codec",
                    s.metadata.get("language", ""),
                )
                for s in self._container.streams
                if s is not stream
            ),
        )

    def _estimate(self, rate: Fraction | None) -> int | None:
        length: Fraction | None = None
        if self._stream.frames:
            return int(self._stream.frames)
        if not rate or self.path is None:
            return None
        if self._stream.duration and self._stream.time_base:
            length = self._stream.duration * self._stream.time_base
        elif self._container.duration:
            length = Fraction(self._container.duration, int(self._av.time_base))
        return None if length is None else round(length * rate)


def sample_file(path: Path) -> str:
    """SHA-256 over the size of a file, its first and last MiB and sixteen blocks between; quick for any size."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place, length in [
            (0, 1 << 20),
            *((size * k // 17, 1 << 16) for k in range(1, 17)),
            (size - (1 << 20), 1 << 20),
        ]:
            file.seek(max(place, 0))
            digest.update(file.read(length))
    return digest.hexdigest()


_FRAME_LINE = 128
"""Bytes that the line before a frame of y4m has at most, as FFmpeg reads it, and some more."""


class _Unseekable:
    """A pipe as PyAV wants it: without the ``seek`` that standard input claims to have."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self.frame = 0
        """Bytes of a y4m frame after its line; 0: not known yet."""

    def read(self, count: int) -> bytes:
        data = bytes(self._file.read(count))
        self._tail.append(data)
        self._kept += len(data)
        while self.frame and self._kept - len(self._tail[0]) > self.frame + _FRAME_LINE:
            self._kept -= len(self._tail.popleft())
        return data

    def ends_whole(self) -> bool:
        """Whether what was read ends with a whole frame of y4m: a line FRAME and its bytes."""
        before = b"".join(self._tail)[: -self.frame] if self.frame else b""
        return not self.frame or re.search(rb"FRAME( [^\n]*)?\n\Z", before) is not None


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in stream.disposition.name if stream.disposition else False


def _others(container: InputContainer) -> str:
    kinds = [s.type for s in container.streams]
    return f", only {', '.join(kinds)}" if kinds else ""
