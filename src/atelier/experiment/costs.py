"""What an arm costs: to keep, to run, to train."""

from __future__ import annotations

import statistics
from typing import Any

from atelier.experiment.budget import step_macs
from atelier.experiment.plan import Arm
from atelier.experiment.results import Results
from atelier.options.schema import RunOptions

#: Input (height, width) at which multiply-adds are stated, beside that of the training crops.
SIZE = (64, 64)


def costs_of(results: Results, arm: Arm) -> dict[str, Any]:
    """Parameters (both counts), multiply-adds, and what training took according to the runs' own records.

    ``step_seconds`` is the median over the log lines of all runs, validation and saving left out; ``hours`` is the sum
    over the arm's finished runs of steps times that. ``teacher_share`` is the share of that time which teachers'
    answers took (reading stored ones included, filling a cache by the run that does it); ``cache_bytes`` what all
    caches that the arm's runs used take on disk, other arms' use of the same ones not taken off.
    """
    runs = list(results.of(arm.name).values())
    lines = [line for each in runs for line in each.record.train]
    taught = [line["teacher_share"] for line in lines if line.get("teacher_share") is not None]
    caches = {folder: size for each in runs for folder, size in each.record.caches.items()}
    batch = arm.options.datasets.train.batch_size_per_gpu
    rates = [line["images_per_s"] for line in lines if line.get("images_per_s")]
    seconds = batch / statistics.median(rates) if rates else None
    return {
        **_of_network(arm.options),
        "step_macs_per_sample": _step_macs(arm.options),
        "step_seconds": seconds,
        "images_per_s": statistics.median(rates) if rates else None,
        "data_share": statistics.median(line.get("data_share", 0.0) for line in lines) if lines else None,
        "teacher_share": statistics.median(taught) if taught else None,
        "cache_bytes": sum(caches.values()) if caches else None,
        "peak_memory_mb": max((line.get("memory_mb") or 0.0 for line in lines), default=None),
        "hours": len(runs) * arm.steps * seconds / 3600 if seconds is not None else None,
    }


def _of_network(options: RunOptions) -> dict[str, Any]:
    from atelier.archs.info import count_macs, count_parameters

    net = options.network_g.build()
    parameters, without_tables = count_parameters(net)
    side = options.datasets.images.gt_size // options.scale
    channels = options.network_g.in_channels
    return {
        "parameters": parameters,
        "parameters_without_tables": without_tables,
        "macs": {
            f"{height}x{width}": count_macs(net, channels, (height, width)).total
            for height, width in dict.fromkeys([SIZE, (side, side)])
        },
    }


def _step_macs(options: RunOptions) -> int | None:
    """None where a teacher is a foreign network that cannot be counted without running it."""
    try:
        return step_macs(options)
    except (RuntimeError, NotImplementedError, TypeError):
        return None
