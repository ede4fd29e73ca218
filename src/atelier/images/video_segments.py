"""A film file that survives a stop: segments with an encoder each, joined by copying packets, audio beside them."""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.errors import UserError
from atelier.files import atomic_path, require_writable
from atelier.images.video_encode import (
    Encoder,
    Encoding,
    Picture,
    Plan,
    configure,
    nominal_rate,
    plan_encoding,
)
from atelier.images.video_ledger import Ledger, LedgerTarget

if TYPE_CHECKING:
    from av import Packet
    from numpy.typing import NDArray

    from atelier.images.video import FrameSource, VideoFrame

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".nut": "nut",
}
"""File names of films that can be written, and FFmpeg's names of their containers."""

_LEFT_BEHIND = (
    "major_brand", "minor_version", "compatible_brands", "encoder", "rotate", "DURATION", "BPS", "NUMBER_OF_BYTES",
    "NUMBER_OF_FRAMES",
)  # fmt: skip
"""Notes that describe the old file, not the film."""


class VideoWriter(LedgerTarget):
    """Writes a film in segments of a fixed number of frames, beside the output in ``NAME.parts/``.

    Each segment has its own encoder and no B-frames, so a run that goes on after a stop gives the same packets as
    one that was never stopped. The parts are Nut files (MOV for codecs that Nut does not know): their time base is
    that of the source, whatever it is.
    :meth:`finish` joins them by copying packets, with every audio, subtitle and data packet of the source as it
    is, chapters and notes; the output appears under its name when it is whole.

    Args:
        output: the film's name; its suffix chooses the container, see :data:`CONTAINERS`.
        source: what is being transformed: its time base, rate, colour, pixel aspect and other streams are carried.
        size: width and height of the pictures to come.
        encoding: codec, quality, pixel format.
        options: what else decides the result (model, scale, ...), as plain values; a run goes on only with the same.
        segment: frames of a segment.
        overwrite: do not go on with earlier work.

    Raises:
        UserError: before anything is decoded: an unknown suffix or codec, a pixel format or size that the codec
            refuses, a stream that the container cannot hold, a folder that cannot be written, work of another run.
    """

    def __init__(
        self,
        output: Path,
        source: FrameSource,
        size: tuple[int, int],
        encoding: Encoding | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        segment: int = 250,
        overwrite: bool = False,
    ) -> None:
        from atelier.images.video import require_av

        av = require_av(f"writing {output}")
        if output.suffix.lower() not in CONTAINERS:
            raise UserError(f"cannot write {output}: known films are {', '.join(CONTAINERS)}")
        if segment < 1:
            raise UserError(f"--segment must be at least 1 frame, not {segment}")
        if source.path is not None and output.exists() and output.samefile(source.path):
            raise UserError(f"{output} would overwrite its own source; choose another output")
        encoding = encoding or Encoding()
        facts = source.facts
        self.output, self._source = output, source
        self._format = CONTAINERS[output.suffix.lower()]
        self.segment = segment
        picture = Picture(
            width=size[0],
            height=size[1],
            time_base=facts.time_base,
            rate=nominal_rate(facts),
            colour=facts.colour,
            sample_aspect=facts.sample_aspect,
            bits=facts.bits,
        )
        self.plan: Plan = plan_encoding(encoding, picture)
        self.left_out: list[str] = []
        """Streams that the container cannot hold and that are neither audio nor subtitles."""
        self._copied = self._try_container()
        self._kind = "nut" if _holds("nut", self.plan.codec) else "mov"
        require_writable(output)
        decided = {
            "size": list(size),
            **encoding.as_dict(),
            "crf": self.plan.crf,
            "codec": self.plan.codec,
            "pix_fmt": self.plan.pixel_format,
            "container": self._format,
            # Of numbered pictures the user says both, and no fingerprint knows of it.
            "rate": str(picture.rate),
            "time_base": str(picture.time_base),
            "segment": segment,
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
            **(options or {}),
        }
        self._ledger = Ledger(
            output.with_name(f"{output.name}.parts"), source.fingerprint(), decided, overwrite=overwrite
        )
        self._open: ExitStack | None = None
        self._frames = 0
        self._durations: list[int] = []

    @property
    def parts(self) -> Path:
        """The folder of the segments."""
        return self._ledger.folder

    def write(self, pixels: NDArray[Any], frame: VideoFrame) -> bool:
        """Add the picture made of ``frame``; True when the segment is full and :meth:`end_segment` is due."""
        if self._open is None:
            self._begin()
        self._mux(self._encoder.encode(pixels, frame.pts, frame.duration))
        self._durations.append(frame.duration)
        self._frames += 1
        return self._frames == self.segment

    def end_segment(self, state: bytes | None = None) -> None:
        """Finish the segment: from here on a stop does not lose it. ``state`` is what is needed to go on after it."""
        if self._open is None:
            return
        with self._open:
            # Left by an error, the stack takes the unfinished file away with it.
            self._mux(self._encoder.finish())
            self._container.close()
        self._ledger.add({"frames": self._frames, "durations": self._durations}, state)
        self._open = None

    def abandon(self) -> None:
        """Take the unfinished segment away and let others work here; finished segments stay."""
        if self._open is not None:
            open_, self._open = self._open, None
            try:
                with open_:
                    raise _Abandoned
            except _Abandoned:
                pass
        self._ledger.release()

    def finish(self) -> None:
        """Join the segments with the source's other streams, and remove the parts.

        Raises:
            UserError: nothing was written, or the output cannot be written (the parts stay).
        """
        self.end_segment()
        if not self._ledger.segments:
            raise UserError(f"{self._source.facts.name} has no frames")
        with atomic_path(self.output) as temporary, temporary.open("wb") as file:
            self._join(file)
        self._ledger.remove()

    def _begin(self) -> None:
        import av

        self._ledger.begin()
        self._frames, self._durations = 0, []
        with ExitStack() as stack:
            temporary = stack.enter_context(
                atomic_path(self._ledger.media(len(self._ledger.segments), self._kind))
            )
            # Through a file of our own: a full disk is then an error where it happens.
            file = stack.enter_context(temporary.open("wb"))
            self._container = stack.enter_context(
                av.open(file, "w", format=self._kind, container_options=self._container_options(self._kind))
            )
            self._stream = self._container.add_stream(self.plan.codec, rate=self.plan.picture.rate)
            self._stream.time_base = self.plan.picture.time_base
            self._encoder = Encoder(self.plan, self._stream.codec_context)
            self._open = stack.pop_all()

    def _mux(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            packet.stream = self._stream
            self._container.mux(packet)

    def _try_container(self) -> list[int]:
        """Indexes of the streams to copy; a header is tried with each before any work is done."""
        import av

        def header(template: Any) -> str | None:
            try:
                with av.open(io.BytesIO(), "w", format=self._format) as trial:
                    stream = trial.add_stream(self.plan.codec, rate=self.plan.picture.rate)
                    configure(stream.codec_context, self.plan)
                    if template is not None:
                        trial.add_stream_from_template(template, opaque=True)
                    trial.start_encoding()
            except (av.FFmpegError, ValueError) as error:
                return str(getattr(error, "strerror", None) or error)
            return None

        suffix = self.output.suffix
        reason = header(None)
        if reason is not None:
            raise UserError(
                f"{suffix} cannot hold {self.plan.codec} ({reason}); .mkv holds nearly everything"
            )
        if self._source.path is None:
            return []
        copied = []
        with av.open(str(self._source.path), metadata_errors="replace") as container:
            for facts in self._source.facts.streams:
                template = container.streams[facts.index]
                reason = "a second video stream" if template.type == "video" else header(template)
                if reason is None:
                    copied.append(facts.index)
                elif facts.kind in ("audio", "subtitle"):
                    raise UserError(
                        f"{suffix} cannot hold {facts} of {self._source.facts.name} ({reason}); "
                        ".mkv holds nearly everything"
                    )
                else:
                    self.left_out.append(f"{facts}: {reason}")
        return copied

    def _join(self, file: Any) -> None:
        import av

        with ExitStack() as stack:
            first = stack.enter_context(av.open(str(self._ledger.media(0, self._kind))))
            out = stack.enter_context(
                av.open(
                    file, "w", format=self._format, container_options=self._container_options(self._format)
                )
            )
            video = out.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = self.plan.picture.time_base
            header = bytes(first.streams.video[0].codec_context.extradata or b"")
            others: Iterator[Packet[Any]] = iter(())
            if self._source.path is not None:
                source = stack.enter_context(av.open(str(self._source.path), metadata_errors="replace"))
                others = self._copy_others(source, out, video)
            for packet in heapq.merge(self._segments(video, header), others, key=_moment):
                out.mux(packet)

    def _container_options(self, container: str) -> dict[str, str]:
        # Without it Matroska's marks are random: the same film twice would differ.
        options = {"fflags": "+bitexact"}
        if container in ("mp4", "mov"):
            # The movie's clock rounds where a film begins; as fine as the pictures' own it rounds nothing.
            options["movie_timescale"] = str(_clock(self.plan.picture.time_base.denominator))
        return options

    def _segments(self, video: Any, header: bytes) -> Iterator[Packet[Any]]:
        import av

        step = max(round(1 / (self.plan.picture.rate * self.plan.picture.time_base)), 1)
        for number in range(len(self._ledger.segments)):
            path = self._ledger.media(number, self._kind)
            durations = json.loads(path.with_suffix(".json").read_text())["durations"]
            with av.open(str(path)) as part:
                stream = part.streams.video[0]
                if bytes(stream.codec_context.extradata or b"") != header:
                    raise UserError(
                        f"{path} was encoded otherwise than the first segment; --overwrite begins anew"
                    )
                place = 0
                for packet in part.demux(stream):
                    if packet.pts is None:
                        continue  # the end
                    # Nut has no times of decoding, and FFmpeg gives up guessing them after just seven frames of H.264;
                    # without B-frames they are those of the pictures.
                    packet.dts = packet.pts
                    scale = self.plan.picture.time_base / packet.time_base
                    packet.duration = int((durations[place] or step) * scale)
                    packet.stream = video
                    place += 1
                    yield packet
                if place != len(durations):
                    raise UserError(
                        f"{path} holds {place} frames instead of {len(durations)}; --overwrite begins anew"
                    )

    def _copy_others(self, source: Any, out: Any, video: Any) -> Iterator[Packet[Any]]:
        """Add the source's other streams to ``out``, and give their packets as they are."""
        pictures = source.streams.best("video")
        if pictures is not None:
            video.metadata.update(_kept(pictures.metadata))
            video.disposition = pictures.disposition
        out.metadata.update(_kept(source.metadata))
        chapters = source.chapters()
        if chapters:
            out.set_chapters(chapters)
        targets = {}
        for index in self._copied:
            template = source.streams[index]
            target = out.add_stream_from_template(template, opaque=True)
            target.metadata.update(_kept(template.metadata))
            target.disposition = template.disposition
            targets[index] = target

        def packets() -> Iterator[Packet[Any]]:
            if not targets:
                return
            for packet in source.demux([source.streams[index] for index in targets]):
                if packet.dts is None and packet.size == 0:
                    continue
                packet.stream = targets[packet.stream_index]
                yield packet

        return packets()


class _Abandoned(Exception):
    pass


def _holds(container: str, codec: str) -> bool:
    import av

    with av.open(io.BytesIO(), "w", format=container) as trial:
        try:
            trial.add_stream(codec)
        except ValueError:
            return False
    return True


def _kept(notes: Mapping[str, str]) -> dict[str, str]:
    return {
        k: v for k, v in notes.items() if k.split("-")[0] not in _LEFT_BEHIND and not k.startswith("_STAT")
    }


def _moment(packet: Packet[Any]) -> float:
    when = packet.dts if packet.dts is not None else packet.pts
    return float((when or 0) * packet.time_base)


def _clock(denominator: int) -> int:
    """A multiple of ``denominator`` of at least a millisecond's fineness, within 32 bits."""
    while denominator < 1000:
        denominator *= 2
    return min(denominator, 2**31 - 1)
