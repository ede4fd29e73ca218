"""Frames a second of every source of flow, with confidence, at 480p.

    python benchmarks/colorize_flow.py
    python benchmarks/colorize_flow.py --size 240 426 --frames 2 --only dis memflow
    python benchmarks/colorize_flow.py --device cuda --only memflow raft

MemFlow and RAFT run with random weights, which are as fast as trained ones. Memory is the peak of the process
(CPU: its resident memory, so each source runs in a process of its own) or of the device.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atelier.colorize.flow_options import FLOWS


def film(frames: int, height: int, width: int) -> Tensor:
    """Unit lightness [frames, 1, height, width]: a smooth random picture that moves by (2, 1) pixels a frame."""
    draw = torch.Generator().manual_seed(0)
    large = torch.rand(1, 1, height // 4 + frames, width // 4 + frames, generator=draw)
    picture = torch.nn.functional.interpolate(large, scale_factor=4, mode="bicubic")[0].clamp(0, 1) * 2 - 1
    return torch.stack([picture[:, t : t + height, 2 * t : 2 * t + width] for t in range(frames)])


def options_of(name: str, confidence: str, folder: str) -> Any:
    given: dict[str, Any] = {"confidence": confidence}
    if name == "memflow":
        given["allow_random"] = True
    if name == "raft":
        from torchvision.models.optical_flow import raft_large

        given["weights"] = Path(folder) / "raft.pth"
        torch.save(raft_large(weights=None).state_dict(), given["weights"])
    return FLOWS.options_class(name).model_validate(given)


def measure(name: str, confidence: str, arguments: argparse.Namespace) -> None:
    """One row of the table."""
    torch.set_num_threads(arguments.threads)
    cuda = arguments.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        source = options_of(name, confidence, folder).build().to(arguments.device)
    frames = film(arguments.frames + 2, *arguments.size).to(arguments.device)
    # The second pair is the first one with a memory; it counts as warm-up too.
    state, began, idle = source.initial_state(), 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for t in range(1, len(frames)):
        if t == 2:
            if cuda:
                torch.cuda.synchronize()
            began = time.perf_counter()
        state = source.estimate(frames[t : t + 1], frames[t - 1 : t], state).state
    if cuda:
        torch.cuda.synchronize()
    rate = arguments.frames / (time.perf_counter() - began)
    if cuda:
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 2**10
    print(f"| {name} | {confidence} | {rate:.3f} | {memory:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=2, default=(480, 854), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=FLOWS.names(), default=FLOWS.names())
    arguments = parser.parse_args()
    height, width = arguments.size
    print(f"{width}x{height}, {arguments.device}, {arguments.threads} threads, {arguments.frames} frames\n")
    print("| source | confidence | frames/s | memory added (MiB) |\n|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    for name in arguments.only:
        for confidence in ("cycle", "photometric"):
            process = context.Process(target=measure, args=(name, confidence, arguments))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"colorize_flow.py: {name} ended with code {process.exitcode}")


if __name__ == "__main__":
    main()
