"""Which channels of a chain a narrower one keeps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atelier.compress.axes import kept
from atelier.compress.chain import Chain, Layer
from atelier.compress.moments import Moments

Kept = tuple[tuple[int, ...], ...]
"""For every layer the output channels of the source that stay, ascending; the last layer keeps all."""


def by_scores(scores: Sequence[Tensor], width: int, outputs: int) -> Kept:
    """The ``width`` best channels of each inner layer by ``scores``, and all ``outputs`` of the last layer."""
    return (*(kept(each, width).source for each in scores), tuple(range(outputs)))


def l2_scores(layers: Chain) -> list[Tensor]:
    """L2 norm of the weights that make each channel, for every layer but the last."""
    return [layer.weight.flatten(1).norm(dim=1) for layer in layers[:-1]]


def activation_scores(layers: Chain, moments: Sequence[Moments]) -> list[Tensor]:
    """Standard deviation of each channel after its activation, times the norm of the weights that read it.

    Args:
        layers: the chain.
        moments: of the inputs of layers 1, 2, ...
    """
    scores = []
    for layer, moment in zip(layers[1:], moments, strict=True):
        taps = layer.weight[0, 0].numel()
        centre = torch.arange(layer.weight.shape[1]) * taps + taps // 2
        mean = moment.inputs[centre, -1] / moment.count
        spread = (moment.inputs.diagonal()[centre] / moment.count - mean.square()).clamp(min=0).sqrt()
        scores.append(spread * layer.weight.double().transpose(0, 1).flatten(1).norm(dim=1))
    return scores


def by_elimination(layers: Sequence[Layer], moments: Sequence[Moments], width: int, ridge: float) -> Kept:
    """Channels left after removing, one by one, the channel whose loss costs least once the next layer is solved anew.

    From the last layer to the first, so that a layer's channels are judged only by what the kept channels after it
    need of them (ThiNet, Luo et al. 2017, backwards). A kept channel counts in the layer before by the power of the
    weights that read it. The column of ones always stays: it takes over the mean of what is removed.

    Args:
        layers: the chain, first to last.
        moments: for layers 1, 2, ...: inputs, and all of the layer's own values before its activation.
        width: channels to keep.
        ridge: see :meth:`Moments.ridge`.
    """
    rows = tuple(range(len(layers[-1].bias)))
    weights = torch.ones(len(rows), dtype=torch.float64)
    chosen = [rows]
    for layer, moment in zip(reversed(layers[1:]), reversed(moments), strict=True):
        taps = layer.weight[0, 0].numel()
        cross = moment.cross[:, list(rows)] * weights.sqrt()
        rows, weights = eliminate(moment.ridge(ridge), cross, taps, width)
        weights = weights / weights.sum().clamp(min=1e-30)
        chosen.append(rows)
    return tuple(reversed(chosen))


def eliminate(inputs: Tensor, cross: Tensor, taps: int, width: int) -> tuple[tuple[int, ...], Tensor]:
    """Backward elimination of blocks of columns from one least-squares problem.

    With P the inverse of the normal matrix and W = P cross, leaving out block b costs tr(W_b' P_bb^-1 W_b); both are
    then brought up to date by the Schur complement.

    Args:
        inputs: [D, D], damped normal matrix; D = channels * taps + 1.
        cross: [D, O].
        taps: columns of a channel.
        width: channels to keep.

    Returns:
        The channels kept, ascending, and the power of the solved weights that read each of them.
    """
    inverse = torch.linalg.inv(inputs)
    solution = inverse @ cross
    alive = list(range((len(inputs) - 1) // taps))
    while len(alive) > width:
        blocks = _blocks(alive, taps)
        own = solution[blocks]
        inner = inverse[blocks[:, :, None], blocks[:, None, :]]
        cost = (torch.linalg.solve(inner, own) * own).sum((1, 2))
        worst = int(cost.argmin())
        block = blocks[worst]
        change = torch.linalg.solve(inner[worst], torch.cat([own[worst], inverse[block]], 1))
        column = inverse[:, block]
        inverse = inverse - column @ change[:, cross.shape[1] :]
        solution = solution - column @ change[:, : cross.shape[1]]
        del alive[worst]
    return tuple(alive), solution[_blocks(alive, taps)].square().sum((1, 2))


def _blocks(channels: Sequence[int], taps: int) -> Tensor:
    return torch.tensor(channels)[:, None] * taps + torch.arange(taps)
