"""What it is worth on the CPU that ``atelier`` keeps freed memory (``atelier.allocator``): as Python starts, and kept.

Each figure comes from a process of its own, because the setting holds for the whole process; the two take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

CASES = {
    "Compact 64/16 x2, 640x360, one forward": (
        "SRVGGNetCompact",
        {"num_feat": 64, "num_conv": 16},
        360,
        640,
        False,
    ),
    "Compact 32/32 x2, 640x360, one forward": (
        "SRVGGNetCompact",
        {"num_feat": 32, "num_conv": 32},
        360,
        640,
        False,
    ),
    "Compact 64/16 x2, 8 crops of 64x64, one step": (
        "SRVGGNetCompact",
        {"num_feat": 64, "num_conv": 16},
        64,
        64,
        True,
    ),
    "SwinIR-light x2, 160x160, one forward": ("SwinIR", {"embed_dim": 60}, 160, 160, False),
}

PROGRAM = """
import json, resource, sys, time
from atelier.allocator import keep_freed_memory
name, options, height, width, learns, keep, repeats = json.loads(sys.argv[1])
if keep and not keep_freed_memory():
    sys.exit("this system has no such setting, or variables choose another")
import torch
from atelier.archs.registry import NETWORKS
if name == "SwinIR":
    options |= {"img_size": 64, "window_size": 8, "depths": [6] * 4, "num_heads": [6] * 4, "mlp_ratio": 2,
                "upsampler": "pixelshuffledirect", "img_range": 1.0, "resi_connection": "1conv"}
net = NETWORKS.options_class(name)(upscale=2, **options).build().train(learns)
picture = torch.rand(8 if learns else 1, 3, height, width)
def once():
    if learns:
        net.zero_grad()
        net(picture).square().mean().backward()
    else:
        with torch.inference_mode():
            net(picture)
once()
times = []
for _ in range(repeats):
    begun = time.perf_counter()
    once()
    times.append(time.perf_counter() - begun)
used = resource.getrusage(resource.RUSAGE_SELF)
share = used.ru_stime / (used.ru_stime + used.ru_utime)
print(json.dumps([sorted(times)[len(times) // 2], used.ru_maxrss * 1024, share]))
"""


def measure(case: str, keep: bool, repeats: int) -> tuple[float, float, float]:
    """Seconds of the median repeat, peak bytes of the process, and the system's share of the processor's time."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([*CASES[case], keep, repeats])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        sys.exit(2)
    seconds, peak, system = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak, system


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure")
    parser.add_argument("--repeats", type=int, default=5, help="forwards or steps in each")
    arguments = parser.parse_args()
    print("| case | as Python starts | freed memory kept | ratio | system time | peak memory |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        rounds = [
            [measure(case, keep, arguments.repeats) for keep in (False, True)]
            for _ in range(arguments.rounds)
        ]
        (before, peak, share), (after, kept_peak, kept_share) = (
            tuple(statistics.median(values) for values in zip(*column, strict=True))
            for column in zip(*rounds, strict=True)
        )
        print(
            f"| {case} | {1000 * before:.0f} ms | {1000 * after:.0f} ms | {before / after:.2f} "
            f"| {share:.0%} to {kept_share:.0%} | {peak / 2**20:.0f} to {kept_peak / 2**20:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
