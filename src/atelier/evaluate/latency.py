"""What a network costs to run: time beside other networks, multiply-adds, memory, file size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from atelier.archs.info import count_macs, count_parameters, peak_memory
from atelier.restore import RestorationModel
from atelier.restore.exported import ExportedNetwork, model_files
from atelier.restore.grid import round_up
from atelier.restore.memory import is_out_of_memory

#: Runs before the clock counts: caches, lazy kernels, autotuning.
WARMUPS = 5
#: Timed runs of each network.
ROUNDS = 20
#: What has no value where a network does not run, as criteria name it.
_NEED_A_RUN = ("macs", "memory_mb", "latency_ms", "latency_ratio")


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
    """What one network costs; None is what is not known.

    Attributes:
        parameters: their number; None where an exported model does not say it.
        macs: multiply-adds of one picture; None where the network cannot be counted.
        file_bytes: size of the weight file, or of all files of an exported model.
        memory_bytes: float32 weights and the tensors alive at once, at most, in one inference; what operators
            need inside themselves is not seen. For exported models what the file states of the tensors.
        timing: None where it was not measured.
        not_known: measure, as criteria name it -> why it has no value.
    """

    parameters: int | None
    macs: int | None
    file_bytes: int
    memory_bytes: int | None
    timing: Timing | None = None
    not_known: Mapping[str, str] = field(default_factory=dict)

    @property
    def can_be_timed(self) -> bool:
        """Whether the network ran."""
        return "latency_ms" not in self.not_known


def common_size(models: Sequence[RestorationModel], size: tuple[int, int]) -> tuple[int, int]:
    """``size`` rounded up to what all models take: the least common multiple of their windows."""
    multiple = math.lcm(*(model.facts.size_multiple for model in models))
    return round_up(size[0], multiple), round_up(size[1], multiple)


def measure_cost(model: RestorationModel, path: Path, size: tuple[int, int]) -> Cost:
    """Everything but the time; ``size`` is (height, width) of the input in pixels.

    The network runs once on its device: where it cannot, the reason stands in the result and nothing is raised.
    """
    net = model.net
    if isinstance(net, ExportedNetwork):
        cost = _stated_cost(net, path, size)
    else:
        cost = Cost(count_parameters(net)[0], None, path.stat().st_size, None)
    try:
        measure_times([model], size, warmups=0, rounds=1)
    except Exception as error:  # foreign networks raise whatever they like, and no measurement may end by it
        why = dict.fromkeys(_NEED_A_RUN, f"it does not run at {size[0]}×{size[1]}: {why_it_stopped(error)}")
        return replace(cost, macs=None, memory_bytes=None, not_known=why | dict(cost.not_known))
    return cost if isinstance(net, ExportedNetwork) else _watched(cost, model, size)


def _stated_cost(net: ExportedNetwork, path: Path, size: tuple[int, int]) -> Cost:
    """Torch sees nothing of what happens in another runtime; the file says what it may cost."""
    facts, stated = net.facts, net.stated_cost
    not_known = {"macs": "those of exported models are not counted"}
    if facts.parameters is None:
        not_known["parameters"] = "the model does not say it"
    memory = None
    if facts.parameters is None or stated is None:
        not_known["memory_mb"] = "the model does not say it"
    else:
        # A graph of one size runs window by window; what grows with the picture is the result.
        window = facts.size or size
        whole = 4 * facts.out_channels * facts.scale**2 * math.prod(size) if facts.size is not None else 0
        memory = 4 * facts.parameters + whole + round(stated.bytes_per_pixel * math.prod(window))
    return Cost(
        facts.parameters,
        None,
        sum(each.stat().st_size for each in model_files(path)),
        memory,
        not_known=not_known,
    )


def _watched(cost: Cost, model: RestorationModel, size: tuple[int, int]) -> Cost:
    """``cost`` with multiply-adds and memory of a network in PyTorch, as far as they can be found."""
    not_known = dict(cost.not_known)
    macs = memory = None
    try:
        macs = count_macs(model.net, model.in_channels, size).total
    except (RuntimeError, NotImplementedError, TypeError):
        # A foreign network that makes tensors of its own in forward.
        not_known["macs"] = "this network does not run without data"
    try:
        memory = tensors_alive(model, size)
    except Exception as error:  # it ran on its device, but memory is watched on the CPU
        not_known["memory_mb"] = f"on the CPU it does not run at {size[0]}×{size[1]}: {why_it_stopped(error)}"
    return replace(cost, macs=macs, memory_bytes=memory, not_known=not_known)


def tensors_alive(model: RestorationModel, size: tuple[int, int]) -> int:
    """Bytes of float32 weights and of the tensors alive at once, at most, in one inference; of networks in PyTorch."""
    net, home = model.net, model.device
    weights = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    try:
        return peak_memory(net.to("cpu"), model.in_channels, size) + weights
    finally:
        net.to(home)


def why_it_stopped(error: Exception) -> str:
    """One line for what a network raised."""
    if is_out_of_memory(error):
        return "memory ran out"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


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
