from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atelier.restore.memory import Cost, free_memory, host_memory, is_out_of_memory

MIB = 2**20


def machine(root: Path, cgroup: str, available_kib: int = 8 * 1024) -> tuple[Path, Path]:
    proc, groups = root / "proc", root / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99999 kB\nMemAvailable: {available_kib} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    groups.mkdir()
    return proc, groups


def test_the_machine_alone(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/\n")
    assert host_memory(proc, groups) == 8 * MIB


def test_a_control_group_above_limits(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/outer/inner\n")
    inner = groups / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("5\n")
    (inner.parent / "memory.max").write_text(f"{4 * MIB}\n")
    (inner.parent / "memory.current").write_text(f"{3 * MIB}\n")
    assert host_memory(proc, groups) == 1 * MIB
    # File cache counts as used but is given back when asked.
    (inner.parent / "memory.stat").write_text(f"anon {MIB}\ninactive_file {2 * MIB}\n")
    assert host_memory(proc, groups) == 3 * MIB


def test_old_control_groups(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "5:cpu,cpuacct:/\n4:memory:/job\n0::/\n")
    job = groups / "memory" / "job"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text(f"{2 * MIB}")
    (job / "memory.usage_in_bytes").write_text(f"{3 * MIB}")
    assert host_memory(proc, groups) == 0


def test_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/not/visible/here\n")
    (groups / "memory.max").write_text(f"{6 * MIB}")
    (groups / "memory.current").write_text("0")
    assert host_memory(proc, groups) == 6 * MIB


def test_this_machine() -> None:
    assert free_memory(torch.device("cpu")) > 16 * MIB


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_failure_counts() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 50)
    assert is_out_of_memory(failed.value)


def test_more_memory_or_cheaper_pixels_fit_more() -> None:
    assert Cost(1000, 10).pixels_within(2**30) > 2 * Cost(3000, 10).pixels_within(2**30) > 0
    # However much memory there is, operators count elements with 32 bits.
    assert Cost(1, 100).pixels_within(2**50) == (2**31 - 1) // 100


@pytest.mark.slow
def test_measuring_does_not_load_torchs_compiler() -> None:
    """Its import takes seconds, for a probe of milliseconds."""
    code = (
        "import sys, torch\n"
        "from atelier.restore import restore_tensor\n"
        "net = torch.nn.Conv2d(1, 1, 3, padding=1)\n"
        "restore_tensor(net, torch.zeros(1, 1, 80, 80), scale=1, tile='auto')\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
