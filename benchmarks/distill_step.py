"""What a teacher costs in a training step: none, called at every step (live), read from a plan cache (cached).

    python benchmarks/distill_step.py [--steps 6] [--batch 2] [--lq 32] [--threads 1] [--format uint16] [--small]

Teacher: SwinIR-M x4 (11,900,199 parameters); student: SwinIR of width 60 with 4 x 4 layers (988,959); the response
term beside l1, float32, Adam. The weights are random ones: time does not depend on them. A first trainer fills the
cache; then the three take the same step in turn. Medians over the steps after the first; ratios are to "none".
Processor time is told beside wall time, because on a machine with other work it is the steadier one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from atelier.archs import SwinIR
from atelier.archs.weights import save_weights
from atelier.data.batch import Batch
from atelier.data.loader import TrainingData
from atelier.options.read import load_run_options
from atelier.train.distributed import Ranks
from atelier.train.trainer import Trainer

CPU = Ranks(0, 1, torch.device("cpu"))
TEACHER = {"embed_dim": 180, "depths": [6] * 6, "num_heads": [6] * 6}
STUDENT = {"embed_dim": 60, "depths": [4] * 4, "num_heads": [6] * 4}
SMALL = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2]}
SHARED = {"upscale": 4, "window_size": 8, "mlp_ratio": 2, "upsampler": "pixelshuffle"}


def write_teacher(path: Path, sizes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = SwinIR(**SHARED, **sizes)
    meta = {"arch": net.options.type, "options": net.options.model_dump(mode="json", exclude={"type"})}
    save_weights(path, {"params": net.state_dict()}, meta)


def options_of(folder: Path, source: str | None, arguments: argparse.Namespace) -> Any:
    distill: dict[str, Any] = {"recipe": "classic-none@1"}
    if source is not None:
        teacher = {"weights": str(folder / "teacher.pth"), "source": source}
        cache = {"dir": str(folder / "cache"), "format": arguments.format}
        distill = {"recipe": "classic-response@1", "teacher": [teacher], "cache": cache}
    train = {
        "dataroot_gt": "bundled",
        "gt_size": 4 * arguments.lq,
        "batch_size_per_gpu": arguments.batch,
        "num_worker_per_gpu": 0,
    }
    return load_run_options(
        {
            "name": "distill_step",
            "scale": 4,
            "manual_seed": 1,
            "num_gpu": 0,
            "objective": "distill",
            "distill": distill,
            "datasets": {"train": train},
            "network_g": {"type": "SwinIR", **SHARED, **(SMALL if arguments.small else STUDENT)},
            "train": {"total_iter": arguments.steps, "optim_g": {"type": "Adam", "lr": 2e-4}, "ema_decay": 0},
            "cache": {"folder": str(folder / "pictures")},
        }
    )


def timed(trainer: Trainer, batch: Batch) -> tuple[float, float]:
    """(wall, processor) seconds of one step."""
    wall, processor = time.perf_counter(), time.process_time()
    trainer.step(batch)
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lq", type=int, default=32, help="side of the lq crops; a multiple of 8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", choices=("uint16", "fp16", "fp32"), default="uint16")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: the first one is warm-up, so at least 2")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_teacher(folder / "teacher.pth", SMALL if arguments.small else TEACHER)
        options = {
            form: options_of(folder, source, arguments)
            for form, source in (("none", None), ("live", "online"), ("cached", "plan_cache"))
        }
        train = options["none"].datasets.train
        data = TrainingData(
            train,
            scale=4,
            degradation=options["none"].effective_degradation.build(4),
            seed=1,
            global_batch=arguments.batch,
            in_channels=3,
            cache=options["none"].cache,
            quiet=True,
        )
        batches = list(data.batches(1, arguments.steps))
        filling = Trainer(options["cached"], CPU, data=data.fingerprint)
        filled = [timed(filling, batch) for batch in batches]
        filling.objective.close()
        trainers = {form: Trainer(each, CPU, data=data.fingerprint) for form, each in options.items()}
        times: dict[str, list[tuple[float, float]]] = {form: [] for form in trainers}
        for batch in batches:
            for form, trainer in trainers.items():
                times[form].append(timed(trainer, batch))
        (told,) = trainers["cached"].objective.close()
        data.close()
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, batch {arguments.batch}, lq {arguments.lq}, "
        f"{arguments.format}; medians of {arguments.steps - 1} steps"
    )
    print(told)
    print("| teacher | s a step | ratio | processor s | ratio |")
    print("|---|---|---|---|---|")
    plain = [statistics.median(each[kind] for each in times["none"][1:]) for kind in (0, 1)]
    for form, taken in (*times.items(), ("live, filling the cache", filled)):
        wall, processor = (statistics.median(each[kind] for each in taken[1:]) for kind in (0, 1))
        print(
            f"| {form} | {wall:.3f} | {wall / plain[0]:.2f} | {processor:.3f} | {processor / plain[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
