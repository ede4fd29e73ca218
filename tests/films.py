"""Small films for tests of several rooms, and what is looked at in results."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

NTSC = Fraction(30000, 1001)


def flat_film(
    path: Path,
    *,
    frames: int = 24,
    size: tuple[int, int] = (48, 32),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction = NTSC,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    audio: int = 0,
    still: int = 1,
    subtitles: bool = False,
    colour: tuple[int, int, int, int] = (6, 1, 2, 2),
    interlaced: bool = False,
) -> Path:
    """A film of flat colours with a red patch in the upper left quarter, and ``audio`` tracks of tones.

    Args:
        pts: timestamps in steps of ``time_base`` (default: one frame after another at ``rate``).
        rotation: degrees counter-clockwise that a player shall turn it.
        still: how many neighbouring frames are equal.
        colour: matrix, range, primaries, transfer; written and used.
        interlaced: marked as fields, the upper first (x264 only).
    """
    from atelier.images.video_colour import Colour, FromRGB

    width, height = size
    described = Colour(*colour)
    convert = FromRGB(pixel_format, described)
    deep = any(part.bits > 8 for part in av.VideoFormat(pixel_format, 16, 16).components)
    options = {"crf": "1"} if codec.startswith("libx26") else {}
    if interlaced:
        options["x264-params"] = "tff=1"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.colorspace, context.color_range = described.matrix, described.range
        context.color_primaries, context.color_trc = described.primaries, described.transfer
        if time_base is not None:
            context.time_base = stream.time_base = time_base
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tones: list[Any] = [container.add_stream("aac", rate=48000) for _ in range(audio)]
        for index in range(frames):
            frame = convert(flat_picture(index // still, size, deep=deep))
            frame.pts = index if pts is None else pts[index]
            frame.time_base = time_base or 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for number, tone in enumerate(tones):
            for block in range(frames):
                wave = np.sin((np.arange(1024) + 1024 * block) / (20 + 7 * number)).astype(np.float32) / 3
                sound: Any = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
                sound.sample_rate, sound.pts, sound.time_base = 48000, 1024 * block, Fraction(1, 48000)
                container.mux(tone.encode(sound))
            container.mux(tone.encode())
    return path


def flat_picture(index: int, size: tuple[int, int], *, deep: bool = False) -> Any:
    """Frame ``index`` of :func:`flat_film`: H×W×3, uint8, or uint16 where ``deep``."""
    width, height = size
    picture = np.empty((height, width, 3), np.uint8)
    picture[...] = (40 + index * 7 % 180, 90, 200 - index % 150)
    picture[: height // 2, : width // 2] = (220, 30, 40)
    return picture.astype(np.uint16) * 257 if deep else picture


def packets_of(path: Path, kind: str) -> dict[int, list[tuple[Fraction, bytes]]]:
    """Presentation time in seconds and bytes of every packet of the streams of ``kind``, by stream."""
    found: dict[int, list[tuple[Fraction, bytes]]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.stream.type == kind and packet.size and packet.pts is not None:
                found.setdefault(packet.stream_index, []).append(
                    (packet.pts * packet.time_base, bytes(packet))
                )
    return found


def moments(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    from atelier.images.video import open_video

    source = open_video(path)
    try:
        return [frame.pts * frame.time_base for frame in source.frames()]
    finally:
        source.close()
