"""Pictures per second of Real-ESRGAN's degradation against the original way of computing the same steps.

    python benchmarks/degradation.py [--samples 12]

The original way, written here from its description: a crop of 400 x 400 whatever the network sees of it, dense 51 x 51
sharpening (twice, again for the target), kernels padded with zeros to 21 x 21, the number of different levels found by
sorting, JPEG as transforms over all blocks, one torch operator a step. Ours: the crop of 256 with the surroundings that
its filters need, two passes of 51 taps, kernels at their true size, and libjpeg. Both follow the same drawn plans
(the sizes are those of their own crops), x2, one thread, in one run; the pictures are bundled photographs.
CPU time is compared, for a busy machine stretches wall time. Shares show where either spends it. The original's two
sharpenings are its data's and its loss's; ours sharpens once here, and a loss that wants a sharpened target pays for it
elsewhere: the last line of the two therefore counts it in.

Then the same plans as ``run_on: device`` carries them out, here on the CPU: what is left to the loader's processes, and
the tensor arithmetic. On the CPU it is not meant to win; how near its pictures come to the loader's is printed.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atelier.data.bundled import bundled_path
from atelier.data.packed import Clean, Packed, degrade_packed, pack
from atelier.degrade.base import Pixels, to_uint8
from atelier.degrade.codec import jpeg_round_trip
from atelier.degrade.jpeg_torch import jpeg_round_trip_torch
from atelier.degrade.realesrgan import RealESRGAN
from atelier.degrade.realesrgan_options import RealESRGANOptions
from atelier.degrade.sharpen import usm_sharpen
from atelier.degrade.steps import kernel_of, one_by_one
from atelier.images import read_image
from atelier.randomness import Streams

SCALE, CROP, ORIGINAL_CROP, TARGET = 2, 256, 400, 10.0
PHOTOGRAPHS = ("coffee", "motorcycle_left", "astronaut", "retina")
Shares = dict[str, float]


def filtered(picture: Tensor, kernel: Tensor) -> Tensor:
    """Dense depthwise correlation of ``1 x C x H x W`` with mirrored borders."""
    half = kernel.shape[-1] // 2
    padded = F.pad(picture, (half,) * 4, mode="reflect")
    channels = picture.shape[1]
    return F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def original_usm(picture: Tensor) -> Tensor:
    """Dense 51 x 51, applied to the picture and to the mask."""
    taps = cv2.getGaussianKernel(51, 0, cv2.CV_32F)
    kernel = torch.from_numpy(taps @ taps.T)
    residual = picture - filtered(picture, kernel)
    soft = filtered((residual.abs() * 255 > 10).float(), kernel)
    sharp: Tensor = soft * (picture + 0.5 * residual).clamp(0, 1) + (1 - soft) * picture
    return sharp


def original_poisson(picture: Tensor, step: dict[str, Any]) -> Tensor:
    """Levels by sorting."""
    of = picture
    if step["grey"]:
        of = (picture * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    of = (of * 255).round().clamp(0, 255) / 255
    white = 2.0 ** np.ceil(np.log2(len(torch.unique(of))))
    noisy: Tensor = (picture + step["scale"] * (torch.poisson(of * white) / white - of)).clamp(0, 1)
    return noisy


def original_step(picture: Tensor, step: dict[str, Any]) -> Tensor:
    """One step of the plan with one torch operator after the other."""
    if step["op"] == "sharpen":
        return original_usm(picture)
    if step["op"] == "filter":
        kernel = kernel_of(step)
        return filtered(picture, torch.from_numpy(np.pad(kernel, (21 - len(kernel)) // 2)).float())
    if step["op"] == "interpolate":
        if "factor" in step:
            return F.interpolate(picture, scale_factor=step["factor"], mode=step["mode"])
        return F.interpolate(picture, size=step["size"], mode=step["mode"])
    if step["op"] == "gaussian":
        noise = torch.randn_like(picture[:, :1] if step["kind"] == "grey" else picture)
        noisy: Tensor = (picture + noise * step["sigma"]).clamp(0, 1)
        return noisy
    if step["op"] == "level_poisson":
        return original_poisson(picture, step)
    return jpeg_round_trip_torch(picture, torch.tensor([step["quality"]]), arithmetic="reference")


def original_way(operator: RealESRGAN, gt: Pixels, streams: Streams, shares: Shares) -> Pixels:
    """lq of the whole 400 x 400 crop; the sharpening of the target is counted under ``target``."""
    plan = operator.draw(streams, gt.shape)
    picture = torch.from_numpy(gt.astype(np.float32) / 255).permute(2, 0, 1)[None]
    for step in plan["steps"]:
        start = time.process_time()
        picture = original_step(picture, step)
        shares[step["op"]] += time.process_time() - start
    side = CROP // SCALE
    lq = (picture.clamp(0, 1) * 255).round()[0, :, :side, :side].permute(1, 2, 0).numpy().astype(np.uint8)
    start = time.process_time()
    original_usm(torch.from_numpy(gt[:CROP, :CROP].astype(np.float32) / 255).permute(2, 0, 1)[None])
    shares["target"] += time.process_time() - start
    return lq


def our_way(operator: RealESRGAN, gt: Pixels, streams: Streams, shares: Shares) -> Pixels:
    """The same in the code that training runs, timed between its steps."""
    start = time.process_time()
    plan = operator.draw(streams, gt.shape)
    shares["drawing"] += time.process_time() - start
    start = time.process_time()
    picture = operator.start(gt, plan)
    for step, after in one_by_one(picture, plan["steps"], streams):
        shares[step["op"]] += time.process_time() - start
        picture = after
        start = time.process_time()
    lq = to_uint8(picture)[operator.context :, operator.context :][: CROP // SCALE, : CROP // SCALE]
    shares["rounding"] += time.process_time() - start
    start = time.process_time()
    usm_sharpen(gt[:CROP, :CROP].astype(np.float32) / 255)
    shares["target"] += time.process_time() - start
    return lq


def packed_way(operator: RealESRGAN, gts: list[Pixels], first: int) -> Packed:
    """What loader processes do for the device: draw, and make noise fields and kernels."""
    margins = (operator.context,) * 4
    samples = []
    for k, gt in enumerate(gts, first):
        streams = Streams(0, 1, k)
        plan = operator.draw(streams, gt.shape)
        samples.append(Clean(gt, margins, plan, operator.device_numbers(plan, gt.shape, streams), str(k)))
    return pack(samples)


def device_form(operator: RealESRGAN, crops: list[Pixels]) -> None:
    """Prints what ``run_on: device`` costs on the CPU and how far its lq lies from the loader's."""
    white = torch.tensor(255.0)
    degrade_packed(packed_way(operator, crops[:1], 0), operator, white)  # makes the tables
    start = time.process_time()
    packed = packed_way(operator, crops, 1)
    middle = time.process_time()
    lq, _ = degrade_packed(packed, operator, white)
    end = time.process_time()
    each = 1e3 / len(crops)
    print(
        f"run_on: device, a batch of {len(crops)} on the CPU: {(end - start) * each:.1f} ms of CPU a picture, "
        f"{(middle - start) * each:.1f} of them the loader's; "
        f"{(packed.pixels.nbytes + packed.numbers.nbytes) / len(crops) / 1e6:.1f} MB a picture go to the device"
    )
    cut = slice(operator.context, -operator.context)
    differences = []
    for k, gt in enumerate(crops):
        plan = packed.jobs[k].parameters
        if all(step["op"] != "level_poisson" for step in plan["steps"]):
            workers = operator.apply(gt, plan, Streams(0, 1, k + 1))[cut, cut]
            differences.append(np.abs(lq[k].permute(1, 2, 0).numpy() * 255 - workers).mean())
    if differences:
        print(
            f"lq differs from the loader's by {np.mean(differences):.2f} of 255 on average "
            f"({len(differences)} plans without Poisson noise)"
        )
    for quality in (30, 60, 95):
        errors = []
        for gt in crops[: len(PHOTOGRAPHS)]:
            picture = torch.from_numpy(gt).permute(2, 0, 1)[None] / 255
            ours = jpeg_round_trip_torch(picture, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy()
            errors.append(np.abs(ours * 255 - jpeg_round_trip(gt, quality)).mean())
        print(f"JPEG {quality}: mean error to libjpeg {np.mean(errors):.3f} of 255")


def table(name: str, shares: Shares, samples: int) -> float:
    """Prints milliseconds a picture and shares; returns the milliseconds without the target's sharpening."""
    total = sum(shares.values()) - shares["target"]
    print(f"{name}: {total / samples * 1e3:.1f} ms of CPU a picture, {samples / total:.2f} pictures/s")
    for op, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        note = "  (not in the sum)" if op == "target" else ""
        print(f"    {op:<14} {seconds / samples * 1e3:8.2f} ms  {seconds / total:6.1%}{note}")
    return total / samples * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=12)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ours = RealESRGANOptions().build(SCALE)
    theirs = ours.for_whole_pictures()  # 400 x 400 need no moved grid
    side = CROP + 2 * ours.context * SCALE
    pictures = [read_image(bundled_path(name)).pixels for name in PHOTOGRAPHS]
    original_shares: Shares = defaultdict(float)
    our_shares: Shares = defaultdict(float)
    for k in range(-1, samples):  # the first one warms up
        gt = pictures[k % len(pictures)]
        streams = Streams(0, 1, k + 1)
        for way, operator, crop, shares in (
            (original_way, theirs, ORIGINAL_CROP, original_shares),
            (our_way, ours, side, our_shares),
        ):
            lq = way(operator, np.ascontiguousarray(gt[:crop, :crop]), streams, shares)
            assert lq.shape == (CROP // SCALE, CROP // SCALE, 3), lq.shape
        if k < 0:
            original_shares.clear()
            our_shares.clear()
    before = table(f"original way, {ORIGINAL_CROP} -> {CROP}", original_shares, samples)
    after = table(f"ours, {side} -> {CROP} and up to 30 for the grid", our_shares, samples)
    print(f"ratio {before / after:.1f}x (wanted: {TARGET:.0f}x)")
    extra = [shares["target"] / samples * 1e3 for shares in (original_shares, our_shares)]
    print(f"with a sharpened target on both sides: {(before + extra[0]) / (after + extra[1]):.1f}x")
    device_form(
        RealESRGANOptions(run_on="device").build(SCALE),
        [np.ascontiguousarray(pictures[k % len(pictures)][:side, :side]) for k in range(samples)],
    )


if __name__ == "__main__":
    main()
