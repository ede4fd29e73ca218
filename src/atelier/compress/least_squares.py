"""A narrower chain solved layer by layer to give what the source gives (He et al. 2017, channel pruning)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from atelier.compress.chain import Chain, Layer
from atelier.compress.moments import Moments, at, patches
from atelier.compress.select import Kept

_BATCH = 8
Tick = Callable[[], None]


@torch.no_grad()
def collect(layers: Chain, pairs: Sequence[tuple[int, int]], x: Tensor, places: Tensor) -> list[Moments]:
    """Moments of (inputs of layer i, values of layer j before its activation) for every pair (i, j), j >= i.

    Args:
        layers: the chain.
        pairs: which; ``i`` and ``j`` count layers from 0.
        x: pictures [N, C, H, W].
        places: see :func:`atelier.compress.moments.patches`.
    """
    sums = [Moments.empty(layers[i].weight[0].numel(), len(layers[j].bias)) for i, j in pairs]
    for batch in torch.split(x, _BATCH):
        rows: dict[int, Tensor] = {}
        for k, layer in enumerate(layers):
            rows[k] = patches(batch, layer.weight.shape[-1], places)
            before = layer.linear(batch)
            values = at(before, places)
            for (i, j), each in zip(pairs, sums, strict=True):
                if j == k:
                    each.add(rows[i], values)
            for done in [i for i in rows if not any(a == i and b > k for a, b in pairs)]:
                del rows[done]
            batch = layer.activate(before)
    return sums


@torch.no_grad()
def solve(
    source: Chain,
    steps: Sequence[int],
    kept: Kept,
    x: Tensor,
    places: Tensor,
    ridge: float,
    *,
    fit_slopes: bool,
    tick: Tick = lambda: None,
) -> Chain:
    """Weights for the channels ``kept`` of the source's layers ``steps``, each solved from the new chain's own inputs.

    The target of a layer is what the source has there before its activation, so an error made earlier is taken back as
    far as it can be. A slope is then fitted to the source's activated values. As long as nothing has been left out,
    layers are the source's own, bit for bit.

    Args:
        source: the trained chain.
        steps: its layers that the new chain has, ascending, the first and the last among them.
        kept: output channels of each of these.
        x: pictures [N, C, H, W].
        places: see :func:`atelier.compress.moments.patches`.
        ridge: see :meth:`Moments.ridge`.
        fit_slopes: whether slopes may differ from the source's (PReLU).
        tick: called after each layer of the new chain.
    """
    ours = theirs = x
    position, whole, made = 0, True, []
    for number, (step, channels) in enumerate(zip(steps, kept, strict=True)):
        for layer in source[position:step]:
            theirs = _each(layer, theirs)
        position = step + 1
        target = _each(source[step].linear, theirs)
        theirs = _each(source[step].activate, target)
        copied = whole and step == number
        layer = source[step].rows(channels)
        rows = list(channels)
        if not copied:
            layer = _solved(layer, ours, target, rows, places, ridge)
        before = _each(layer.linear, ours)
        if fit_slopes and not copied and layer.slope is not None:
            layer = replace(layer, slope=_slopes(before, theirs, rows, layer.slope))
        ours = _each(layer.activate, before)
        whole = copied and len(channels) == len(source[step].bias)
        made.append(layer)
        tick()
    return tuple(made)


def _each(change: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([change(batch) for batch in torch.split(x, _BATCH)])


def _solved(layer: Layer, x: Tensor, target: Tensor, rows: list[int], places: Tensor, ridge: float) -> Layer:
    kernel = layer.weight.shape[-1]
    moments = Moments.empty(x.shape[1] * kernel**2, len(rows))
    for ours, theirs in zip(torch.split(x, _BATCH), torch.split(target, _BATCH), strict=True):
        moments.add(patches(ours, kernel, places), at(theirs[:, rows], places))
    solution = moments.solve(ridge).float()
    weight = solution[:-1].T.reshape(len(rows), x.shape[1], kernel, kernel).contiguous()
    return Layer(weight, solution[-1].contiguous(), layer.slope)


def _slopes(before: Tensor, activated: Tensor, rows: list[int], slope: Tensor) -> Tensor:
    """[O], least squares of the source's activated values on the new chain's negative ones."""
    power, product = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    for ours, theirs in zip(torch.split(before, _BATCH), torch.split(activated, _BATCH), strict=True):
        negative = ours.clamp(max=0).double()
        power += negative.square().sum((0, 2, 3))
        product += (negative * theirs[:, rows]).sum((0, 2, 3))
    pixels = before.numel() / before.shape[1]
    return torch.where(power > 1e-8 * pixels, product / power.clamp(min=1e-30), slope.double()).float()


@torch.no_grad()
def relative_errors(
    source: Chain, steps: Sequence[int], kept: Kept, chain: Chain, x: Tensor
) -> tuple[float, ...]:
    """For every layer ``|Y - Y'| / |Y|`` of the kept channels before the activation, all errors before it included.

    ``chain`` has a layer for each of ``steps``; x is [N, C, H, W].
    """
    missed, power = [0.0] * len(steps), [0.0] * len(steps)
    for batch in torch.split(x, _BATCH):
        ours = theirs = batch
        number = 0
        for position, layer in enumerate(source):
            target = layer.linear(theirs)
            if position == steps[number]:
                wanted = target[:, list(kept[number])]
                given = chain[number].linear(ours)
                missed[number] += float((given - wanted).double().square().sum())
                power[number] += float(wanted.double().square().sum())
                ours = chain[number].activate(given)
                number += 1
            theirs = layer.activate(target)
    return tuple((a / b) ** 0.5 if b else 0.0 for a, b in zip(missed, power, strict=True))
