"""A network as a chain of linear layers, the only view of it that selection and solving need.

Each layer is a convolution of odd kernel with zero padding, followed by a slope per channel for negative values (PReLU;
0 is ReLU, None nothing). Whatever comes after the last layer and is equal in both networks (a pixel shuffle, the
enlarged input added) changes no difference between their outputs, so it does not appear here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.archs.compact_options import SRVGGNetCompactOptions

FIXED_SLOPE = {"relu": 0.0, "leakyrelu": 0.1}
"""Slope of activations without weights."""


@dataclass(frozen=True)
class Layer:
    """One convolution and what follows it.

    Attributes:
        weight: [O, I, k, k], k odd.
        bias: [O].
        slope: [O], factor on negative values; None after the last layer.
    """

    weight: Tensor
    bias: Tensor
    slope: Tensor | None

    def linear(self, x: Tensor) -> Tensor:
        """The convolution alone: [N, I, H, W] to [N, O, H, W]."""
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)

    def activate(self, y: Tensor) -> Tensor:
        """What follows the convolution, shape kept."""
        return y if self.slope is None else F.prelu(y, self.slope)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, I, H, W] to [N, O, H, W]."""
        return self.activate(self.linear(x))

    def rows(self, kept: Sequence[int]) -> Layer:
        """The layer with these output channels only."""
        index = torch.tensor(kept)
        slope = None if self.slope is None else self.slope[index]
        return Layer(self.weight[index], self.bias[index], slope)

    def columns(self, kept: Sequence[int]) -> Layer:
        """The layer with these input channels only."""
        return replace(self, weight=self.weight[:, torch.tensor(kept)])


Chain = tuple[Layer, ...]


def run(layers: Iterable[Layer], x: Tensor) -> Tensor:
    """[N, C, H, W] through all layers."""
    for layer in layers:
        x = layer(x)
    return x


def compact_chain(options: SRVGGNetCompactOptions, state: Mapping[str, Tensor]) -> Chain:
    """The layers of an SRVGGNetCompact: ``num_conv + 2`` convolutions; tensors are float32 copies on the CPU."""
    last = options.num_conv + 1
    layers = []
    for i in range(last + 1):
        weight, bias = (
            state[f"body.{2 * i}.{name}"].detach().to("cpu", torch.float32, copy=True)
            for name in ("weight", "bias")
        )
        slope = None
        if i < last:
            slope = (
                state[f"body.{2 * i + 1}.weight"].detach().to("cpu", torch.float32, copy=True)
                if options.act_type == "prelu"
                else torch.full_like(bias, FIXED_SLOPE[options.act_type])
            )
        layers.append(Layer(weight, bias, slope))
    return tuple(layers)


def compact_state(layers: Chain, act_type: str) -> dict[str, Tensor]:
    """The reverse of :func:`compact_chain`: a state dict, slopes in it where ``act_type`` learns them."""
    state: dict[str, Tensor] = {}
    for i, layer in enumerate(layers):
        state[f"body.{2 * i}.weight"] = layer.weight.contiguous()
        state[f"body.{2 * i}.bias"] = layer.bias.contiguous()
        if layer.slope is not None and act_type == "prelu":
            state[f"body.{2 * i + 1}.weight"] = layer.slope.contiguous()
    return state
