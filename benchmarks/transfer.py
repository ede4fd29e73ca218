"""How near transferred networks are to their source on Set5 x2, before and after a polish, beside plain enlargement.

PSNR of clamped outputs to the source's outputs, mean over the pictures. Needs a source of scale 2 and a folder of its
inputs that is not among the calibration pictures.

    python benchmarks/transfer.py SOURCE.pth LQ_FOLDER
    python benchmarks/transfer.py SOURCE.pth LQ_FOLDER --polish 300
    python benchmarks/transfer.py SOURCE.pth LQ_FOLDER --polish 300 --arms least-squares:32/16

Milliseconds are of the first picture, median of nine, the source taking turns with the network; the ratio is to it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs import SRVGGNetCompact, load_network
from atelier.cli.transfer_pictures import calibration_crops
from atelier.compress import TransferOptions, fidelity, transfer
from atelier.compress.polish import polish
from atelier.images import imresize, list_images, read_image, to_tensor

ARMS = (
    "l2:32/32",
    "l2-aligned:32/16",
    "activation:32/16",
    "least-squares:32/16",
    "least-squares:32/32",
    "least-squares:48/16",
)


def line(name: str, outputs: list[Tensor], reference: list[Tensor], rest: str = "") -> None:
    near = fidelity(outputs, reference)
    print(f"{name:28}{near.psnr:8.2f} dB   colour shift {near.colour_shift:5.2f}{rest}", flush=True)


def latency(net: nn.Module, source: nn.Module, x: Tensor) -> str:
    """Median milliseconds, and the ratio to the source's; they take turns, so a busy moment meets both."""
    times: dict[nn.Module, list[float]] = {net: [], source: []}
    for _ in range(9):
        for each, measured in times.items():
            start = time.perf_counter()
            each(x)
            measured.append(1000 * (time.perf_counter() - start))
    own, old = (statistics.median(each) for each in times.values())
    return f"{own:7.1f} ms   x{own / old:.2f}"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--polish", type=int, default=0, help="least-squares also with so many Adam steps")
    parser.add_argument("--sweeps", type=int, default=TransferOptions().sweeps)
    parser.add_argument("--arms", nargs="+", default=ARMS, help="METHOD:FEATURES/CONVOLUTIONS")
    arguments = parser.parse_args()
    if arguments.source is None or arguments.pictures is None:
        print("skipped: give a source and a folder of inputs")
        sys.exit(0)
    source = load_network(arguments.source).net
    if not isinstance(source, SRVGGNetCompact):
        sys.exit("the source is no SRVGGNetCompact")
    scale = source.options.upscale
    crops, _ = calibration_crops(None, scale, source.options.num_in_ch, 0)
    inputs = [to_tensor(read_image(path).pixels)[None] for path in list_images(arguments.pictures)]
    reference = [source(x) for x in inputs]
    line("nearest", [F.interpolate(x, scale_factor=scale, mode="nearest") for x in inputs], reference)
    line("bicubic", [imresize(x, float(scale)) for x in inputs], reference)
    for arm in arguments.arms:
        method, _, size = arm.partition(":")
        width, _, depth = size.partition("/")
        start = time.process_time()
        options = TransferOptions.model_validate(
            {"method": method, "num_feat": width, "num_conv": depth, "sweeps": arguments.sweeps}
        )
        net = transfer(source, options, crops).net
        cost = f"   CPU {time.process_time() - start:5.0f} s   "
        line(f"{method} {size}", [net(x) for x in inputs], reference, cost + latency(net, source, inputs[0]))
        if arguments.polish and method == "least-squares":
            polish(net, source, crops, steps=arguments.polish, lr=options.polish_lr, seed=options.seed)
            cost = f"   CPU {time.process_time() - start:5.0f} s"
            line(f"{method} {size} +{arguments.polish}", [net(x) for x in inputs], reference, cost)


if __name__ == "__main__":
    main()
