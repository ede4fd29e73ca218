"""KAIR's corrections of the weights after an optimiser step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from atelier.train.regularizer_options import RegularizerOptions

NUDGE = 1e-4
LARGEST, SMALLEST = 1.5, 0.5


def apply_regularizer(net: nn.Module, options: RegularizerOptions, step: int) -> None:
    """Do what is due at ``step`` (counted from 1): every ``orth_freq`` and ``clip_freq`` steps, in this order."""
    if options.orth_freq is not None and step % options.orth_freq == 0:
        nudge_singular_values(net)
    if options.clip_freq is not None and step % options.clip_freq == 0:
        nudge_entries(net)


@torch.no_grad()
def nudge_singular_values(net: nn.Module) -> None:
    """Move singular values of every 2-d convolution that leave [0.5, 1.5] by 1e-4 towards that range, in place.

    A weight [cout, cin, kh, kw] is taken as the matrix [kh·kw·cin, cout]. Nothing here looks at a value; on a GPU
    PyTorch's own decomposition looks at its solver's status, so weights of one shape are decomposed together.
    """
    groups: dict[tuple[torch.Size, torch.device, torch.dtype], list[Tensor]] = {}
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            groups.setdefault((weight.shape, weight.device, weight.dtype), []).append(weight)
    for weights in groups.values():
        matrices = torch.stack([weight.permute(2, 3, 1, 0).flatten(0, 2) for weight in weights])
        left, values, right = torch.linalg.svd(matrices, full_matrices=False)
        change = NUDGE * ((values < SMALLEST).to(values.dtype) - (values > LARGEST).to(values.dtype))
        # Only the change is put together again: a weight in range stays what it was, bit for bit.
        changes = (left * change.unsqueeze(-2)) @ right
        for weight, each in zip(weights, changes, strict=True):
            out, channels, height, width = weight.shape
            weight.add_(each.view(height, width, channels, out).permute(3, 2, 0, 1))


@torch.no_grad()
def nudge_entries(net: nn.Module) -> None:
    """Move entries of convolutions and linear layers (weights and biases) beyond ±1.5 by 1e-4 back, in place."""
    for tensor in _weights_and_biases(net):
        beyond = (tensor > LARGEST).to(tensor.dtype) - (tensor < -LARGEST).to(tensor.dtype)
        tensor.sub_(beyond, alpha=NUDGE)


def _weights_and_biases(net: nn.Module) -> Iterator[Tensor]:
    for module in net.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            yield module.weight
            if module.bias is not None:
                yield module.bias
