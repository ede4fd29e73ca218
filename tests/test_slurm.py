"""--launcher slurm: the place among the processes is read from Slurm's variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atelier.errors import UserError
from atelier.slurm import first_node, slurm_environment
from support import free_port, small_run, start_command

SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODELIST": "gpu[07-09,12],login1",
    "SLURM_JOB_ID": "7654321",
}


def test_slurms_variables_in_torchs_words() -> None:
    expected = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "24321",
    }
    assert slurm_environment(SLURM) == expected
    # What is set stays, also where a step has machines of its own.
    given = {**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert slurm_environment(given) == expected | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert slurm_environment({**SLURM, "SLURM_STEP_NODELIST": "gpu08"})["MASTER_ADDR"] == "gpu08"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("host", "host"), ("a1,b2", "a1"), ("n-3-[01,03-05]", "n-3-01"), ("c[1-2]-[0,3],d", "c1-0")],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_outside_slurm_it_says_how_to_start() -> None:
    with pytest.raises(UserError, match=r"SLURM_PROCID, SLURM_NODELIST not set\); start with: srun"):
        slurm_environment({"SLURM_NTASKS": "1", "SLURM_LOCALID": "0"})
    with pytest.raises(UserError, match="SLURM_PROCID is 'x', which is no number"):
        slurm_environment({**SLURM, "SLURM_PROCID": "x"})


def test_a_run_of_one_process(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    options = small_run(tmp_path / "runs")
    options["datasets"].pop("val")
    path.write_text(json.dumps(options))
    variables = {**SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}
    variables |= {"SLURM_NODELIST": "localhost", "MASTER_PORT": str(free_port())}
    words = ["train", "-opt", str(path), "--launcher", "slurm", "--force_yml", "train:total_iter=3"]
    process = start_command(words, tmp_path / "output", **variables)
    process.join(120)
    output = (tmp_path / "output").read_text()
    assert process.exitcode == 0, output
    assert (tmp_path / "runs" / "small" / "models" / "net_g_3.pth").exists()
    facts = json.loads((tmp_path / "runs" / "small" / "environment.json").read_text())
    assert facts["processes"] == 1
