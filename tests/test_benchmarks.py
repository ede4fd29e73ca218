"""Benchmarks that this machine has no device for still run: end with a clear line, or every form on a tiny network."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from support import REPOSITORY


def run(*arguments: str, name: str = "swinir_gpu.py") -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "benchmarks" / name
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def rows_of(text: str) -> dict[str, list[str]]:
    """form -> the cells behind it."""
    lines = [line for line in text.splitlines() if line.startswith("| tiny")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {each[1]: each[2:] for each in cells}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_gpu_benchmark_says_so() -> None:
    ended = run()
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("swinir_gpu.py: no CUDA device here") and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_every_form_of_the_gpu_benchmark_that_the_cpu_can_run() -> None:
    """Not the compiled ones, whose compilers take minutes: tests/archs/test_compiling.py has that path."""
    ended = run("--device", "cpu", "--rounds", "1", "--small", "--only", "fp32", "ours", "learned", "CUDA")
    assert ended.returncode == 0, ended.stderr
    rows = rows_of(ended.stdout)
    assert len(rows) == 11
    refused = {title for title, cells in rows.items() if cells[0].startswith("not run here: ")}
    assert refused == {title for title in rows if "TF32" in title or "CUDA graph" in title}
    for title, cells in rows.items():
        assert len(cells) == 9
        if title not in refused:
            assert float(cells[0]) > 0
            assert float(cells[8]) < (1e-5 if "fp32" in title else 0.02)
    step = "+ FlexAttention, learned bias"
    assert "does not support backward on CPU" in rows[step][4]
    assert all(float(rows[title][4]) > 0 for title in rows if title not in refused | {step})


@pytest.mark.slow
def test_every_runtime_of_the_export_benchmark() -> None:
    """Not the compiled form, see above."""
    forms = ("PyTorch eager", "onnxruntime fp32", "onnxruntime int8", "OpenVINO", "ncnn")
    for package in ("onnxruntime", "openvino", "ncnn", "pnnx"):
        pytest.importorskip(package)
    ended = run("--small", "--rounds", "1", "--threads", "1", "--only", *forms, name="export_runtimes.py")
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("| Compact")]
    rows = {cells[3].strip(): cells[4:-1] for cells in (line.split("|") for line in lines)}
    assert set(rows) == {"spandrel eager", *forms}
    for form, cells in rows.items():
        assert len(cells) == 6
        assert float(cells[0]) > 0
        assert float(cells[3]) < (0.1 if form == "onnxruntime int8" else 1e-4)
