"""Freed memory that the next array gets without the system's help."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from atelier.allocator import _glibc

pytestmark = pytest.mark.skipif(_glibc() is None, reason="only GNU's C library has these settings")

#: Page faults of the second and later arrays of 96 MiB, bytes idle after the last one was freed, and what was answered.
PROGRAM = """
import resource, sys, threading
import numpy as np
from atelier.allocator import idle_memory, keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None

def work():
    np.ones(96 * 2**20, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(96 * 2**20, np.uint8)
    print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, idle_memory())

if sys.argv[2] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def run(mode: str, where: str = "main", **variables: str) -> tuple[str, int, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    clean.pop("LD_PRELOAD", None)
    command = [sys.executable, "-c", PROGRAM, mode, where]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    kept, faults, idle = done.stdout.split()
    return kept, int(faults), int(idle)


@pytest.mark.parametrize("where", ["main", "thread"])
def test_freed_memory_is_used_again(where: str) -> None:
    # Huge pages may make the faults few, never as few as none at all.
    _, faults, idle = run("leave", where)
    assert faults >= 4 * 48 and idle < 64 * 2**20
    kept, fewer, more = run("keep", where)
    assert kept == "True"
    assert fewer < faults / 20
    assert more >= 96 * 2**20


@pytest.mark.parametrize(
    "choice", [{"MALLOC_TRIM_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.check=0"}]
)
def test_a_users_own_choice_stands(choice: dict[str, str]) -> None:
    kept, faults, _ = run("keep", **choice)
    assert kept == "False" and faults >= 4 * 48
