"""What tests of several rooms share."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def small_run(root: Path, **sections: Any) -> dict[str, Any]:
    """Options of a run of seconds: a tiny x2 Compact network on small bundled photographs."""
    run: dict[str, Any] = {
        "name": "small",
        "scale": 2,
        "manual_seed": 3,
        "num_gpu": 0,
        "datasets": {
            "train": {
                "dataroot_gt": "bundled",
                "pictures": ["coffee", "rocket"],
                "gt_size": 32,
                "batch_size_per_gpu": 4,
                "num_worker_per_gpu": 0,
            },
            "val": {"dataroot_gt": "bundled", "pictures": ["chelsea"]},
        },
        "network_g": {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 2},
        "path": {"experiments_root": str(root)},
        "train": {"total_iter": 8, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0.9},
        "val": {"val_freq": 4},
        "logger": {"print_freq": 3, "save_checkpoint_freq": 4, "use_tb_logger": False},
    }
    for section, values in sections.items():
        if isinstance(values, dict) and isinstance(run.get(section), dict):
            run[section] = {**run[section], **values}
        else:
            run[section] = values
    return run


def command_in_process(arguments: list[str], environment: dict[str, str], output: Path) -> None:
    """The command line inside a forked process; what it prints goes to ``output``."""
    import os
    import sys

    os.environ.update(environment)
    sys.path += environment.get("PYTHONPATH", "").split(os.pathsep)
    with output.open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        # The fork server's process has no standard input to read from and no terminal to draw on.
        from atelier.cli.main import main

        main(arguments)


def start_command(arguments: list[str], output: Path, **environment: str) -> Any:
    """Start ``atelier ARGUMENTS`` as a process of its own, forked from one that has imported torch already.

    A fresh interpreter would spend seconds on imports, which a test that starts many does not need to.
    """
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["atelier.train.run", "torch._dynamo"])
    process = context.Process(target=command_in_process, args=(arguments, environment, output))
    process.start()
    return process


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def two_ranks(path: Path) -> tuple[list[int], str]:
    """Exit codes and output of both ranks; the environment is the one torchrun gives."""
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    outputs = [path.parent / f"output_{rank}" for rank in range(2)]
    command = ["train", "-opt", str(path), "--launcher", "pytorch"]
    ranks = [
        start_command(command, output, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank, output in enumerate(outputs)
    ]
    for process in ranks:
        process.join(240)
    return [process.exitcode for process in ranks], "".join(output.read_text() for output in outputs)
