"""Two gloo ranks against one process with the same global batch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier.train.run import train
from support import free_port, small_run, two_ranks

#: Summation order differs between one batch of four and two of two; float32 and Adam's division leave this much.
TOLERANCE = 2e-5


def two_rank_options(root: Path) -> dict[str, Any]:
    options = small_run(root)
    options["datasets"]["train"]["batch_size_per_gpu"] = 2
    options["datasets"]["val"]["pictures"] = ["chelsea", "coins", "astronaut"][::2]
    return options


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text(json.dumps(two_rank_options(tmp_path / "two")))
    codes, output = two_ranks(path)
    assert codes == [0, 0], output
    options = two_rank_options(tmp_path / "one")
    options["datasets"]["train"]["batch_size_per_gpu"] = 4
    one = train(options, quiet=True).folder
    two = tmp_path / "two" / "small"
    for key in ("params", "params_ema"):
        left, right = (torch.load(run / "models/net_g_8.pth", weights_only=True)[key] for run in (one, two))
        worst = max(float((left[name] - right[name]).abs().max()) for name in left)
        assert worst < TOLERANCE
    last = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (one, two)]
    assert last[0]["images"].keys() == last[1]["images"].keys()
    for name, values in last[0]["images"].items():
        assert abs(values["psnr"] - last[1]["images"][name]["psnr"]) < 1e-2


def test_a_rank_that_fails_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    plugin = tmp_path / "dying_rank.py"
    plugin.write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from atelier.train.trainer import Trainer\n"
        "    from atelier.errors import RunStopped\n"
        "    real = Trainer.step\n"
        "    def step(self, batch):\n"
        "        if self.iteration == 2:\n"
        "            raise RunStopped('the second machine lost its mind')\n"
        "        real(self, batch)\n"
        "    Trainer.step = step\n"
    )
    path = tmp_path / "run.yml"
    path.write_text(json.dumps({**two_rank_options(tmp_path / "two"), "plugins": ["dying_rank"]}))
    codes, output = two_ranks(path)
    assert codes[1] == 2
    assert codes[0] == 2, "the first rank must not go on alone"
    assert "error on rank 1: the second machine lost its mind" in output
    assert "error on rank 0: another rank has stopped" in output and "Traceback" not in output


@pytest.mark.slow
def test_torchrun_starts_both(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text(json.dumps(two_rank_options(tmp_path / "two")))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={free_port()}",
    ]
    command += ["-m", "atelier", "train", "-opt", str(path), "--launcher", "pytorch"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "two" / "small" / "report.html").exists()


@pytest.mark.slow
def test_two_ranks_distil_as_one_does(tmp_path: Path) -> None:
    """Student and projectors, statistics of the target, and a term that begins later than the others."""
    teacher = train({**small_run(tmp_path / "teacher"), "name": "teacher"}, quiet=True).folder
    distill = {
        "recipe": "feature@1",
        "teacher": {"weights": str(teacher / "models/net_g_8.pth"), "quality_check": "off"},
        "terms": {"feature": {"weight": {"value": 1.0, "start": 4}}, "upcycle": {}},
    }
    sections = {"objective": "distill", "distill": distill}
    path = tmp_path / "run.yml"
    path.write_text(json.dumps({**two_rank_options(tmp_path / "two"), **sections}))
    codes, output = two_ranks(path)
    assert codes == [0, 0], output
    options = {**two_rank_options(tmp_path / "one"), **sections}
    options["datasets"]["train"]["batch_size_per_gpu"] = 4
    one = train(options, quiet=True).folder
    two = tmp_path / "two" / "small"
    for name in ("net_g_8", "net_p_8"):
        left, right = (
            torch.load(run / f"models/{name}.pth", weights_only=True)["params"] for run in (one, two)
        )
        worst = max(float((left[key] - right[key]).abs().max()) for key in left)
        assert worst < TOLERANCE, name


@pytest.mark.slow
def test_two_ranks_go_on_from_kairs_files_with_projectors_and_moments(tmp_path: Path) -> None:
    """``N_G``, ``N_E``, ``N_P`` and ``N_optimizerG`` of one process, taken over by every rank."""
    teacher = train({**small_run(tmp_path / "teacher"), "name": "teacher"}, quiet=True).folder
    distill = {
        "recipe": "classic-feature@1",
        "teacher": {"weights": str(teacher / "models/net_g_8.pth"), "quality_check": "off"},
        "gradients_every": 3,
    }
    sections = {"objective": "distill", "distill": distill}
    whole = {**two_rank_options(tmp_path / "one"), **sections}
    whole["datasets"]["train"]["batch_size_per_gpu"] = 4
    one = train(whole, quiet=True).folder
    half = {**whole, "path": {"experiments_root": str(tmp_path / "two"), "layout": "kair"}}
    two = train(half, ["train.total_iter=4"], quiet=True).folder
    shutil.rmtree(two / "training_states")
    for each in (two / "models").glob("net_*"):
        each.unlink()
    rest = {**two_rank_options(tmp_path / "two"), **sections}
    rest["path"] |= {"resume": "auto"}
    path = tmp_path / "run.yml"
    path.write_text(json.dumps(rest))
    codes, output = two_ranks(path)
    assert codes == [0, 0], output
    assert "resumed: weights of network_g (4_G.pth)" in output
    for name in ("net_g_8", "net_p_8"):
        left, right = (
            torch.load(run / f"models/{name}.pth", weights_only=True)["params"] for run in (one, two)
        )
        assert left.keys() == right.keys()
        worst = max(float((left[key] - right[key]).abs().max()) for key in left)
        assert worst < TOLERANCE, name
    # Shares of the gradient are those of the ranks' mean gradient.
    shares = [
        line["details"]["grad_share_feature"]
        for run in (one, two)
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "train" and line["iter"] == 6
    ]
    assert len(shares) == 2 and abs(shares[0] - shares[1]) < 1e-4 and shares[0] > 0
