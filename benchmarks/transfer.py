"""How near transferred networks are to their source on Set5 x2, before and after a polish, beside plain enlargement.

PSNR of clamped outputs to the source's outputs, mean over the pictures. Needs a source of scale 2 and a folder of its
inputs that is not among the calibration pictures.

    python benchmarks/transfer.py SOURCE.pth LQ_FOLDER
    python benchmarks/transfer.py SOURCE.pth LQ_FOLDER --polish 300
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.archs import SRVGGNetCompact, load_network
from atelier.cli.transfer_pictures import calibration_crops
from atelier.compress import TransferOptions, fidelity, transfer
from atelier.images import imresize, list_images, read_image, to_tensor

ARMS = (
    ("l2", 32, 32),
    ("l2-aligned", 32, 16),
    ("activation", 32, 16),
    ("least-squares", 32, 16),
    ("least-squares", 32, 32),
    ("least-squares", 48, 16),
)


def line(name: str, outputs: list[Tensor], reference: list[Tensor], seconds: float = 0.0) -> None:
    near = fidelity(outputs, reference)
    print(
        f"{name:28}{near.psnr:8.2f} dB   colour shift {near.colour_shift:5.2f}   CPU {seconds:5.0f} s",
        flush=True,
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--polish", type=int, default=0, help="only least-squares 32/32 and 32/16, polished")
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
    arms = [("least-squares", 32, 16), ("least-squares", 32, 32)] if arguments.polish else ARMS
    for method, width, depth in arms:
        start = time.process_time()
        options = TransferOptions.model_validate(
            {"method": method, "num_feat": width, "num_conv": depth, "polish": arguments.polish}
        )
        net = transfer(source, options, crops).net
        seconds = time.process_time() - start
        name = f"{method} {width}/{depth}" + (f" +{arguments.polish}" if arguments.polish else "")
        line(name, [net(x) for x in inputs], reference, seconds)


if __name__ == "__main__":
    main()
