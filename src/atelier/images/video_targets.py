"""Where films go besides video files: numbered pictures and y4m pipes; one way to open any of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from atelier.errors import RunStopped, UserError
from atelier.files import describe_os_error
from atelier.images.video import PIPE, FrameSource, VideoFrame, require_av
from atelier.images.video_colour import FULL, FromRGB, plane_views
from atelier.images.video_encode import Encoding, nominal_rate
from atelier.images.video_frames import is_pattern
from atelier.images.video_pictures import PictureWriter, check_size
from atelier.images.video_segments import VideoWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LAYOUTS = {
    "yuv420p": "420jpeg",
    "yuv422p": "422",
    "yuv444p": "444",
    **{f"yuv{s}p{d}le": f"{s}p{d}" for s in (420, 422, 444) for d in (10, 12, 16)},
}
"""Pixel formats of y4m pipes, and how their headers call them."""


class FrameTarget(Protocol):
    """What films are written to; :class:`VideoWriter` describes the methods."""

    left_out: list[str]

    @property
    def segment(self) -> int | None:
        """Frames of a segment; None where there are none."""

    @property
    def frames_done(self) -> int:
        """The next frame to write has this index."""

    @property
    def state(self) -> bytes | None:
        """What was given with the last finished segment."""

    def write(self, pixels: NDArray[Any], frame: VideoFrame) -> bool:
        """Add a picture; True when :meth:`end_segment` is due."""

    def end_segment(self, state: bytes | None = None) -> None:
        """From here on a stop does not lose what was written."""

    def abandon(self) -> None:
        """Take away what is unfinished."""

    def finish(self) -> None:
        """Make the whole."""


def open_target(
    output: str | Path,
    source: FrameSource,
    size: tuple[int, int],
    encoding: Encoding | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    segment: int = 250,
    overwrite: bool = False,
) -> FrameTarget:
    """Open what ``output`` means: ``-`` (y4m), a pattern ``%06d.png``, a folder (``DIR/`` or one that exists), a film.

    Arguments and errors as for :class:`VideoWriter`; pictures are PNG of the source's depth, 8 or 16 bits.
    """
    name = str(output)
    if name == PIPE:
        return PipeWriter(source, size, encoding or Encoding())
    if is_pattern(name) or name.endswith("/") or Path(name).is_dir():
        return PictureWriter(name, source, size, options=options, segment=segment, overwrite=overwrite)
    return VideoWriter(
        Path(name), source, size, encoding, options=options, segment=segment, overwrite=overwrite
    )


class PipeWriter:
    """A y4m stream on standard output (or ``file``): depth as the source, 4:2:0 unless asked otherwise.

    Odd sizes are allowed. The format has one frame rate and no timestamps. What cannot be sent on is a
    :class:`UserError`, a reader that has left a :class:`RunStopped`.
    """

    segment = None

    def __init__(
        self, source: FrameSource, size: tuple[int, int], encoding: Encoding, file: BinaryIO | None = None
    ) -> None:
        require_av("writing y4m")
        facts = source.facts
        depth = next((d for d in (8, 10, 12) if d >= facts.bits), 16)
        layout = (
            f"yuv420p{'' if depth == 8 else f'{depth}le'}" if encoding.pix_fmt == "auto" else encoding.pix_fmt
        )
        if layout not in _LAYOUTS:
            raise UserError(f"y4m pipes hold {', '.join(_LAYOUTS)}, not {layout}")
        self._is_standard_output = file is None
        self._file = file if file is not None else sys.stdout.buffer
        self._size, self._convert = size, FromRGB(layout, facts.colour)
        rate, aspect = nominal_rate(facts), facts.sample_aspect
        range_ = "FULL" if facts.colour.range == FULL else "LIMITED"
        self._header: bytes | None = (
            f"YUV4MPEG2 W{size[0]} H{size[1]} F{rate.numerator}:{rate.denominator} Ip "
            f"A{aspect.numerator}:{aspect.denominator} C{_LAYOUTS[layout]} XCOLORRANGE={range_}\n"
        ).encode()
        self.left_out: list[str] = [str(each) for each in facts.streams]
        self.frames_done, self.state = 0, None

    def write(self, pixels: NDArray[Any], frame: VideoFrame) -> bool:
        """Send the picture on; there are no segments."""
        check_size(pixels, self._size)
        converted = self._convert(pixels)
        with self._sending(f"at frame {frame.index}"):
            if self._header is not None:
                self._file.write(self._header)
                self._header = None
            self._file.write(b"FRAME\n")
            for view in plane_views(converted):
                self._file.write(np.ascontiguousarray(view).tobytes())
        return False

    def end_segment(self, state: bytes | None = None) -> None:
        """Nothing can be kept of a pipe."""

    def abandon(self) -> None:
        """Nothing can be taken back from a pipe."""

    def finish(self) -> None:
        """Everything has been sent on."""
        with self._sending("in the last frames"):
            self._file.flush()

    @contextmanager
    def _sending(self, place: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._is_standard_output:
                # What is left in the buffer would fail once more when the program ends, with words of Python's own.
                with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
                    os.dup2(nowhere.fileno(), self._file.fileno())
            if isinstance(error, BrokenPipeError):
                raise RunStopped(f"whoever read the pipe has gone; stopped {place}") from error
            raise UserError(
                f"{describe_os_error(error, Path('standard output'))}; stopped {place}"
            ) from error
