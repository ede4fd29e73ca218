"""How long the networks of a study take, and how much memory: measured once, when all runs are done, and kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.evaluate.latency import ROUNDS, WARMUPS, Timing, measure_times, tensors_alive
from atelier.experiment.costs import SIZE
from atelier.experiment.measure import weights_of
from atelier.experiment.results import Results
from atelier.files import atomic_write

#: Pictures at once.
BATCHES = (1, 8)
#: Seconds that the timing of one batch size may take; slow networks get fewer rounds, which the table states.
MOST_SECONDS = 30.0
FEWEST_ROUNDS = 3


def latencies(results: Results, teachers: list[str]) -> dict[str, Any] | None:
    """Times of every arm's network and of the teachers, float32 eager, input of 64×64 pixels.

    Arms with the same ``network_g`` share one measurement. None while runs are missing (whatever still trains would be
    timed too) or where a network cannot be loaded.

    Returns:
        ``device``, ``size``, ``networks``: name -> batch -> ``p50``, ``p95`` (seconds) and ``rounds``, and ``memory``:
        name -> bytes of float32 weights and of the tensors alive at once, at most, in one inference of one picture.
    """
    if results.missing:
        return None
    files, same = _networks(results, teachers)
    asked = json.dumps([sorted(same.items()), SIZE, BATCHES, "memory"])
    digest = hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()
    kept = results.plan.own / "latency.json"
    if kept.exists():
        record: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if record["digest"] == digest:
            return record
    try:
        measured, memory, device = _measure(results, files)
    except (UserError, RuntimeError):
        return None
    record = {
        "digest": digest,
        "device": device,
        "size": list(SIZE),
        "networks": {name: measured[network] for name, network in same.items()},
        "memory": {name: memory[network] for name, network in same.items()},
    }
    atomic_write(kept, json.dumps(record, indent=1) + "\n")
    return record


def _networks(results: Results, teachers: list[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Network -> a file that holds it; arm or teacher -> its network."""
    files: dict[str, Path] = {}
    same: dict[str, str] = {}
    for name, arm in results.plan.arms.items():
        network = json.dumps(arm.options.network_g.model_dump(mode="json"), sort_keys=True)
        run = results.plan.run_of(name, arm.seeds[0])
        files.setdefault(network, weights_of(results.plan.study, run)[0])
        same[name] = network
    for file in teachers:
        files.setdefault(file, Path(file))
        same[f"teacher {Path(file).name}"] = file
    return files, same


def _measure(
    results: Results, files: dict[str, Path]
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, int], str]:
    import torch

    from atelier.restore import load_model
    from atelier.train.distributed import choose_device

    device = choose_device(results.plan.reference.options.num_gpu)
    models = [load_model(path, device=str(device)) for path in files.values()]
    measured: dict[str, dict[str, dict[str, float]]] = {network: {} for network in files}
    for batch in BATCHES:
        once = sum(each.median for each in measure_times(models, SIZE, warmups=1, rounds=1, batch=batch))
        rounds = max(FEWEST_ROUNDS, min(ROUNDS, int(MOST_SECONDS / once) - WARMUPS))
        times = measure_times(models, SIZE, warmups=min(WARMUPS, rounds), rounds=rounds, batch=batch)
        for network, timing in zip(files, times, strict=True):
            measured[network][str(batch)] = _plain(timing)
    threads = torch.get_num_threads()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {threads} {'thread' if threads == 1 else 'threads'}"
    )
    memory = {network: tensors_alive(model, SIZE) for model, network in zip(models, files, strict=True)}
    return measured, memory, name


def _plain(timing: Timing) -> dict[str, float]:
    return {"p50": timing.median, "p95": timing.p95, "rounds": timing.rounds}
