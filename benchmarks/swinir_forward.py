"""SwinIR's forward pass against spandrel's module with the same weights, in one run.

    python benchmarks/swinir_forward.py [--rounds 9] [--threads 2] [--case lightweight denoiser] [--no-bf16]

Rows: spandrel float32, ours float32, ours bfloat16 (weights and input converted), all eager and taken in turn
(A B C A B C ...). Ratios are of median wall times; the processor-time ratio stands beside them, because a busy machine
stretches wall time. "error" is the largest difference to spandrel's float32 output, at the networks' start weights.
bfloat16 pays only where the processor computes in it (AVX512-BF16, AMX); the head of the table says whether this
one does, and where it does not the row is slow (``--no-bf16`` leaves it out).
"""

from __future__ import annotations

import argparse
import copy

import torch
from swinir_cases import CASES, largest_difference, medians, pair

TARGETS = {("lightweight", "ours fp32"): 2.0, ("denoiser", "ours fp32"): 1.4}
BF16_TARGET = 3.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--no-bf16", action="store_true", help="leave the bfloat16 row out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {torch.backends.cpu.get_cpu_capability()}, ",
        end="",
    )
    print(
        f"bfloat16 arithmetic in this processor: {'yes' if native else 'no'}; medians of {arguments.rounds}"
    )
    print(f"{'network':<28}{'form':<16}{'ms':>8}{'ratio':>8}{'cpu ratio':>11}{'target':>8}{'error':>10}")
    for name in arguments.case:
        case = CASES[name]
        reference, ours = pair(case)
        half = copy.deepcopy(ours).bfloat16()
        x = torch.rand(case.input_shape)
        x_half = x.bfloat16()
        forms = {
            "spandrel fp32": lambda net=reference, x=x: net(x),
            "ours fp32": lambda net=ours, x=x: net(x),
            "ours bf16": lambda net=half, x=x_half: net(x),
        }
        if arguments.no_bf16:
            del forms["ours bf16"]
        with torch.no_grad():
            expected = reference(x)
            errors = [largest_difference(form(), expected) for form in forms.values()]
            times = medians(list(forms.values()), arguments.rounds)
        for form, error, (wall, cpu) in zip(forms, errors, times, strict=True):
            ratio, cpu_ratio = times[0][0] / wall, times[0][1] / cpu
            target = BF16_TARGET if form == "ours bf16" else TARGETS.get((name, form))
            print(f"{case.title:<28}{form:<16}{wall * 1e3:>8.0f}{ratio:>8.2f}{cpu_ratio:>11.2f}", end="")
            print(f"{f'{target:.1f}' if target else '':>8}{error:>10.1e}", flush=True)


if __name__ == "__main__":
    main()
