"""The files of docs/cluster: syntax, required fields, and commands that this program has."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from support import REPOSITORY, free_port, small_run

FOLDER = REPOSITORY / "docs" / "cluster"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])


def known(words: list[str]) -> None:
    """Every flag of an ``atelier`` command exists."""
    from typer.main import get_command

    from atelier.cli.main import app, with_dashes

    command: Any = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    flags = {name for parameter in command.params for name in parameter.opts}
    given = [word for word in with_dashes(words) if re.match(r"-[a-z-]", word)]
    assert given and set(given) <= flags, set(given) - flags


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_name_real_flags(path: Path) -> None:
    result = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    text = path.read_text()
    assert "set -euo pipefail" in text
    for line in re.findall(r"^srun .*$", text, flags=re.M):
        known(shlex.split(line.partition("atelier ")[2]))
    if path.suffix == ".sbatch":
        directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, flags=re.M))
        assert {"nodes", "ntasks-per-node", "time", "requeue"} <= directives.keys()
        # Slurm reads directives only before the first command.
        assert text.rindex("#SBATCH") < text.index("set -euo")
        assert text.startswith("#!") and "--launcher slurm" in text


def test_there_are_scripts() -> None:
    assert [path.name for path in SCRIPTS] == ["restore.sbatch", "torchrun.sh", "train.sbatch"]


def test_the_kubernetes_job() -> None:
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert isinstance(job["spec"]["nprocPerNode"], str), "the operator's schema asks for a string"
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert replicas["Master"]["replicas"] == 1 and replicas["Worker"]["replicas"] >= 1
    for replica in replicas.values():
        assert replica["restartPolicy"] in {"Always", "OnFailure", "Never", "ExitCode"}
        pod = replica["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch" and container["image"]
        words = [*container["command"], *container["args"]]
        assert all(isinstance(word, str) for word in words)
        assert words[:3] == ["torchrun", "-m", "atelier"] and words[-2:] == ["--launcher", "pytorch"]
        known(words[3:])
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            each["name"] for each in pod["volumes"]
        }
        assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
        assert all(isinstance(each["value"], str) for each in container["env"])


def test_the_page_names_every_file() -> None:
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    for path in FOLDER.iterdir():
        assert f"cluster/{path.name}" in page


#: Ranks and micro-batches are summed in another order. (Convolutions of one sample round otherwise than those of four:
#: a single process without micro-batches is 5e-5 away.)
TOLERANCE = 1e-6


@pytest.mark.slow
def test_two_nodes_of_two_ranks_train_as_one_process(tmp_path: Path) -> None:
    """Two agents of torchrun, as on two machines, started by the script of the docs."""
    from atelier.train.run import train

    options = small_run(tmp_path / "four")
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    options["datasets"]["val"]["pictures"] = ["chelsea", "coffee", "astronaut"]
    path = tmp_path / "run.yml"
    path.write_text(json.dumps(options))
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "NODES": "2",
        "PROCESSES": "2",
        "OMP_NUM_THREADS": "1",
    }
    environment["MASTER_PORT"] = str(free_port())
    outputs = [tmp_path / f"node_{node}" for node in range(2)]
    nodes = []
    for node, output in enumerate(outputs):
        with output.open("w") as file:
            nodes.append(
                subprocess.Popen(
                    [str(FOLDER / "torchrun.sh"), "train", "-opt", str(path)],
                    env={**environment, "NODE": str(node)},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [node.wait(400) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert codes == [0, 0], "".join(output.read_text() for output in outputs)
    four = tmp_path / "four" / "small"
    assert json.loads((four / "environment.json").read_text())["processes"] == 4
    alone = json.loads(path.read_text())
    alone["path"]["experiments_root"] = str(tmp_path / "one")
    alone["datasets"]["train"]["batch_size_per_gpu"] = 4
    alone["train"]["accumulate"] = 4
    one = train(alone, quiet=True).folder
    for key in ("params", "params_ema"):
        left, right = (torch.load(run / "models/net_g_8.pth", weights_only=True)[key] for run in (one, four))
        worst = max(float((left[name] - right[name]).abs().max()) for name in left)
        assert worst < TOLERANCE
    last = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (one, four)]
    assert last[0]["images"].keys() == last[1]["images"].keys() == {"chelsea", "coffee", "astronaut"}
    for name, values in last[0]["images"].items():
        assert abs(values["psnr"] - last[1]["images"][name]["psnr"]) < 1e-2
