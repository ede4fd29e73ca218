"""ELSA against window attention in a SwinIR, and against ELSA written straight from its formula, in one run.

    python benchmarks/elsa.py [--side 32] [--rounds 3] [--threads 2] [--dim 180] [--depth 2] [--full]

The network is a grey denoiser, one residual group of ``--depth`` blocks; one step is forward, L1 loss, backward and
Adam, float32. "formula" unfolds the values and stores every filter, the stand-in for operators that work so. Forms
are timed in turn (A B C A B C ...); ratios are of medians, the formula being 1. "saved": bytes that autograd keeps
between forward and backward, each storage once, weights left out. "resident": growth of the peak resident size over
two steps, each form in a fresh process.

``--full``: one training step of the source document's configuration (C180, 6 x 6 blocks, patch 128, batch 1) with
activation checkpointing, in a fresh process; peak resident size of the whole process, and what it grew by.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from swinir_cases import largest_difference, medians
from swinir_training_step import Case, _peak_kib, saved_bytes, stepper
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs import SwinIR, swinir_elsa

FORMS: dict[str, dict[str, Any]] = {
    "formula": {"attention": "elsa", "elsa": {"lam": 1}},
    "elsa": {"attention": "elsa", "elsa": {"lam": 1}},
    "elsa, in windows": {"attention": "elsa", "elsa": {"lam": 1, "scope": "window"}},
    "window": {},
}


def unfolded(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    v: Tensor,
    mul: Tensor,
    add: Tensor,
    size: tuple[int, int, int],
) -> Tensor:
    """What ``mix_taps`` computes, with every neighbourhood and every filter in memory."""
    height, width, maps = size
    taps = mul.shape[1]
    side = round(taps**0.5)
    heads = weight.shape[0] // taps
    pictures = v.view(-1, height * width, maps).permute(2, 0, 1).reshape(maps, -1, height, width)
    values = F.unfold(pictures, side, padding=side // 2).view(maps, heads, -1, taps, height * width)
    logits = torch.addmm(bias[:, None], weight, hidden).view(heads, 1, taps, -1, maps)
    attention = logits.permute(4, 0, 1, 2, 3).softmax(3)
    filters = mul.view(heads, -1, taps, 1) * attention + add.view(heads, -1, taps, 1)
    return (filters * values).sum(3).permute(1, 2, 3, 0).reshape(v.shape)


def options_of(form: str, dim: int, depths: list[int], side: int, **more: Any) -> dict[str, Any]:
    common = {
        "img_size": 64,
        "in_chans": 1,
        "embed_dim": dim,
        "depths": depths,
        "num_heads": [6] * len(depths),
    }
    rest = {"window_size": 8, "mlp_ratio": 2, "drop_path_rate": 0.0, "upsampler": ""}
    return common | rest | FORMS[form] | more


class FormulaSwinIR(SwinIR):
    """Ours, with :func:`unfolded` in place of ``mix_taps`` for the time of a forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        ours = swinir_elsa.mix_taps
        swinir_elsa.mix_taps = unfolded
        try:
            return super().forward(x)
        finally:
            swinir_elsa.mix_taps = ours


def build(form: str, dim: int, depth: int, side: int) -> tuple[nn.Module, Case]:
    torch.manual_seed(0)
    options = options_of(form, dim, [depth], side)
    case = Case(form, options, (1, 1, side, side))
    return (FormulaSwinIR if form == "formula" else SwinIR)(**options), case


def _resident(form: str, dim: int, depth: int, side: int, threads: int, answer: Any) -> None:
    torch.set_num_threads(threads)
    net, case = build(form, dim, depth, side)
    answer.put(_growth(stepper(net, case), 2)[0])


def _growth(step: Callable[[], None], steps: int) -> tuple[int, int]:
    """(growth of the peak, the peak) in bytes over these steps."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kib()
    for _ in range(steps):
        step()
    return (_peak_kib() - before) * 1024, _peak_kib() * 1024


def _full(threads: int, answer: Any) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    options = options_of("elsa", 180, [6] * 6, 128, use_checkpoint=True) | {"elsa": {}}
    net = SwinIR(**options).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    x = torch.rand(1, 1, 128, 128)

    def step() -> None:
        F.l1_loss(net(x), torch.zeros_like(x)).backward()
        optimizer.step()

    started = time.perf_counter()
    growth, peak = _growth(step, 1)
    answer.put((growth, peak, time.perf_counter() - started, sum(p.numel() for p in net.parameters())))


def in_fresh_process(target: Callable[..., None], *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=target, args=(*arguments, answer))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the measurement {target.__name__}{arguments} ended with code {process.exitcode}")
    return answer.get()


def evaluation(net: nn.Module, case: Case) -> Callable[[], Tensor]:
    x = torch.rand(case.input_shape, generator=torch.Generator().manual_seed(1))

    def run() -> Tensor:
        net.eval()
        with torch.no_grad():
            return net(x)  # type: ignore[no-any-return]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=32, help="side of the patch")
    parser.add_argument("--dim", type=int, default=180)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="only the step of the full configuration")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.full:
        growth, peak, seconds, parameters = in_fresh_process(_full, given.threads)
        print(
            f"torch {torch.__version__}, {given.threads} threads; {parameters:,} parameters; one step, checkpointed"
        )
        print(
            f"peak resident {peak / 1e9:.2f} GB, grown by {growth / 1e9:.2f} GB in the step; {seconds:.0f} s"
        )
        return
    shape = (given.dim, given.depth, given.side)
    nets = [build(form, *shape) for form in FORMS]
    agree = largest_difference(*(evaluation(*nets[i])() for i in (0, 1)))
    resident = [in_fresh_process(_resident, form, *shape, given.threads) for form in FORMS]
    saved = [saved_bytes(*each) for each in nets]
    forward = medians([evaluation(*each) for each in nets], given.rounds)

    def training(net: nn.Module, case: Case) -> Callable[[], None]:
        step = stepper(net, case)

        def run() -> None:
            net.train()
            step()

        return run

    steps = medians([training(*each) for each in nets], given.rounds)
    print(
        f"torch {torch.__version__}, {given.threads} threads, medians of {given.rounds}; C{given.dim}, "
        f"{given.depth} blocks, {given.side}x{given.side}, batch 1; formula and elsa differ by {agree:.1e}"
    )
    print(
        f"{'attention':<18}{'forward':>10}{'ratio':>7}{'step':>10}{'ratio':>7}{'saved':>10}{'resident':>11}"
    )
    for i, form in enumerate(FORMS):
        print(
            f"{form:<18}{forward[i][0] * 1e3:>7.0f} ms{forward[0][0] / forward[i][0]:>7.2f}"
            f"{steps[i][0] * 1e3:>7.0f} ms{steps[0][0] / steps[i][0]:>7.2f}"
            f"{saved[i] / 1e6:>7.0f} MB{resident[i] / 1e6:>8.0f} MB"
        )


if __name__ == "__main__":
    main()
