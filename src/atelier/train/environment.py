"""Facts about the machine and the versions a run used, for ``environment.json`` and the report."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from atelier.files import atomic_write
from atelier.train.distributed import Ranks


def environment(ranks: Ranks) -> dict[str, Any]:
    """Versions, device and threads; no host or user names."""
    packages = ("atelier", "torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "spandrel")
    device = "CPU"
    if ranks.device.type == "cuda":
        device = torch.cuda.get_device_name(ranks.device)
    return {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "processes": ranks.world,
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def write_environment(path: Path, ranks: Ranks) -> None:
    """Write :func:`environment` as JSON."""
    atomic_write(path, json.dumps(environment(ranks), indent=1) + "\n")


def peak_memory_mb(device: torch.device) -> float:
    """Highest memory use so far in MB: of the device's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
