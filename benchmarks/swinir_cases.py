"""The networks both SwinIR benchmarks compare: ours and spandrel's with the same weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from spandrel.architectures.SwinIR import SwinIR as Reference
from torch import Tensor, nn

from atelier.archs import SwinIR


@dataclass(frozen=True)
class Case:
    title: str
    options: dict[str, object]
    input_shape: tuple[int, int, int, int]


_COMMON = {"img_size": 64, "window_size": 8, "img_range": 1.0, "mlp_ratio": 2, "drop_path_rate": 0.0}
CASES = {
    "lightweight": Case(
        "lightweight x4, 64x64",
        _COMMON
        | {"upscale": 4, "in_chans": 3, "embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4}
        | {"upsampler": "pixelshuffledirect"},
        (1, 3, 64, 64),
    ),
    "denoiser": Case(
        "grey denoiser C180, 64x64",
        _COMMON
        | {"upscale": 1, "in_chans": 1, "embed_dim": 180, "depths": [6] * 6, "num_heads": [6] * 6}
        | {"upsampler": ""},
        (1, 1, 64, 64),
    ),
}


def pair(case: Case) -> tuple[nn.Module, nn.Module]:
    """(spandrel's network, ours), equal weights, in evaluation mode."""
    # torch deprecates the meshgrid call inside the reference; nothing a reader of the table can act on.
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    torch.manual_seed(0)
    ours = SwinIR(**case.options)
    reference = Reference(**case.options)
    reference.load_state_dict(ours.options.file_state(ours.state_dict()))
    return reference.eval(), ours.eval()


def medians(runs: list[Callable[[], object]], rounds: int) -> list[tuple[float, float]]:
    """(wall, processor) seconds of each run, medians over ``rounds``, taken in turn so that a busy machine hits all."""
    for run in runs:
        run()
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, taken in zip(runs, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    middle = rounds // 2
    return [(sorted(w for w, _ in each)[middle], sorted(c for _, c in each)[middle]) for each in times]


def largest_difference(a: Tensor, b: Tensor) -> float:
    return (a.float() - b.float()).abs().max().item()
