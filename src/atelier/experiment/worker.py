"""Training processes that begin at once.

Every run is a process of its own that does what ``python -m atelier train -opt FILE`` does. It is forked from a server
that has imported torch already (:mod:`multiprocessing`'s fork server): a fresh interpreter would spend seconds on
imports, which is more than a whole run of a small study. The server touches no device, so each process chooses its own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from atelier.locks import note_owner

#: What a training process needs anyway; the last is loaded by the first optimiser step.
_PRELOADED = ["atelier.train.run", "atelier.cli.main", "torch._dynamo"]


class _Inherited:
    """A file descriptor that the process shares; an ``flock`` on it holds until both have closed it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.descriptor),)


def _received(duplicate: Any) -> int:
    return int(duplicate.detach())


def launch(
    arguments: Sequence[str],
    log: Path,
    *,
    threads: int,
    environment: Mapping[str, str] | None = None,
    keep: int | None = None,
) -> ForkServerProcess:
    """Start ``python -m atelier ARGUMENTS``; its exit code is that of the command line.

    Args:
        arguments: of the command line.
        log: a file that everything it prints is appended to.
        threads: CPU threads of the process.
        environment: variables it gets beside this process's.
        keep: the descriptor of a lock, which it notes itself in and holds as long as it lives.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    log.parent.mkdir(parents=True, exist_ok=True)
    told = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **(environment or {})}
    held = _Inherited(keep) if keep is not None else None
    process = context.Process(
        target=_work,
        args=(list(arguments), str(log), str(Path.cwd()), threads, told, held),
        name="atelier-run",
    )
    process.start()
    return process


def _work(
    arguments: list[str], log: str, folder: str, threads: int, environment: dict[str, str], held: int | None
) -> None:
    """Inside the process. ``held`` stays open because nothing closes it."""
    # Not the runner's to do: it waits for the server's imports, and may be killed meanwhile.
    if held is not None:
        note_owner(held)
    # Ctrl-C in the terminal is the runner's to pass on: a second signal would make a run leave without saving.
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    import torch

    # The server read OMP_NUM_THREADS when it loaded torch, for whoever started it first.
    torch.set_num_threads(threads)
    sys.argv = ["atelier", *arguments]
    runpy.run_module("atelier", run_name="__main__")
