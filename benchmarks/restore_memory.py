"""Peak memory of restoring a picture eight times larger, with the automatic tile, where memory is limited.

    python benchmarks/restore_memory.py [--width 640] [--height 360] [--times 8] [--room 256] [--threads 2]

Compact 32/32 x2 with random weights. Each picture in a process of its own: the model is loaded and run once on a small
picture, then the process may take ``--room`` MiB more (``ulimit -v``, which the automatic tile looks at), reads a
PNG, restores it with the automatic tile and writes a PNG. With memory to spare the automatic tile takes the picture
whole, and memory grows with it; the limit is what tiles are for. The room should hold the first picture whole.

"peak": highest resident memory of the whole process (VmHWM), the loaded program included. "grown": above what the
loaded model takes. "pixels": input and result as 8 bit, which nothing can avoid. The aim, 1.3, is for the peak.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from atelier.allocator import keep_freed_memory
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.facts import facts_of
from atelier.images.files import read_image, write_image
from atelier.restore.model import RestorationModel

TARGET = 1.3
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Peak:
    """Bytes: resident before, highest afterwards, of the pixels; and the tiles."""

    before: int
    highest: int
    pixels: int
    tiles: int


def status(key: str) -> int:
    """Bytes behind ``key`` in the kernel's account of this process."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def picture(height: int, width: int) -> np.ndarray:
    """Smooth waves with grain, as photographs have it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.stack([np.sin((x + k * y) / (9 + 4 * k)) for k in range(3)], -1)
    grain = np.random.default_rng(0).normal(0, 4, waves.shape)
    return (127.5 + 100 * waves + grain).clip(0, 255).astype(np.uint8)


def measure(source: Path, room: int, threads: int, answer: multiprocessing.SimpleQueue[Peak]) -> None:
    """In a process of its own."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.manual_seed(0)
    options = SRVGGNetCompactOptions(num_feat=32, num_conv=32, upscale=2)
    model = RestorationModel(options.build(), facts_of(options), device="cpu")
    # Starts the threads and what the library sets up on first use.
    small = source.with_name("small.png")
    write_image(small, model.restore(read_image(small).pixels, tile=32))
    tiles = 1

    def on_tile(done: int, total: int) -> None:
        nonlocal tiles
        tiles = total

    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + room, resource.RLIM_INFINITY))
    given = read_image(source)
    result = model.restore(given.pixels, on_tile=on_tile)
    write_image(source.with_name("result.png"), result, like=given)
    answer.put(Peak(before, status("VmHWM"), given.pixels.nbytes + result.nbytes, tiles))


def peak_of(height: int, width: int, room: int, threads: int) -> Peak:
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as name:
        write_image(Path(name) / "small.png", picture(64, 96))
        source = Path(name) / "picture.png"
        write_image(source, picture(height, width))
        process = context.Process(target=measure, args=(source, room, threads, answer))
        process.start()
        process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"restoring {width}x{height} ended with code {process.exitcode}")
    return answer.get()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument(
        "--times", type=float, default=8, help="pixels of the larger picture over the smaller"
    )
    parser.add_argument("--room", type=int, default=256, help="MiB that a process may take for its picture")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if not STATUS.exists():
        print("restore_memory.py: needs /proc, which this system does not have", file=sys.stderr)
        return 2
    print(f"torch {torch.__version__}, {arguments.threads} threads, room {arguments.room} MiB\n")
    print("| picture | tiles | peak | grown | pixels |\n|---|---:|---:|---:|---:|", flush=True)
    peaks = []
    for factor in (1.0, math.sqrt(arguments.times)):
        height, width = (round(side * factor) for side in (arguments.height, arguments.width))
        peak = peak_of(height, width, arguments.room * 2**20, arguments.threads)
        peaks.append(peak)
        sizes = (
            f"{each / 2**20:.0f} MiB" for each in (peak.highest, peak.highest - peak.before, peak.pixels)
        )
        print(f"| {width}x{height} | {peak.tiles} | {' | '.join(sizes)} |", flush=True)
    ratio = peaks[1].highest / peaks[0].highest
    grown = [peak.highest - peak.before for peak in peaks]
    print(f"\npeak {ratio:.2f} times, grown {grown[1] / grown[0]:.2f} times")
    if peaks[0].tiles > 1:
        print("the first picture did not fit whole; give more --room")
    print(f"target {TARGET}: {'reached' if ratio <= TARGET else 'NOT reached'}")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
