"""What Slurm tells a process of its place among the others, in the words of torch's launcher. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from atelier.errors import UserError

_NEEDED = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
#: Ports below are the system's, above torch's usual one there is room for a number made of the job's.
_FIRST_PORT, _PORTS = 20_000, 10_000


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT of a process that ``srun`` has started.

    The first process's machine is the first of the job's; MASTER_ADDR and MASTER_PORT that are set already stay. The
    port otherwise follows from the job's number, so that all processes agree on it and two jobs do not meet.

    Raises:
        UserError: the process was not started by Slurm, or its variables are no numbers.
    """
    missing = [name for name in _NEEDED if name not in environment]
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST")
    if not nodes and "MASTER_ADDR" not in environment:
        missing.append("SLURM_NODELIST")
    if missing:
        raise UserError(
            f"--launcher slurm needs srun ({', '.join(missing)} not set); start with: srun --ntasks=N "
            "atelier train -opt FILE --launcher slurm"
        )
    numbers = {name: environment[name] for name in _NEEDED}
    for name, text in numbers.items():
        if not text.isdecimal():
            raise UserError(f"--launcher slurm: {name} is '{text}', which is no number")
    job = environment.get("SLURM_JOB_ID", "0")
    port = _FIRST_PORT + (int(job) % _PORTS if job.isdecimal() else 0)
    return {
        "RANK": numbers["SLURM_PROCID"],
        "WORLD_SIZE": numbers["SLURM_NTASKS"],
        "LOCAL_RANK": numbers["SLURM_LOCALID"],
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_node(nodes or ""),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(port),
    }


def first_node(nodes: str) -> str:
    """The first machine of Slurm's list: ``gpu[07-09,12],login1`` gives ``gpu07``, as scontrol would."""
    name = ""
    # Up to the first comma outside brackets; in brackets the first number of the first range.
    for literal, inside in re.findall(r"([^\[,]+)|\[([^\]]*)\]|,", nodes.strip()):
        if not literal and not inside:
            break
        name += literal or re.split("[-,]", inside)[0]
    return name
