"""Frames a second of every stage of ``atelier colorize`` at 480p, and that memory does not grow with the length.

    python benchmarks/colorize_stream.py
    python benchmarks/colorize_stream.py --frames 10000 --references 500 --only memory

Memory: generated 48x48 frames through the whole stream (reader, motion, matching, colours, encoder) into a film;
resident memory after frame 500 and at the end, which must lie within 32 MB of each other. Speed: a film of 854x480 in
one process; each stage's busy seconds a frame. Stages overlap, so they add up to more than the time by the clock.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atelier.allocator import keep_freed_memory
from atelier.colorize.coloured import ColorizeOptions, ColouredFilm
from atelier.colorize.opening import WeightFiles, open_system
from atelier.colorize.reference_files import find_references
from atelier.colorize.runner import colorize_film
from atelier.images.files import write_image
from atelier.images.video import VideoFacts, VideoFrame
from atelier.images.video_colour import Colour

#: More than this between frame 500 and the end counts as growth, in MB.
ALLOWED = 32.0


class Generated:
    """A film without a file: a smooth random picture that moves by (2, 1) pixels a frame and turns round at its end."""

    path = None

    def __init__(self, frames: int, width: int, height: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self._span = min(frames, 64)
        coarse = torch.rand(
            1, 3, (height + self._span) // 4 + 2, (width + 2 * self._span) // 4 + 2, generator=draw
        )
        whole = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic")[0].clamp(0, 1)
        self.colours = (whole.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        self._grey = np.repeat(self.colours[..., 1:2], 3, axis=2)
        self.facts = VideoFacts(
            "generated", width, height, Fraction(1, 25), Fraction(25), frames, colour=Colour().settled(height)
        )
        #: Resident memory when a frame was asked for, in MB.
        self.resident: dict[int, float] = {}

    def cut(self, whole: Any, index: int) -> Any:
        """Frame ``index`` of a picture."""
        place = index % (2 * self._span - 1)
        place = min(place, 2 * self._span - 2 - place)
        height, width = self.facts.height, self.facts.width
        return np.ascontiguousarray(whole[place : place + height, 2 * place : 2 * place + width])

    def frames(self, start: int = 0) -> Iterator[VideoFrame]:
        """Grey frames."""
        for index in range(start, self.facts.frames):
            if index in (500, self.facts.frames - 1):
                self.resident[index] = resident()
            yield VideoFrame(self.cut(self._grey, index), index, self.facts.time_base, index, 1)

    def fingerprint(self) -> str | None:
        """None: never goes on."""
        return None

    def close(self) -> None:
        """Nothing is open."""


def resident() -> float:
    """Resident memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def colour(film: Generated, references: int, folder: Path, device: str) -> tuple[ColouredFilm, float]:
    """Colour ``film`` with so many pictures of it; (what became of it, seconds)."""
    names = []
    for number in range(references):
        picture = film.cut(film.colours, number % 64)
        picture[0, 0] = number % 256, number // 256, 0  # no two are the same
        names.append(str(folder / f"{number:04d}.png"))
        write_image(names[-1], picture)
    opened = open_system(WeightFiles(), device)
    target, found = str(folder / "out.mkv"), find_references(names, [])
    began = time.perf_counter()
    report = colorize_film(opened, film, target, found, ColorizeOptions(), device=device, quiet=True)
    return report, time.perf_counter() - began


def memory(arguments: argparse.Namespace) -> bool:
    """One row a number of references; whether memory stayed."""
    print("| 48x48 frames | references | frame 500 | end | difference | frames/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    flat = True
    for references in (1, arguments.references):
        film = Generated(arguments.frames, 48, 48)
        with tempfile.TemporaryDirectory() as folder:
            report, seconds = colour(film, references, Path(folder), "cpu")
        first, last = film.resident[500], film.resident[arguments.frames - 1]
        flat = flat and last - first <= ALLOWED
        print(
            f"| {report.film.frames} | {references} | {first:.0f} MB | {last:.0f} MB | {last - first:+.1f} MB | "
            f"{arguments.frames / seconds:.1f} |",
            flush=True,
        )
    return flat


def speed(arguments: argparse.Namespace) -> None:
    """Busy milliseconds a frame of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        report, seconds = colour(
            Generated(arguments.speed_frames, 854, 480), 1, Path(folder), arguments.device
        )
    count = report.film.frames
    print(
        f"854x480, colours at {report.size.content[1]}x{report.size.content[0]}, one reference, {count} frames,"
    )
    print(f"{torch.get_num_threads()} thread(s), device {arguments.device}: {count / seconds:.2f} frames/s\n")
    print("| stage | ms a frame | frames/s alone |")
    print("| --- | --- | --- |")
    for stage, busy in report.busy.items():
        print(f"| {stage} | {1000 * busy / count:.1f} | {count / max(busy, 1e-9):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=3000, help="of the memory check, more than 501")
    parser.add_argument("--references", type=int, default=500)
    parser.add_argument("--speed-frames", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("memory", "speed"))
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    if arguments.frames <= 501:
        parser.error("--frames must be more than 501")
    if arguments.only != "memory":
        speed(arguments)
        print()
    if arguments.only != "speed" and not memory(arguments):
        sys.exit(f"memory grew by more than {ALLOWED:.0f} MB")


if __name__ == "__main__":
    main()
