"""One or many processes: ranks, their device, and decisions that all of them must share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from atelier.errors import RunStopped, UserError
from atelier.options.schema import RunOptions
from atelier.ranks import place_of


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True for the one process that prints and writes files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True on every rank if it is true on at least one."""
        if self.world == 1:
            return flag
        tensor = torch.tensor([int(flag)], device=self._meeting_device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor.item())

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of ``values`` over the ranks (the same on each of them)."""
        if self.world == 1:
            return values
        total = values.to(self._meeting_device)
        dist.all_reduce(total)
        return total / self.world

    def agree_on_error(self, message: str | None) -> None:
        """Raise the first rank's error on every rank, so that none of them waits for one that has stopped."""
        if self.world == 1:
            if message is not None:
                raise RunStopped(message)
            return
        messages: list[str | None] = [None] * self.world
        dist.all_gather_object(messages, message)
        for rank, text in enumerate(messages):
            if text is not None:
                raise RunStopped(f"rank {rank}: {text}")

    @property
    def _meeting_device(self) -> torch.device:
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")


def choose_device(num_gpu: int | str, local_rank: int = 0) -> torch.device:
    """The device of this process; asking for a GPU that is not there is an error, never a silent CPU run.

    Args:
        num_gpu: ``auto`` (a GPU when there is one), 0 (CPU) or how many GPUs the run expects on this machine.
        local_rank: which of them this process takes.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_gpu == "auto":
        return torch.device("cuda", local_rank % available) if available else torch.device("cpu")
    if int(num_gpu) == 0:
        return torch.device("cpu")
    if available < int(num_gpu):
        raise UserError(
            f"num_gpu: {num_gpu} asked for, but this machine shows {available} usable GPUs; "
            "use num_gpu: 0 for the CPU or num_gpu: auto"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def ranks_of(options: RunOptions, launcher: str) -> Iterator[Ranks]:
    """Join the other processes (``pytorch`` under torchrun, ``slurm`` under srun) or stand alone (``none``)."""
    place = place_of(launcher, "train -opt FILE")
    if launcher == "none":
        if isinstance(options.num_gpu, int) and options.num_gpu > 1:
            raise UserError(
                f"num_gpu: {options.num_gpu} needs several processes; start with: torchrun "
                f"--nproc_per_node={options.num_gpu} -m atelier train -opt FILE --launcher pytorch"
            )
        yield Ranks(0, 1, choose_device(options.num_gpu))
        return
    device = choose_device(options.num_gpu, place.local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = options.dist_params.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and device.type != "cuda":
        raise UserError("dist_params.backend: nccl needs GPUs; use gloo or auto on the CPU")
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield Ranks(place.rank, place.world, device)
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise RunStopped(
            "another rank has stopped, which its own message explains; --auto_resume goes on from the last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has gone; gloo has no type of its own for it."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
