"""Training steps on the CPU while another program uses the cores too: OpenMP threads that spin against ones that sleep.

``atelier`` sets ``OMP_WAIT_POLICY=PASSIVE`` unless the user chose otherwise; this prints what that is worth, and what
it costs on an idle machine. Each cell is a process of its own, because the policy is read once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

STEP = """
import sys, time, torch
from torch import nn
layers = [layer for i in range(7) for layer in (nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1), nn.PReLU(32))]
net = nn.Sequential(*layers, nn.Conv2d(32, 12, 3, padding=1))
x = torch.rand(8, 3, 32, 32)
def step():
    net.zero_grad()
    net(x).square().mean().backward()
for _ in range(5):
    step()
start, steps, seconds = time.perf_counter(), 0, float(sys.argv[1])
while time.perf_counter() - start < seconds:
    step()
    steps += 1
print((time.perf_counter() - start) / steps * 1e3)
"""


def milliseconds(policy: str, seconds: float) -> float:
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    command = [sys.executable, "-c", STEP, str(seconds)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("one training step of a small network, ms, median of rounds (A B A B ...)")
    print(f"{'cores':<28}{'ACTIVE':>10}{'PASSIVE':>10}{'ratio':>8}")
    for label, others in (("idle", 0), ("one busy loop beside it", 1)):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
        try:
            time.sleep(1)
            rounds = [
                [milliseconds(policy, arguments.seconds) for policy in ("ACTIVE", "PASSIVE")]
                for _ in range(arguments.rounds)
            ]
        finally:
            for process in busy:
                process.kill()
        active, passive = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{label:<28}{active:>10.1f}{passive:>10.1f}{active / passive:>8.2f}")


if __name__ == "__main__":
    main()
