"""CPU seconds until ``atelier --help`` has answered, beside the interpreter alone and a bare ``import torch``."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import atelier": [sys.executable, "-c", "import atelier"],
    "atelier --help": [sys.executable, "-m", "atelier", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def cpu_seconds(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return float(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for command in COMMANDS.values():
        cpu_seconds(command)
    times = [{name: cpu_seconds(command) for name, command in COMMANDS.items()} for _ in range(rounds)]
    print(f"CPU seconds, median of {rounds} rounds")
    for name in COMMANDS:
        print(f"{name:<18}{statistics.median(each[name] for each in times):>8.2f}")
    median = statistics.median(each["atelier --help"] for each in times)
    print(f"atelier --help: target 0.50, {'met' if median < 0.5 else 'MISSED'}")


if __name__ == "__main__":
    main()
