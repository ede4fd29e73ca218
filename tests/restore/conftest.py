"""Small networks for the tests of this room: one of convolutions, one that attends inside windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNet(nn.Module):
    """``layers`` 3x3 convolutions and a pixel shuffle: receptive radius ``layers``. Strong enough to show seams."""

    def __init__(self, layers: int = 4, channels: int = 3, scale: int = 2, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        widths = [channels, *[8] * (layers - 1), channels * scale**2]
        self.body = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index, layer in enumerate(self.body):
            y = layer(y) if index == len(self.body) - 1 else F.elu(layer(y))
        skip = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        return skip + F.pixel_shuffle(y, self.scale)


class WindowNet(nn.Module):
    """Adds to every pixel a value of its window's mean and contrast, then of shifted windows: unbounded, as SwinIR.

    It demands sides that are multiples of the window, so padding outside the network is seen as well.
    """

    def __init__(self, window: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.window, self.layers = window, layers
        self.gain = nn.Parameter(torch.full((layers,), 0.2))
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append((x.shape[-2], x.shape[-1]))
        assert x.shape[-2] % self.window == 0
        assert x.shape[-1] % self.window == 0
        y = x
        for layer in range(self.layers):
            # At a border the shifted windows reach outside, and see something else there than within a larger tile.
            shift = self.window // 2 if layer % 2 else 0
            shifted = F.pad(y, (shift,) * 4, mode="replicate")
            mean = F.interpolate(F.avg_pool2d(shifted, self.window), scale_factor=self.window, mode="nearest")
            shifted = shifted + self.gain[layer] * torch.tanh(3 * (shifted - mean))
            y = shifted[..., shift : shift + x.shape[-2], shift : shift + x.shape[-1]]
            y = y + 0.1 * (F.avg_pool2d(y, 3, stride=1, padding=1) - y)
        return y


@dataclass(frozen=True)
class SmallFacts:
    architecture: str = "ConvNet"
    scale: int = 2
    in_channels: int = 3
    out_channels: int = 3
    size_multiple: int = 1
    receptive_radius: int | None = 4
    supports_half: bool = True
    supports_bfloat16: bool = True


@pytest.fixture
def conv_net() -> Callable[..., nn.Module]:
    """``conv_net(layers=4, channels=3, scale=2)``."""
    return ConvNet


@pytest.fixture
def window_net() -> Callable[..., nn.Module]:
    """``window_net(window=8, layers=4)``: scale 1, any number of channels."""
    return WindowNet


@pytest.fixture
def small_facts() -> Callable[..., SmallFacts]:
    """Facts of ``conv_net()`` with changes."""
    return SmallFacts
