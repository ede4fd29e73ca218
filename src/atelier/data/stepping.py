"""Worker processes that prepare the shares of coming steps.

Workers are started by a *fork server*: a process that has imported torch and nothing else happens in. Plain ``fork``
would copy a process whose OpenMP, OpenCV and CUDA threads do not exist in the copy (it hangs at the first parallel
loop); ``spawn`` would import torch once per worker (seconds of CPU each). The server imports once, while the network
is being built, and forks workers in milliseconds.
As with ``spawn``, a Python script that trains with workers needs ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from atelier.data.options import TrainSetOptions
from atelier.errors import RunStopped, UserError

Share = TypeVar("Share")
Made = TypeVar("Made", covariant=True)


@dataclass(frozen=True)
class Failure:
    """A user's error on its way out of a loader process."""

    message: str


class Shares(Protocol[Made]):
    """``shares[step]``: one rank's share of a step, or the user's error, which must cross processes as a value."""

    def __getitem__(self, step: int) -> Made | Failure:
        """The share of ``step`` (from 1)."""


class Stepper(Generic[Share]):
    """Brings the shares of a range of steps in order, made by as many processes as the data set's options say.

    Args:
        options: the training set; its name is in messages.
        pin: page-locked buffers, for a GPU.
    """

    def __init__(self, options: TrainSetOptions, *, pin: bool) -> None:
        self._options, self._pin = options, pin
        self._workers = options.workers
        self._context = _start_server() if self._workers else None
        self._running: Iterator[Share | Failure] | None = None

    def shares(self, shares: Shares[Share], steps: range) -> Iterator[Share]:
        """``shares[step]`` for every step; one iteration at a time.

        Workers live until the iteration ends, is left, or :meth:`stop` is called.

        Raises:
            UserError: what a share's :class:`Failure` says; :class:`RunStopped` when a worker process died.
        """
        self._running = running = self._started(shares, steps)
        try:
            while self._running is running:
                share = self._next(running)
                if share is None:
                    return
                yield share
        finally:
            del running
            self._running = None

    def stop(self) -> None:
        """End the workers."""
        self._running = None

    def _started(self, shares: Shares[Share], steps: range) -> Iterator[Share | Failure]:
        if not self._workers:
            return map(shares.__getitem__, steps)
        with warnings.catch_warnings():
            # torch warns of more workers than cores; the number is the user's own.
            warnings.filterwarnings("ignore", message=".*worker processes in total")
            loader: DataLoader[Share | Failure] = DataLoader(
                _Steps(shares),
                batch_size=None,
                sampler=steps,
                num_workers=min(self._workers, len(steps)),
                multiprocessing_context=self._context,
                prefetch_factor=self._options.prefetch,
                pin_memory=self._options.pin_memory and self._pin,
                worker_init_fn=_settle_worker,
            )
            return iter(loader)

    def _next(self, running: Iterator[Share | Failure]) -> Share | None:
        try:
            share = next(running, None)
        except (RuntimeError, OSError, EOFError) as error:
            # torch says so in words; a worker that dies while it hands a tensor over leaves a broken connection.
            if not self._workers or (isinstance(error, RuntimeError) and "worker" not in str(error)):
                raise
            raise RunStopped(
                f"data set '{self._options.name}': a loader process died ({str(error) or type(error).__name__}); often "
                "memory ran out: lower num_worker_per_gpu or prefetch"
            ) from error
        if isinstance(share, Failure):
            raise UserError(share.message)
        return share


class _Steps(Dataset[Any]):
    """Shares as torch's loader wants to see them; indexed by step."""

    def __init__(self, shares: Shares[Any]) -> None:
        self.shares = shares

    def __getitem__(self, step: int) -> Any:
        return self.shares[step]


def _start_server() -> Any:
    """The context that workers are started in; begins importing torch in the fork server at once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["atelier.data.loader"])
    forkserver.ensure_running()
    return context


def _settle_worker(worker: int) -> None:
    """Inside a new worker: one thread, deaf to Ctrl-C (the main process decides), and gone when its parent is."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # torch watches the parent's process id, which is the fork server's here; a killed trainer would leave
        # its workers behind.
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
