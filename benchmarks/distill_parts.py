"""What looking at features costs: taps on a forward pass (time), windowed beside full affinity (memory).

    python benchmarks/distill_parts.py [--rounds 9] [--side 64] [--threads 1]

Taps: the student SwinIR of width 60 with 4 x 4 layers, four taps, input SIDE x SIDE, forward and backward of the mean
of its output; the two forms take turns, medians of processor time. Affinity: features of 60 and 180 channels on a
SIDE x SIDE map, the most bytes alive at once during the loss and its backward pass, inputs left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from atelier.archs import SwinIR
from atelier.archs.alive import AliveTensors
from atelier.losses.affinity import Affinity, affinity_loss
from atelier.objectives.distill.taps import Taps

STUDENT: dict[str, Any] = {"embed_dim": 60, "depths": [4] * 4, "num_heads": [6] * 4}
SHARED: dict[str, Any] = {"upscale": 4, "window_size": 8, "mlp_ratio": 2, "upsampler": "pixelshuffle"}


def tapped(side: int, rounds: int) -> tuple[float, float]:
    """Median processor seconds of a pass without and with taps."""
    torch.manual_seed(0)
    net = SwinIR(**SHARED, **STUDENT)
    taps = Taps(net, "auto", (side, side), channels=3, where="taps")
    lq = torch.rand(1, 3, side, side)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for on in (False, True):
            taps.enabled = on
            start = time.process_time()
            out = net(lq)
            if on:
                taps.collect()
            out.mean().backward()
            seconds[on].append(time.process_time() - start)
            net.zero_grad(set_to_none=True)
    plain, looked = (statistics.median(seconds[on][1:]) for on in (False, True))
    return plain, looked


def most_bytes(side: int, affinity: Affinity) -> int:
    torch.manual_seed(0)
    student, teacher = torch.rand(1, 60, side, side, requires_grad=True), torch.rand(1, 180, side, side)
    with AliveTensors([student, teacher]) as live:
        affinity_loss(student, teacher, affinity).backward()
    return int(live.peak)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=64, help="of the input and the map; a multiple of 8")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.side % 8:
        parser.error("--rounds: at least 1; --side: a multiple of 8")
    torch.set_num_threads(arguments.threads)
    plain, looked = tapped(arguments.side, arguments.rounds)
    full, window = (
        most_bytes(arguments.side, each)
        for each in (Affinity("full", max_elements=arguments.side**4), Affinity("window", window=8))
    )
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, side {arguments.side}"
    )
    print("| what | without / full | with taps / window 8 | ratio |")
    print("|---|---|---|---|")
    print(
        f"| four taps, forward and backward, processor s | {plain:.3f} | {looked:.3f} | {looked / plain:.3f} |"
    )
    print(f"| affinity, bytes alive | {full / 1e6:.1f} MB | {window / 1e6:.1f} MB | {window / full:.4f} |")


if __name__ == "__main__":
    main()
