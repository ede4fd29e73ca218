"""Does a better transfer make a better network after training? ``least-squares`` against ``l2``, the same steps each.

    python benchmarks/finetune_after_transfer.py SOURCE.pth [--steps 300] [--seeds 3] [--num-conv 32] [--sweeps 0]

SOURCE is a Compact network of scale 2 (``realesr-animevideox2v3.pth``). It is transferred once by each method, then
trained by this toolkit's own run: L1, Adam at 2e-4, 4 crops of 32x32 a step from the bundled training photographs,
reduced bicubically; the seed decides which. PSNR (RGB, border of 4 left out) to ground truth on the two held-out
bundled photographs, before the first step and after the last. CPU, one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from atelier.archs import SRVGGNetCompact, load_network, save_weights
from atelier.cli.transfer_pictures import HeldOut, calibration_crops, held_out_pictures
from atelier.compress import TransferOptions, transfer
from atelier.images import from_tensor, imresize
from atelier.metrics.psnr import psnr
from atelier.train.run import train

BORDER, WIDTH = 4, 32
METHODS = ("l2", "least-squares")


def quality(outputs: list[Tensor], pictures: list[HeldOut]) -> float:
    """Mean PSNR over the pictures of outputs rounded to 8 bits."""
    return statistics.fmean(
        psnr(from_tensor(out[0]), from_tensor(each.gt[0]), crop_border=BORDER)
        for out, each in zip(outputs, pictures, strict=True)
    )


@torch.no_grad()
def of_network(net: nn.Module, pictures: list[HeldOut]) -> float:
    net.eval()
    return quality([net(each.lq) for each in pictures], pictures)


def run_options(folder: Path, start: Path, steps: int, seed: int, convolutions: int) -> dict[str, Any]:
    data = {"dataroot_gt": "bundled", "gt_size": 32, "batch_size_per_gpu": 4, "num_worker_per_gpu": 0}
    return {
        "name": start.stem,
        "scale": 2,
        "manual_seed": seed,
        "num_gpu": 0,
        "datasets": {"train": data},
        "network_g": {"type": "SRVGGNetCompact", "num_feat": WIDTH, "num_conv": convolutions},
        "path": {"experiments_root": str(folder), "pretrain_network_g": str(start)},
        "train": {
            "total_iter": steps,
            "optim_g": {"type": "Adam", "lr": 2e-4, "betas": [0.9, 0.99]},
            "pixel_opt": {"type": "L1Loss"},
            "ema_decay": 0,
        },
        "logger": {"print_freq": steps, "save_checkpoint_freq": steps, "use_tb_logger": False},
        "cache": {"enabled": False},
    }


def trained(net: SRVGGNetCompact, name: str, steps: int, seed: int) -> nn.Module:
    """``net`` after the steps; itself it stays as it is."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(sys.stderr):
        folder = Path(place)
        start = folder / f"{name}_{seed}.pth"
        save_weights(start, {"params": net.state_dict()}, {})
        result = train(run_options(folder, start, steps, seed, net.options.num_conv), quiet=True)
        return load_network(result.folder / "models" / f"net_g_{steps}.pth").net


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-conv", type=int, default=32)
    parser.add_argument("--sweeps", type=int, help="of least-squares; left out: as the method does by itself")
    arguments = parser.parse_args()
    if arguments.source is None:
        print("skipped: give a source")
        return
    torch.set_num_threads(1)
    source = load_network(arguments.source).net
    if not isinstance(source, SRVGGNetCompact) or source.options.upscale != 2:
        sys.exit("the source is no SRVGGNetCompact of scale 2")
    pictures, _ = held_out_pictures(None, 2, 3)
    steps, convolutions = arguments.steps, arguments.num_conv
    print(
        f"| {WIDTH}/{convolutions}, {steps} steps of L1 | seed | before | after |\n|---|---|---|---|",
        flush=True,
    )
    nearest = quality([functional.interpolate(each.lq, scale_factor=2.0) for each in pictures], pictures)
    bicubic = quality([imresize(each.lq, 2.0) for each in pictures], pictures)
    print(f"| nearest | – | {nearest:.2f} dB | |")
    print(f"| bicubic | – | {bicubic:.2f} dB | |")
    print(f"| the source | – | {of_network(source, pictures):.2f} dB | |", flush=True)
    crops, _ = calibration_crops(None, 2, 3, 0)
    sweeps = {"sweeps": arguments.sweeps} if arguments.sweeps is not None else {}
    starts: dict[str, tuple[SRVGGNetCompact, float]] = {}
    for method in METHODS:
        options = TransferOptions.model_validate(
            {"method": method, "num_feat": WIDTH, "num_conv": convolutions} | sweeps
        )
        net = transfer(source, options, crops).net
        starts[method] = net, of_network(net, pictures)
    after: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(arguments.seeds):
        for method, (net, before) in starts.items():
            after[method].append(of_network(trained(net, method, steps, seed), pictures))
            print(f"| {method} | {seed} | {before:.2f} dB | {after[method][-1]:.2f} dB |", flush=True)
    gains = [better - plain for plain, better in zip(*after.values(), strict=True)]
    means = ", ".join(f"{method} {statistics.fmean(values):.2f} dB" for method, values in after.items())
    print(
        f"\nAfter training, mean: {means}; least-squares above l2 by {min(gains):.2f} to {max(gains):.2f} dB."
    )


if __name__ == "__main__":
    main()
