"""How much memory there is, how much a network needs for a pixel, and what running out looks like."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from atelier.allocator import idle_memory
from atelier.archs.alive import AliveTensors

PROBE_SIDE = 64
"""A probe runs the network once on a square of about this many lq pixels."""

_SHARE = 0.7
"""Share of the free memory that tiles may take; the rest is for other programs and for fragmentation."""

_UNSEEN = 1.25
"""Work space that operators allocate inside themselves is not seen by the probe."""

_UNSEEN_ON_CPU = 2.0
"""There oneDNN copies what goes into and out of a convolution into blocks: twice the tensors, as measured."""

_INDEX_LIMIT = 2**31 - 1
"""Several operators count elements with 32 bits."""

_UNKNOWN = 4 * 2**30
"""Bytes assumed free where the system does not say."""

_MESSAGES = (
    "out of memory",
    "defaultcpuallocator",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out (torch has no common type for CPU and GPU)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MESSAGES)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``, counting what torch or the C library holds in reserve."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(idle)
    # Under torchrun the processes of a machine share its memory.
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return host_memory() // max(int(processes) if processes.isdecimal() else 1, 1) + idle_memory()


def host_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of main memory this process can still take: in the machine, its control groups, its own limit."""
    bounds = [_machine_memory(proc), *_group_memory(proc, cgroups), *_own_limit(proc)]
    return max(min(bounds), 0)


def _own_limit(proc: Path) -> list[int]:
    """Room left below ``ulimit -v``."""
    if sys.platform == "win32":
        return []
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _first_number(proc / "self" / "statm")
    if limit == resource.RLIM_INFINITY or pages is None:
        return []
    return [limit - pages * os.sysconf("SC_PAGE_SIZE")]


def _machine_memory(proc: Path) -> int:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return _UNKNOWN
    # Without Linux's account: half of what is built in is a fair guess at what is free.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _first_number(path: Path) -> int | None:
    """The number a kernel file begins with; None when there is no such file or it says ``max``."""
    try:
        word = path.read_text().split()[0]
    except (OSError, IndexError):
        return None
    return int(word) if word.isdigit() else None


def _group_memory(proc: Path, cgroups: Path) -> list[int]:
    """Room left in this process's control group and each one above it (containers limit memory so)."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    bounds = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path names a group the container cannot see; its own limit then stands at the
        # root.
        folder = root / path.lstrip("/")
        for group in [folder, *folder.parents]:
            limit, used = _first_number(group / names[0]), _first_number(group / names[1])
            if limit is not None and used is not None:
                bounds.append(limit - used + _reclaimable(group / "memory.stat", names[2]))
            if group == root:
                break
    return bounds


def _reclaimable(stat: Path, name: str) -> int:
    """Bytes of file cache the kernel gives back when asked; they count as used in a control group."""
    try:
        for line in stat.read_text().splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
    except OSError:
        pass
    return 0


@dataclass(frozen=True)
class Cost:
    """What one lq pixel costs: bytes alive at the peak, and elements of the largest single tensor.

    ``unseen``: how many times more memory operators take with their own work space.
    """

    bytes_per_pixel: float
    elements_per_pixel: float
    unseen: float = _UNSEEN

    def pixels_within(self, free: int) -> int:
        """How many lq pixels fit at once into ``free`` bytes."""
        by_bytes = free * _SHARE / (self.bytes_per_pixel * self.unseen)
        return int(min(by_bytes, _INDEX_LIMIT / self.elements_per_pixel))


_costs: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Cost]] = WeakKeyDictionary()


def measure_cost(
    net: nn.Module, forward: Callable[[Tensor], Tensor], probe: Tensor, key: tuple[object, ...]
) -> Cost:
    """Run ``forward`` (the network as it will be used) once on ``probe`` and see what a pixel costs.

    ``key`` says what the cost depends on beside the network (device, precision, channels); a second call with
    the same key takes the first one's answer. A network that runs outside torch says it itself (``stated_cost``).
    """
    stated = getattr(net, "stated_cost", None)
    if isinstance(stated, Cost):
        return stated
    known = _costs.setdefault(net, {})
    if key not in known:
        with AliveTensors([*net.parameters(), *net.buffers()]) as live:
            forward(probe)
        pixels = probe.shape[0] * probe.shape[2] * probe.shape[3]
        home = next((each.device for each in net.parameters()), probe.device)
        unseen = _UNSEEN_ON_CPU if home.type == "cpu" else _UNSEEN
        known[key] = Cost(max(live.peak, 1) / pixels, max(live.largest, 1) / pixels, unseen)
    return known[key]
