"""A transferred network pulled towards its source's output: response distillation without any ground truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.compress.least_squares import Tick
from atelier.randomness import Streams

_BATCH, _SIDE = 8, 40


def polish(
    net: nn.Module,
    source: nn.Module,
    x: Tensor,
    *,
    steps: int,
    lr: float,
    seed: int,
    tick: Tick = lambda: None,
) -> None:
    """``steps`` of Adam on all weights of ``net``, L1 to ``source``'s output, on cuts of 40 x 40.

    Args:
        net: changed in place.
        source: unchanged.
        x: pictures [N, C, H, W] in [0, 1].
        steps: how many.
        lr: first rate; it falls to 0 along half a cosine.
        seed: of the order and the cuts.
        tick: called after every step.
    """
    side = min(_SIDE, *x.shape[2:])
    parameters = list(net.parameters())
    adam = torch.optim.Adam(parameters, lr=lr)
    for step in range(1, steps + 1):
        for group in adam.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        generator = Streams(seed, step, 0)("polish")
        cuts = []
        for k in generator.integers(len(x), size=_BATCH).tolist():
            top, left = (int(generator.integers(n - side + 1)) for n in x.shape[2:])
            cuts.append(x[k, :, top : top + side, left : left + side])
        batch = torch.stack(cuts)
        with torch.no_grad():
            target = source(batch)
        with torch.enable_grad():
            gradients = torch.autograd.grad(F.l1_loss(net(batch), target), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
        tick()
    for parameter in parameters:
        parameter.grad = None
