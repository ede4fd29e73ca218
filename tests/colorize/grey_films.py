"""Small films with known colours for tests of the runner and the command."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from atelier.colorize.working import lightness
from atelier.data.synthetic_clips import photograph, synthetic_clip
from atelier.images.files import write_image
from atelier.images.lab import grey_rgb
from atelier.images.tensors import from_tensor
from atelier.randomness import Streams


@lru_cache(maxsize=8)
def clip(background: str, frames: int = 10, size: int = 64, seed: int = 0) -> Any:
    """Frames ``[T, S, S, 3]`` of a photograph that a camera moves over, a disc of another one in front."""
    return synthetic_clip(
        photograph(background), photograph("coffee"), frames, size, Streams(seed, 0, 0)("clip")
    ).rgb


def grey(rgb: Any) -> Any:
    """The grey picture of the same lightness."""
    return from_tensor(grey_rgb(lightness(rgb))[0], rgb.dtype)


def folder(path: Path, frames: Any) -> Path:
    """Numbered PNG files."""
    path.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        write_image(path / f"{number:06d}.png", np.ascontiguousarray(frame))
    return path


def film(path: Path, frames: Any, *, rate: Fraction = Fraction(25), audio: bool = False) -> Path:
    """A nearly lossless film of ``frames``."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "2"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv444p"
        tone: Any = container.add_stream("aac", rate=48000) if audio else None
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())
        if tone is not None:
            for block in range(len(frames)):
                wave = np.sin((np.arange(1024) + 1024 * block) / 20).astype(np.float32) / 3
                sound: Any = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
                sound.sample_rate, sound.pts, sound.time_base = 48000, 1024 * block, Fraction(1, 48000)
                container.mux(tone.encode(sound))
            container.mux(tone.encode())
    return path


def picture(path: Path, pixels: Any) -> Path:
    write_image(path, np.ascontiguousarray(pixels))
    return path
