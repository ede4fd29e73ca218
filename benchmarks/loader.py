"""Crops per second from shards against decoding 2K PNGs, with the same plan, in one run.

    python benchmarks/loader.py [--pictures 12] [--crops 200]

Makes 2K photographs by enlarging the bundled ones, then takes the same samples of the same plan (256 x 256 crops of
clean pictures, flips, no degradation in the timed part) by decoding the file for each crop, with OpenCV as BasicSR
and KAIR do and with our own reader, and from the memory-mapped shard, its pages cold (dropped from the system's
cache where that is allowed) and warm. All ways give the same bytes, which is checked; ratios are to OpenCV.
Timed in this process, without workers: workers multiply all ways alike. CPU time is shown beside wall time, for a
busy machine stretches the latter.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from atelier.data.assemble import Assembler
from atelier.data.bundled import TRAIN_DEFAULT, VAL_DEFAULT, bundled_path
from atelier.data.options import CacheOptions, ImagesOptions
from atelier.data.pairs import open_pictures
from atelier.data.plan import SamplePlan
from atelier.data.shards import FileReader, Reader, ShardCache, ShardReader
from atelier.degrade.base import Degradation, Pixels
from atelier.images import imresize, read_image, write_image
from atelier.randomness import Streams

CROP, HEIGHT, WIDTH, TARGET = 256, 1356, 2040, 20.0


class Nothing(Degradation):
    """Leaves the picture as it is, so that only reading, cutting and flipping are timed."""

    scale = 1

    def draw(self, streams: Streams, shape: tuple[int, int, int]) -> dict[str, object]:
        return {}

    def apply(self, gt: Pixels, parameters: dict[str, object], streams: Streams) -> Pixels:
        return gt


class OpenCVReader(FileReader):
    """What BasicSR does for every sample: decode the whole file with OpenCV, then BGR to RGB."""

    def picture(self, number: int) -> Pixels:
        decoded = cv2.imread(self.places[number], cv2.IMREAD_COLOR)
        assert decoded is not None, self.places[number]
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def make_pictures(folder: Path, count: int) -> None:
    """2K photographs: windows of enlarged bundled ones, with a little grain as a sensor has."""
    names = [*TRAIN_DEFAULT, *VAL_DEFAULT]
    for number in range(count):
        photograph = read_image(bundled_path(names[number % len(names)])).pixels
        generator = np.random.default_rng(number)
        scale = max(HEIGHT / photograph.shape[0], WIDTH / photograph.shape[1]) * (
            1 + 0.1 * (number // len(names))
        )
        large = imresize(photograph, scale=scale)[:HEIGHT, :WIDTH].astype(np.float32)
        grain = generator.normal(0, 2, large.shape).astype(np.float32)
        write_image(folder / f"{number:03d}.png", np.rint((large + grain).clip(0, 255)).astype(np.uint8))


def drop_from_memory(path: Path) -> None:
    """Ask the system to forget a file's pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(assembler: Assembler, crops: int) -> tuple[float, float, str]:
    """Wall and CPU seconds per crop, and a digest of all pixels."""
    digest = hashlib.blake2b()
    wall, cpu = time.perf_counter(), time.process_time()
    samples = [assembler.sample(step, 0)[0] for step in range(1, crops + 1)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for pixels in samples:
        digest.update(np.ascontiguousarray(pixels).data)
    return wall / crops, cpu / crops, digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument(
        "--crops", type=int, default=200, help="crops from shards; a tenth of them by decoding"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"making {arguments.pictures} photographs of {WIDTH}x{HEIGHT} ...", flush=True)
        make_pictures(folder / "gt", arguments.pictures)
        pictures = open_pictures(
            ImagesOptions(name="benchmark", dataroot_gt=folder / "gt"), scale=1, in_channels=3
        )
        plan = SamplePlan(0, 1, [shape[:2] for shape in pictures.lq_shapes], lq_size=CROP)
        cache = ShardCache(CacheOptions(folder=folder / "cache"))
        shard = cache.open(pictures.gt, pictures.gt_shapes)
        assert isinstance(shard, ShardReader)

        def assembler(reader: Reader) -> Assembler:
            return Assembler(
                plan,
                gt=reader,
                lq=None,
                lq_shapes=pictures.lq_shapes,
                degradation=Nothing(),
                scale=1,
                in_channels=3,
                share=range(1),
            )

        few = max(10, arguments.crops // 10)
        opencv = assembler(OpenCVReader(pictures.gt, pictures.gt_shapes))
        ours = assembler(FileReader(pictures.gt, pictures.gt_shapes))
        measure(opencv, 1), measure(ours, 1)  # imports and first-call costs belong to neither side
        decoded = measure(opencv, few)
        decoded_by_us = measure(ours, few)
        drop_from_memory(shard.index.pixels)
        cold = measure(assembler(shard), few)
        assert cold[2] == decoded[2] == decoded_by_us[2], "the ways do not give the same samples"
        warm = measure(assembler(shard), arguments.crops)
        shard.close()
    rows: list[tuple[str, tuple[float, float, str]]] = [
        ("PNG decoded with OpenCV", decoded),
        ("PNG decoded with our reader", decoded_by_us),
        ("shard, pages dropped before", cold),
        ("shard", warm),
    ]
    print(f"\n{'256x256 crops of 2K pictures':32} {'ms wall':>9} {'ms CPU':>9} {'crops/s':>9} {'ratio':>8}")
    for title, (wall, cpu, _) in rows:
        print(f"{title:32} {wall * 1e3:9.3f} {cpu * 1e3:9.3f} {1 / wall:9.1f} {decoded[0] / wall:7.1f}x")
    ratio = decoded[0] / warm[0]
    reached = ratio >= TARGET
    print(f"\ntarget: {TARGET:.0f}x from shards; {'reached' if reached else 'NOT reached'} ({ratio:.1f}x)")
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
