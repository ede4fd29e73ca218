"""Work on many files in several processes, with a progress bar, in order, stopping cleanly.

Processes and not threads: choosing PNG filters, unpacking and hashing small pieces hold Python's lock. They are
started afresh (``spawn``), so they load only what the job's own module imports: never torch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from atelier.errors import UserError
from atelier.progress import progress

T = TypeVar("T")
R = TypeVar("R")

_FEW = 16  # starting a process takes about as long as this many pictures


def usable_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_through(
    function: Callable[[T], R],
    jobs: Sequence[T],
    title: str,
    *,
    unit: str = "pictures",
    workers: int | None = None,
    quiet: bool = False,
    weight: Callable[[T], int] = lambda job: 1,
) -> Iterator[R]:
    """``function(job)`` of every job, in the order of the jobs.

    Args:
        function: a module's function (it travels to other processes by name); errors that concern one file belong
            into its result, what it raises ends everything.
        jobs: what can be pickled.
        title, unit: of the progress bar.
        workers: processes; by default one a core, but none for few jobs; 0 or 1 works in this process.
        quiet: no progress bar.
        weight: how many units a job counts for.

    Raises:
        UserError: a process was killed (by the system, when memory ran out).
    """
    if workers is None:
        workers = usable_cores() if len(jobs) >= _FEW else 1
    workers = min(workers, len(jobs), 61)  # Windows can wait for no more
    with progress(title, sum(map(weight, jobs)), unit, quiet=quiet) as bar:
        if workers <= 1:
            for job in jobs:
                result = function(job)
                bar.advance(weight(job))
                yield result
            return
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start) as pool:
            try:
                futures = [pool.submit(function, job) for job in jobs]
                for job, future in zip(jobs, futures, strict=True):
                    result = future.result()
                    bar.advance(weight(job))
                    yield result
            except BrokenProcessPool as error:
                raise UserError(
                    f"{title}: a worker process was killed, most likely because memory ran out; "
                    "run the command again with fewer --workers (what is done is kept)"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _start(*_: Any) -> None:
    """Ctrl-C is the parent's business: it lets the pieces under way finish and starts no others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
