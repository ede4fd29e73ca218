"""A trained denoiser goes on as a larger network: random start, flexible, inherit, over three seeds at equal steps.

The change is the one that KAIR's users met: embed_dim 96 -> 180, heads 3 -> 6, depths 2 -> 6 in each of six residual
groups. Steps, patch and batch are scaled down until two cores manage it in about half an hour. Data, order and noise
of step s are the same in all three arms of a seed. Measured are averaged weights (decay 0.9), as a run validates them:
with two crops a step the weights themselves swing by a decibel.

    python benchmarks/architecture_change.py
    python benchmarks/architecture_change.py --old-steps 20 --steps 8 --seeds 1    # a look at it

Without a warm-up Adam's first step, which moves every weight by the full rate, throws any start away.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atelier.archs.weights import read_weights
from atelier.data.loader import TrainingData
from atelier.data.validation import ValidationSet
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.train.distributed import Ranks
from atelier.train.starting import Start
from atelier.train.trainer import Trainer

OLD = {"embed_dim": 96, "depths": [2] * 6, "num_heads": [3] * 6}
NEW = {"embed_dim": 180, "depths": [6] * 6, "num_heads": [6] * 6}
ARMS = ("random", "flexible", "inherit")
TRAIN = ["camera", "moon", "brick", "grass", "gravel", "motorcycle_left", "rocket", "page"]
HELD_OUT = ["astronaut", "chelsea", "coins", "coffee"]
CPU = Ranks(0, 1, torch.device("cpu"))


def options_of(
    network: dict[str, Any],
    seed: int,
    steps: int,
    lr: float,
    patch: int,
    batch: int,
    warmup: int,
    load: str = "strict",
) -> RunOptions:
    return load_run_options(
        {
            "name": "architecture_change",
            "scale": 1,
            "manual_seed": seed,
            "num_gpu": 0,
            "degradation": {"type": "gaussian_noise", "sigma": 25},
            "datasets": {
                "train": {
                    "dataroot_gt": "bundled",
                    "pictures": TRAIN,
                    "gt_size": patch,
                    "batch_size_per_gpu": batch,
                    "num_worker_per_gpu": 0,
                },
                "val": {"dataroot_gt": "bundled", "pictures": HELD_OUT},
            },
            "network_g": {"type": "SwinIR", "in_chans": 1, "window_size": 8, "mlp_ratio": 2, **network},
            "path": {"min_loaded": 0, "load": load},
            "train": {
                "total_iter": steps,
                "optim_g": {"type": "Adam", "lr": lr},
                "warmup_iter": warmup,
                "ema_decay": 0.9,
                "pixel_opt": {"type": "CharbonnierLoss", "eps": 1e-9},
            },
        }
    )


def crops(options: RunOptions, side: int = 48) -> tuple[Tensor, Tensor]:
    """(lq, gt) [N, 1, side, side]: the middle of every held-out photograph with its fixed noise."""
    pairs = ValidationSet(
        options.datasets.validation["val"],
        scale=1,
        degradation=options.effective_degradation.build(1),
        seed=0,
        in_channels=1,
    )
    inputs, targets = [], []
    for pair in pairs:
        y, x = (pair.gt.shape[0] - side) // 2, (pair.gt.shape[1] - side) // 2
        inputs.append(torch.from_numpy(pair.lq[y : y + side, x : x + side].copy()))
        targets.append(torch.from_numpy(pair.gt[y : y + side, x : x + side].copy()).float() / 255)
    return torch.stack(inputs).movedim(3, 1), torch.stack(targets).movedim(3, 1)


@torch.no_grad()
def psnr(net: nn.Module, lq: Tensor, gt: Tensor) -> float:
    """Mean PSNR (grey, border 0, clamped, not rounded) in evaluation mode."""
    training = net.training
    net.eval()
    values = []
    for one, target in zip(lq, gt, strict=True):
        error = (net(one[None]).clamp(0, 1) - target).square().mean().item()
        values.append(-10 * math.log10(error))
    net.train(training)
    return statistics.fmean(values)


def run(
    options: RunOptions, start: Start | None, marks: list[int], held_out: tuple[Tensor, Tensor]
) -> tuple[dict[int, float], float, nn.Module]:
    """(step -> PSNR at ``marks``, mean training loss of all steps, the network)."""
    trainer = Trainer(options, CPU, start)
    data = TrainingData(
        options.datasets.train,
        scale=1,
        degradation=options.effective_degradation.build(1),
        seed=options.manual_seed,
        global_batch=options.datasets.train.batch_size_per_gpu,
        rank=0,
        world=1,
        in_channels=1,
        device=CPU.device,
        cache=options.cache,
        quiet=True,
    )
    found = {0: psnr(trainer.nets["g"], *held_out)}
    for batch in data.batches(1, options.train.total_iter):
        trainer.step(batch)
        if trainer.iteration in marks:
            found[trainer.iteration] = psnr(trainer.evaluation_net()[0], *held_out)
    data.close()
    return found, trainer.meters.means(CPU)["l_g_pix"], trainer.evaluation_net()[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    patch, batch, steps = arguments.patch, arguments.batch, arguments.steps
    marks = sorted({steps // 4, steps // 2, steps})
    old = options_of(OLD, 100, arguments.old_steps, 5e-4, patch, 4 * batch, arguments.warmup)
    held_out = crops(old)
    noisy = statistics.fmean(
        -10 * math.log10((a.clamp(0, 1) - b).square().mean().item()) for a, b in zip(*held_out, strict=True)
    )
    print(f"sigma 25, four held-out 48x48 crops: noisy input {noisy:.2f} dB", flush=True)
    after, _, trained = run(old, None, [arguments.old_steps], held_out)
    print(
        f"old network (C96, heads 3, depths 2) after {arguments.old_steps} steps: "
        f"{after[arguments.old_steps]:.2f} dB",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old_G.pth"
        torch.save(trained.state_dict(), path)
        rows: dict[str, list[tuple[dict[int, float], float]]] = {arm: [] for arm in ARMS}
        for seed in range(arguments.seeds):
            for arm in ARMS:
                mode = "strict" if arm == "random" else arm
                options = options_of(NEW, seed, steps, 2e-4, patch, batch, arguments.warmup, mode)
                start = None if arm == "random" else Start(read_weights(path))
                found, loss, _ = run(options, start, marks, held_out)
                rows[arm].append((found, loss))
                print(
                    f"  seed {seed} {arm:9}"
                    + "".join(f" {found[mark]:7.2f}" for mark in (0, *marks))
                    + f"   mean loss {loss:.5f}",
                    flush=True,
                )
    print(
        f"\nPSNR in dB, mean of {arguments.seeds} seeds (least and most), C180, heads 6, depths 6, "
        f"patch {patch}, batch {batch}, lr 2e-4 after {arguments.warmup} steps of warm-up"
    )
    print(f"{'start':10}" + "".join(f"{f'step {mark}':>22}" for mark in (0, *marks)) + f"{'mean loss':>12}")
    for arm, runs in rows.items():
        cells = []
        for mark in (0, *marks):
            values = [found[mark] for found, _ in runs]
            cells.append(f"{statistics.fmean(values):.2f} ({min(values):.2f} {max(values):.2f})")
        print(
            f"{arm:10}"
            + "".join(f"{cell:>22}" for cell in cells)
            + f"{statistics.fmean(loss for _, loss in runs):12.5f}"
        )


if __name__ == "__main__":
    main()
