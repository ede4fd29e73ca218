"""Where a GAN training step spends its time: generator, VGG19, discriminator, data, optimisers, average.

    python benchmarks/gan_step.py [--gt-size 128] [--batch 2] [--rounds 3] [--networks compact rrdb] [--device cpu]

The step is the source document's: x2, L1 and perceptual loss on a sharpened target, GAN loss, both Adams, the averaged
weights. It is cut into stages at the generator's output, whose gradient is added up and sent back once; the gradients
are compared with those of the objective that runs train with. VGG19 has random weights here, which cost the same as
trained ones. On the CPU processor time of one thread is shown, on a GPU wall time between two waits for it; the median
of the rounds. Data are made in this process; in a run worker processes make them beside the step.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from atelier.archs.registry import DISCRIMINATORS, NETWORKS
from atelier.data.batch import Batch
from atelier.data.loader import TrainingData
from atelier.data.options import CacheOptions, TrainImagesOptions
from atelier.degrade.base import DEGRADATIONS
from atelier.degrade.usm import usm_sharp
from atelier.losses.base import LOSSES, LossOptions
from atelier.losses.gan import GANLossOptions
from atelier.objectives.gan import GanOptions
from atelier.train.ema import EMA

SCALE = 2
GENERATORS = {
    "compact": (
        "Compact 32/32",
        {"type": "SRVGGNetCompact", "num_feat": 32, "num_conv": 32, "upscale": SCALE},
    ),
    "rrdb": ("RRDBNet 23 blocks", {"type": "RRDBNet", "num_block": 23, "scale": SCALE}),
}
DATA, USM, GENERATOR, VGG = (
    "data (in workers in a run)",
    "sharpened target",
    "generator",
    "VGG19, random weights",
)
D_FOR_G, D_OWN, OPTIMISERS, AVERAGE = (
    "discriminator, for the generator",
    "discriminator, its own two passes",
    "both optimisers",
    "averaged weights",
)
STAGES = (DATA, USM, GENERATOR, VGG, D_FOR_G, D_OWN, OPTIMISERS, AVERAGE)
LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
GAN = GANLossOptions(loss_weight=0.1)


class Clock:
    """Seconds per stage of one step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def _now(self) -> float:
        if self._device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] += self._now() - start


class Step:
    """One generator with all that its step needs."""

    def __init__(self, network: dict[str, Any], device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.net = NETWORKS.options_class(network["type"]).model_validate(network).build().to(device)
        self.judge: nn.Module = DISCRIMINATORS.options_class("UNetDiscriminatorSN")().build().to(device)
        self.losses: list[LossOptions] = [
            LOSSES.options_class("L1Loss")(type="L1Loss"),
            LOSSES.options_class("PerceptualLoss").model_validate(
                {"type": "PerceptualLoss", "layer_weights": LAYERS, "vgg_weights": "random"}
            ),
        ]
        self.l1, self.perceptual = (each.build().to(device) for each in self.losses)
        self.gan = GAN.build()
        self.average = EMA(self.net, 0.999)
        self.optimisers = [
            torch.optim.Adam(each.parameters(), lr=1e-4, betas=(0.9, 0.99)) for each in (self.net, self.judge)
        ]

    def gradients(self, batch: Batch, clock: Clock) -> None:
        """The stages up to the optimisers; gradients are left in the parameters."""
        judge = self.judge
        with clock.stage(USM):
            target = usm_sharp(batch.gt)
        with clock.stage(GENERATOR):
            out = self.net(batch.lq)
            cut = out.detach().requires_grad_(True)
            sum(self.l1(cut, target).values()).backward()
        with clock.stage(VGG):
            sum(self.perceptual(cut, target).values()).backward()
        with clock.stage(D_FOR_G):
            judge.requires_grad_(False)
            self.gan.generator(judge(cut)).backward()
            judge.requires_grad_(True)
        with clock.stage(GENERATOR):
            out.backward(cut.grad)
        with clock.stage(D_OWN):
            self.gan.real(judge(batch.gt)).backward()
            self.gan.fake(judge(out.detach())).backward()

    def check(self, batch: Batch) -> float:
        """Largest difference of any gradient to the objective's, relative to that tensor's largest value."""
        nets = {"g": copy.deepcopy(self.net), "d": copy.deepcopy(self.judge)}
        options = GanOptions(l1_gt_usm=True, percep_gt_usm=True)
        objective = options.build(nets=nets, losses=self.losses, device=self.device, gan=GAN)
        for part in objective.parts(batch, 1):
            part.total.backward()
        self.gradients(batch, Clock(self.device))
        pairs = zip(
            [*nets["g"].parameters(), *nets["d"].parameters()],
            [*self.net.parameters(), *self.judge.parameters()],
            strict=True,
        )
        return max(_difference(theirs.grad, ours.grad) for theirs, ours in pairs)

    def finish(self, clock: Clock) -> None:
        with clock.stage(OPTIMISERS):
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        with clock.stage(AVERAGE):
            self.average.update()


def _difference(left: Tensor | None, right: Tensor | None) -> float:
    assert left is not None and right is not None
    return float((left - right).abs().max() / left.abs().max().clamp_min(1e-12))


def batches(size: int, count: int, steps: int, device: torch.device, clocks: list[Clock]) -> Iterator[Batch]:
    """``steps`` batches of the degradation of Real-ESRGAN; making each is booked on the next clock."""
    data = TrainingData(
        TrainImagesOptions.model_validate(
            {"dataroot_gt": "bundled", "gt_size": size, "batch_size_per_gpu": count, "num_worker_per_gpu": 0}
        ),
        scale=SCALE,
        degradation=DEGRADATIONS.options_class("realesrgan")(type="realesrgan").build(SCALE),
        seed=0,
        global_batch=count,
        rank=0,
        world=1,
        in_channels=3,
        device=device,
        cache=CacheOptions(enabled=False),
        quiet=True,
    )
    found = data.batches(1, steps)
    for clock in clocks:
        with clock.stage(DATA):
            batch = next(found)
        yield batch
    data.close()


def measured(
    network: dict[str, Any], size: int, count: int, rounds: int, device: torch.device
) -> dict[str, float]:
    """Stage -> median seconds; the first step, which also checks the gradients, does not count."""
    step = Step(network, device)
    clocks = [Clock(device) for _ in range(rounds + 1)]
    for index, batch in enumerate(batches(size, count, rounds + 1, device, clocks)):
        if index == 0:
            difference = step.check(batch)
            assert difference < 1e-3, f"the stages are not the objective's step: {difference:.1e}"
        else:
            step.gradients(batch, clocks[index])
        step.finish(clocks[index])
    return {name: statistics.median(clock.seconds[name] for clock in clocks[1:]) for name in STAGES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gt-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=list(GENERATORS), default=list(GENERATORS))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    size, count = arguments.gt_size, arguments.batch
    columns = {
        GENERATORS[name][0]: measured(GENERATORS[name][1], size, count, arguments.rounds, device)
        for name in arguments.networks
    }
    print(f"x{SCALE}, {count} crops of {size}x{size}, {device}\n")
    print("| stage | " + " | ".join(f"{name} ms | share" for name in columns) + " |")
    print("|---|" + "---|---|" * len(columns))
    sums = {name: sum(found.values()) for name, found in columns.items()}
    for stage in STAGES:
        cells = [
            f"{1000 * found[stage]:.0f} | {found[stage] / sums[name]:.1%}" for name, found in columns.items()
        ]
        print(f"| {stage} | " + " | ".join(cells) + " |")
    print("| together | " + " | ".join(f"{1000 * total:.0f} | 100 %" for total in sums.values()) + " |")


if __name__ == "__main__":
    main()
