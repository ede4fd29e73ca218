"""Where films go besides video files: numbered pictures and y4m pipes; one way to open any of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from atelier.errors import RunStopped, UserError
from atelier.files import require_writable
from atelier.images.files import write_image
from atelier.images.video import PIPE, FrameSource, VideoFrame, require_av
from atelier.images.video_colour import FULL, FromRGB, plane_views
from atelier.images.video_encode import Encoding, nominal_rate
from atelier.images.video_frames import is_pattern, number_in, numbered
from atelier.images.video_ledger import Ledger
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


def picture_names(output: str, source: str, files: Sequence[Path]) -> Callable[[int], Path]:
    """Where the picture of a frame goes, by its index.

    In a folder it has the name of the picture it was made of, as PNG, or six digits where a film is the source.
    A pattern counts from 0, or from the first number of a pattern that is the source.

    Args:
        output: a pattern or a folder.
        source: the name by which the frames were opened.
        files: the source's pictures; none where it is a film.
    """
    if is_pattern(output):
        first = number_in(source, files[0]) if files and is_pattern(source) else None
        return lambda index: numbered(output, (first or 0) + index)
    folder = Path(output)
    if not files:
        return lambda index: numbered(str(folder / "%06d.png"), index)
    names = [path.stem for path in files]
    if len({name.casefold() for name in names}) < len(names):
        names = [path.name for path in files]
    return lambda index: folder / f"{names[index]}.png"


def notes_of_pictures(output: str) -> Path:
    """Where a run that writes pictures to ``output`` notes what is finished; gone once all is."""
    path = Path(output) if is_pattern(output) else Path(output) / "frames"
    return path.parent / f".atelier-{path.name.replace('%', '_')}.parts"


class PictureWriter:
    """Pictures of a pattern or in a folder, named by :func:`picture_names`.

    They appear whole under their names; what has been finished is noted in ``.atelier-….parts/`` beside them.

    Raises:
        UserError: a pattern without the number in the file's name, a folder that cannot be written, or other work.
    """

    def __init__(
        self,
        output: str,
        source: FrameSource,
        size: tuple[int, int],
        *,
        options: Mapping[str, Any] | None = None,
        segment: int = 250,
        overwrite: bool = False,
    ) -> None:
        path = Path(output)
        if is_pattern(output):
            if not is_pattern(path.name) or is_pattern(str(path.parent)):
                raise UserError(f"{output}: the number must be in the file name, not in a folder's")
            if path.suffix.lower() not in (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp"):
                raise UserError(f"{output}: pictures are png, tif, jpg, webp or bmp")
        if segment < 1:
            raise UserError(f"--segment must be at least 1 frame, not {segment}")
        files: list[Path] = getattr(source, "files", [])
        self._name = picture_names(output, source.facts.name, files)
        folder = self._name(0).parent
        if files and folder.resolve() == files[0].parent.resolve():
            raise UserError(f"{folder} holds the source's pictures; choose another output folder")
        self.segment, self._size = segment, size
        self.left_out: list[str] = []
        require_writable(self._name(0))
        decided = {"size": list(size), "segment": segment, **(options or {})}
        self._ledger = Ledger(notes_of_pictures(output), source.fingerprint(), decided, overwrite=overwrite)
        self._frames = 0

    @property
    def frames_done(self) -> int:
        """The next frame to write has this index."""
        return self._ledger.frames

    @property
    def state(self) -> bytes | None:
        """What was given with the last finished segment."""
        return self._ledger.state

    def write(self, pixels: NDArray[Any], frame: VideoFrame) -> bool:
        """Write the picture made of ``frame``; True when the segment is full."""
        _check_size(pixels, self._size)
        self._ledger.begin()
        write_image(self._name(frame.index), pixels)
        self._frames += 1
        return self._frames == self.segment

    def end_segment(self, state: bytes | None = None) -> None:
        """Note the pictures as finished, with what is needed to go on."""
        if self._frames:
            self._ledger.add({"frames": self._frames}, state)
            self._frames = 0

    def abandon(self) -> None:
        """Nothing is unfinished: pictures are whole."""

    def finish(self) -> None:
        """Remove the notes."""
        self.end_segment()
        self._ledger.remove()


class PipeWriter:
    """A y4m stream on standard output (or ``file``): depth as the source, 4:2:0 unless asked otherwise.

    Odd sizes are allowed. The format has one frame rate and no timestamps.
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
        _check_size(pixels, self._size)
        converted = self._convert(pixels)
        try:
            if self._header is not None:
                self._file.write(self._header)
                self._header = None
            self._file.write(b"FRAME\n")
            for view in plane_views(converted):
                self._file.write(np.ascontiguousarray(view).tobytes())
        except BrokenPipeError as error:
            raise RunStopped(f"whoever read the pipe has gone; stopped at frame {frame.index}") from error
        return False

    def end_segment(self, state: bytes | None = None) -> None:
        """Nothing can be kept of a pipe."""

    def abandon(self) -> None:
        """Nothing can be taken back from a pipe."""

    def finish(self) -> None:
        """Everything has been sent on."""
        self._file.flush()


def _check_size(pixels: NDArray[Any], size: tuple[int, int]) -> None:
    if pixels.shape != (size[1], size[0], 3):
        raise UserError(f"a picture of {size[0]}x{size[1]} was expected, not {pixels.shape}")
