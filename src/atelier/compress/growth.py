"""Deeper and wider chains that compute what they computed before (Net2Net, Chen et al. 2016)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from atelier.compress.chain import Chain, Layer
from atelier.errors import UserError


def deepen(layers: Chain, num_conv: int, act_type: str, where: str = "even") -> Chain:
    """Layers added that change nothing, until ``num_conv`` lie between the first and the last.

    An added layer is a Dirac kernel without bias; its PReLU has slopes 1, its ReLU meets only what an earlier ReLU let
    through. Kernels and slopes get gradients at once, so the layers learn from the first step.

    Args:
        layers: a chain whose inner layers keep the number of channels.
        num_conv: at least as many as there are.
        act_type: "prelu" or "relu".
        where: "even": spread over the chain; "end": before the last layer.

    Raises:
        UserError: LeakyReLU, which bends negative values again in every layer.
    """
    extra = num_conv - (len(layers) - 2)
    if extra == 0:
        return layers
    require_growable(act_type)
    places = len(layers) - 1
    added = [0] * places
    for k in range(extra):
        added[places - 1 if where == "end" else (2 * k + 1) * places // (2 * extra)] += 1
    grown: list[Layer] = []
    for layer, count in zip(layers[:-1], added, strict=True):
        grown += [layer] + [_identity(len(layer.bias), act_type) for _ in range(count)]
    return (*grown, layers[-1])


def require_growable(act_type: str) -> None:
    """Raises :class:`UserError` for an activation that no added layer can leave as it is."""
    if act_type == "leakyrelu":
        raise UserError(
            "layers that change nothing cannot be added to a network with LeakyReLU: its fixed slope bends negative "
            "values once more in every added layer; keep num_conv, or use --grow duplicate"
        )


def duplicate(layers: Chain, num_conv: int) -> Chain:
    """The inner layers repeated in order until there are ``num_conv``: another function, kept for comparison."""
    inner = layers[1:-1]
    return (layers[0], *(inner[i % len(inner)] for i in range(num_conv)), layers[-1])


def widen(layers: Chain, num_feat: int) -> Chain:
    """Every inner width grown to ``num_feat`` by splitting channels; the output stays the same to rounding.

    Channel ``j`` of the new network copies channel ``j mod width``; the weights that read it are divided by the number
    of its copies.
    """
    width = len(layers[0].bias)
    copies = [j % width for j in range(num_feat)]
    share = torch.tensor([1.0 / copies.count(j) for j in copies])
    grown = []
    for i, layer in enumerate(layers):
        if i > 0:
            wide = layer.columns(copies)
            layer = replace(wide, weight=wide.weight * share[:, None, None])
        grown.append(layer.rows(copies) if i < len(layers) - 1 else layer)
    return tuple(grown)


def _identity(features: int, act_type: str) -> Layer:
    kernel = nn.init.dirac_(torch.empty(features, features, 3, 3))
    slope = torch.full((features,), 1.0 if act_type == "prelu" else 0.0)
    return Layer(kernel, torch.zeros(features), slope)
