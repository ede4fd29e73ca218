"""Frames per second of restoring a film as a stream, divided by those of the network alone on the same tensors.

    python benchmarks/film.py [--frames 60] [--width 640] [--height 360] [--crf 18] [--preset veryfast]
        [--threads 2]

Compact 32/32 x2 with random weights. Every frame is another one, with grain, so that none is taken for a still and
encoding is not for free. The stream does what ``atelier restore`` does: it decodes H.264, restores with the automatic
tile, encodes H.264 of twice the size and joins; opening and joining are part of its time. The network is timed on the
tensors of the same decoded frames, in the same process, before and after the stream; the rate is of both together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from atelier.allocator import keep_freed_memory
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.facts import facts_of
from atelier.images import to_tensor
from atelier.images.video import open_video
from atelier.images.video_encode import Encoding
from atelier.restore.model import RestorationModel
from atelier.restore.video import FilmJob, restore_film

TARGET = 0.9


def make_film(path: Path, frames: int, width: int, height: int) -> None:
    """Smooth patterns that move, under grain of deviation 4 that is new in every frame."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24000, 1001), options={"crf": "16"})
        stream.width, stream.height = width, height
        for index in range(frames):
            waves = [np.sin((x + k * y) / (9 + 4 * k) + index / 5) for k in range(3)]
            values = 127.5 + 115 * np.stack(waves, -1) + draw.normal(0, 4, (height, width, 3))
            picture = values.clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def network_rate(model: RestorationModel, film: Path, frames: int) -> float:
    """Frames a second of the bare forward pass."""
    tensors = [to_tensor(frame.pixels)[None] for frame in open_video(film).frames()][:frames]
    with torch.no_grad():
        model.net(tensors[0])
        start = time.perf_counter()
        for tensor in tensors:
            model.net(tensor)
    return len(tensors) / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--crf", type=float, default=18)
    parser.add_argument("--preset", default="veryfast")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; the encoder has its own")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    options = SRVGGNetCompactOptions(num_feat=32, num_conv=32, upscale=2)
    model = RestorationModel(options.build(), facts_of(options), device="cpu")
    with tempfile.TemporaryDirectory() as name:
        film = Path(name) / "film.mp4"
        make_film(film, chosen.frames, chosen.width, chosen.height)
        part = max(chosen.frames // 3, 1)
        before = network_rate(model, film, part)
        report = restore_film(
            lambda pixels, on_tile: model.restore(pixels, on_tile=on_tile),
            FilmJob(str(film), str(Path(name) / "out.mp4")),
            lambda width, height: (width * 2, height * 2),
            encoding=Encoding(crf=chosen.crf, preset=chosen.preset),
            quiet=True,
        )
        after = network_rate(model, film, part)
    stream = report.film.frames / report.film.seconds
    ratio = stream / (2 / (1 / before + 1 / after))
    print(f"torch {torch.__version__}, {chosen.threads} threads; {chosen.width}x{chosen.height}")
    print(report)
    print(
        f"network alone {before:.2f} and {after:.2f} frames/s, stream {stream:.2f} frames/s: ratio {ratio:.3f}"
    )
    print(f"target {TARGET}: {'reached' if ratio >= TARGET else 'NOT reached'}")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
