"""SwinIR's training step against spandrel's module with the same weights, in one run.

    python benchmarks/swinir_training_step.py [--rounds 7] [--threads 2] [--case lightweight denoiser] [--no-memory]

One step is forward, L1 loss, backward and a fused Adam update, float32, drop path 0. Times are taken in turn
(A B A B ...) on this process; ratios are of medians. "gradient error" is the largest difference of a parameter's
gradient in the first step, relative to the largest entry of that gradient. "floor" is the time that the step's
products alone would take: forward once, backward twice, at the rate of this machine's best matrix product (square,
2048), measured in the same run; how far a form is from it stands behind.

Memory, two ways. "resident": growth of the peak resident size over three steps, each network in a fresh process
(the kernel's high-water mark, reset after the network is built where the system allows it). "saved": bytes that
autograd keeps between forward and backward, each storage once, weights left out; it does not depend on the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from swinir_cases import CASES, Case, medians, pair
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.info import count_macs

FORMS = ("spandrel", "ours")


def stepper(net: nn.Module, case: Case) -> Callable[[], None]:
    """One training step of ``net`` on fixed data."""
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    x = torch.rand(case.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        target = torch.rand_like(net(x))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.l1_loss(net(x), target).backward()
        optimizer.step()

    return step


def gradient_error(case: Case) -> float:
    """Of a squared loss, whose gradient is smooth: signs of near-zero differences would hide what is compared."""
    x = torch.rand(case.input_shape)
    nets = pair(case)
    for net in nets:
        net.train()
        net(x).square().mean().backward()
    reference, ours = (dict(net.named_parameters()) for net in nets)
    return max(
        ((ours[key].grad - each.grad).abs().max() / each.grad.abs().max().clamp_min(1e-30)).item()
        for key, each in reference.items()
    )


def saved_bytes(net: nn.Module, case: Case) -> int:
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    own |= {buffer.untyped_storage().data_ptr() for buffer in net.buffers()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    net.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = net(torch.rand(case.input_shape)).mean()
    total = sum(seen.values())
    del loss
    return total


def _peak_kib() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _resident_growth(name: str, form: str, threads: int, answer: multiprocessing.SimpleQueue[int]) -> None:
    torch.set_num_threads(threads)
    case = CASES[name]
    net = dict(zip(FORMS, pair(case), strict=True))[form]
    step = stepper(net, case)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kib()
    for _ in range(3):
        step()
    answer.put((_peak_kib() - before) * 1024)


def resident_growth(name: str, form: str, threads: int) -> int:
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_resident_growth, args=(name, form, threads, answer))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the memory measurement of {name} {form} ended with code {process.exitcode}")
    return int(answer.get())


def product_rate() -> float:
    """Floating-point operations a second of a 2048 x 2048 x 2048 product, the best of ten."""
    side = 2048
    a, b = torch.rand(side, side), torch.rand(side, side)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def floor_seconds(net: nn.Module, case: Case, rate: float) -> float:
    batch, channels, height, width = case.input_shape
    return 3 * 2 * batch * count_macs(net, channels, (height, width)).total / rate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--no-memory", action="store_true", help="times only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads; medians of {arguments.rounds}; target: ratio 1.2"
    )
    rate = product_rate()
    print(f"best matrix product of this machine: {rate / 1e9:.0f} GFLOP/s")
    print(f"{'network':<28}{'form':<10}{'ms':>8}{'ratio':>8}{'cpu ratio':>11}{'resident':>11}{'saved':>10}")
    for name in arguments.case:
        case = CASES[name]
        memory = {
            form: ""
            if arguments.no_memory
            else f"{resident_growth(name, form, arguments.threads) / 1e6:.0f} MB"
            for form in FORMS
        }
        nets = pair(case)
        saved = [saved_bytes(net, case) for net in nets]
        times = medians([stepper(net, case) for net in nets], arguments.rounds)
        for form, size, (wall, cpu) in zip(FORMS, saved, times, strict=True):
            print(f"{case.title:<28}{form:<10}{wall * 1e3:>8.0f}{times[0][0] / wall:>8.2f}", end="")
            print(f"{times[0][1] / cpu:>11.2f}{memory[form]:>11}{f'{size / 1e6:.0f} MB':>10}", flush=True)
        floor = floor_seconds(nets[1], case, rate)
        away = ", ".join(f"{form} {wall / floor:.1f}x" for form, (wall, _) in zip(FORMS, times, strict=True))
        print(f"{case.title:<28}floor {floor * 1e3:.0f} ms; above it: {away}", flush=True)
        print(f"{case.title:<28}gradient error {gradient_error(case):.1e}", flush=True)


if __name__ == "__main__":
    main()
