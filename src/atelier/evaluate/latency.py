"""What a network costs to run: time beside other networks, multiply-adds, memory, file size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from atelier.archs.info import count_macs, count_parameters, peak_memory
from atelier.restore import RestorationModel
from atelier.restore.exported import ExportedNetwork

#: Runs before the clock counts: caches, lazy kernels, autotuning.
WARMUPS = 5
#: Timed runs of each network.
ROUNDS = 20


@dataclass(frozen=True)
class Timing:
    """Seconds of one inference: median, lower and upper quartile, 95th percentile over ``rounds`` runs."""

    median: float
    lower: float
    upper: float
    p95: float
    rounds: int


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        parameters: their number; 0 where an exported model does not say it.
        macs: multiply-adds of one picture; None where the network cannot be counted.
        file_bytes: size of the weight file.
        memory_bytes: float32 weights and the tensors alive at once, at most, in one inference; what operators
            need inside themselves is not seen. For exported models what the file states, without the weights (0:
            it says nothing).
        timing: None where it was not measured.
    """

    parameters: int
    macs: int | None
    file_bytes: int
    memory_bytes: int
    timing: Timing | None = None


def measure_cost(model: RestorationModel, path: Path, size: tuple[int, int]) -> Cost:
    """Everything but the time; ``size`` is (height, width) of the input in pixels."""
    net, channels = model.net, model.in_channels
    if isinstance(net, ExportedNetwork):
        # Torch sees nothing of what happens in another runtime; the file says what it may cost.
        stated = net.stated_cost
        memory = 0 if stated is None else round(stated.bytes_per_pixel * size[0] * size[1])
        return Cost(net.facts.parameters or 0, None, path.stat().st_size, memory)
    try:
        macs: int | None = count_macs(net, channels, size).total
    except (RuntimeError, NotImplementedError, TypeError):
        # A foreign network that makes tensors of its own in forward cannot run without data.
        macs = None
    home = model.device
    weights = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    try:
        memory = peak_memory(net.to("cpu"), channels, size) + weights
    finally:
        net.to(home)
    return Cost(count_parameters(net)[0], macs, path.stat().st_size, memory)


def measure_times(
    models: Sequence[RestorationModel],
    size: tuple[int, int],
    *,
    warmups: int = WARMUPS,
    rounds: int = ROUNDS,
    batch: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time one float32 inference (the same ``batch`` random pictures) of every model on its device.

    The models take turns, so that whatever else the machine does in these seconds falls on all of them alike. The
    device is waited for before each look at the clock.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.rand(batch, model.in_channels, *size, generator=generator).to(model.device) for model in models
    ]
    seconds: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for index in range(warmups + rounds):
            for place, (model, picture) in enumerate(zip(models, pictures, strict=True)):
                _wait(model.device)
                start = clock()
                model.net(picture)
                _wait(model.device)
                elapsed = clock() - start
                if index >= warmups:
                    seconds[place].append(elapsed)
    return [_timing(each) for each in seconds]


def _timing(seconds: Sequence[float]) -> Timing:
    lower, median, upper, p95 = np.quantile(seconds, (0.25, 0.5, 0.75, 0.95)).tolist()
    return Timing(median, lower, upper, p95, len(seconds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timing_protocol(device: torch.device, size: tuple[int, int]) -> str:
    """How the times were taken, in one sentence."""
    where = f"{device}" if device.type != "cpu" else f"the CPU, {torch.get_num_threads()} threads"
    return (
        f"Latency: median (quartiles) of {ROUNDS} inferences after {WARMUPS} not counted, batch 1, float32, input "
        f"{size[0]}×{size[1]}, on {where}; the models take turns."
    )
