"""Real-ESRGAN's degradation of one batch: on the device with many samples at once, one by one, and as workers do it.

    python benchmarks/device_degradation.py [--batch 16] [--rounds 5] [--device cpu] [--threads 1]

The same drawn plans for all, x2, crops of 256 with their surroundings out of bundled photographs. What loader
processes do for the device form (noise fields, kernels) is its own line; the copies to a GPU are counted with the
device. Forms take turns; the shortest round counts. CPU: processor time; GPU: wall time until the device has finished,
and the time until the calls are queued, which is what the training process itself is kept busy. "calls" are tensor
operators a picture, on a GPU about as many kernels. The largest difference between the forms' results is printed; on
the CPU it must be 0.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from degradation import CROP, PHOTOGRAPHS, SCALE, packed_way
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atelier.data.bundled import bundled_path
from atelier.data.packed import degrade_packed
from atelier.degrade.realesrgan_options import RealESRGANOptions
from atelier.images import read_image
from atelier.randomness import Streams


class Calls(TorchDispatchMode):
    """Counts operators that compute or copy; views cost nothing on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    device = torch.device(given.device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    operator = RealESRGANOptions(run_on="device").build(SCALE)
    side = CROP + 2 * operator.context * SCALE
    pictures = [read_image(bundled_path(name)).pixels for name in PHOTOGRAPHS]
    crops = [
        np.ascontiguousarray(pictures[k % len(pictures)][:side, :side, : given.channels])
        for k in range(given.batch)
    ]
    packed = packed_way(operator, crops, 1)
    white = torch.tensor(255.0, device=device)
    queued: dict[str, float] = {}

    def on_device(name: str, together: int) -> Callable[[], Tensor]:
        def run() -> Tensor:
            start = clock()
            there = packed._replace(
                pixels=packed.pixels.to(device, non_blocking=True),
                numbers=packed.numbers.to(device, non_blocking=True),
            )
            lq, _ = degrade_packed(there, operator, white, together)
            queued[name] = min(queued.get(name, float("inf")), clock() - start)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return lq

        return run

    def workers() -> None:
        for k, (gt, job) in enumerate(zip(crops, packed.jobs, strict=True), 1):
            operator.apply(gt, job.parameters, Streams(0, 1, k))

    ways: dict[str, Callable[[], object]] = {"one by one": on_device("one by one", 1)}
    for together in (2, 4, 8, given.batch):
        if together <= given.batch:
            ways[f"{together} at once"] = on_device(f"{together} at once", together)
    ways |= {
        "fields and kernels (loader)": lambda: packed_way(operator, crops, 1),
        "the workers' form (loader)": workers,
    }
    shortest: dict[str, float] = {}
    results: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    for round_ in range(given.rounds + 1):  # the first one makes tables and warms up
        for name, way in ways.items():
            start = clock()
            result = way()
            elapsed = clock() - start
            if isinstance(result, Tensor):
                results[name] = result
            if round_:
                shortest[name] = min(shortest.get(name, float("inf")), elapsed)
        if not round_:
            for name in list(results):
                with Calls() as counter:
                    ways[name]()
                calls[name] = counter.count
            queued.clear()
    alone = results.pop("one by one")
    worst = max(float((alone - each).abs().max()) * 255 for each in results.values())
    print(
        f"{device}, batch {given.batch}, {given.channels} channels; largest difference between forms: {worst:g}"
    )
    print("| form | ms a picture | ratio to one by one | calls | until queued |")
    print("|---|---|---|---|---|")
    for name, seconds in shortest.items():
        until = (
            f"{queued[name] / given.batch * 1e3:.2f} ms" if name in queued and device.type == "cuda" else ""
        )
        ratio = shortest["one by one"] / seconds
        made = f"{calls[name] / given.batch:.0f}" if name in calls else ""
        print(f"| {name} | {seconds / given.batch * 1e3:.1f} | {ratio:.2f} | {made} | {until} |")


if __name__ == "__main__":
    main()
