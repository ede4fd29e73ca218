"""The parts of MemFlow under the names that its weight files use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.memflow_correlation import CHANNELS

FEATURES = 256
HIDDEN = 128
Norm = Callable[[int], nn.Module]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a skip, which a 1x1 convolution adapts where the stride is 2.

    The norm of that skip stands in the files under two names, ``norm3`` and ``downsample.1``, where it has weights.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = norm(channels)
        self.norm2 = norm(channels)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.norm3 = norm(channels)
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels_in, h, w]`` to ``[B, channels, h / stride, w / stride]``."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        skip = x if self.downsample is None else self.downsample(x)
        return F.relu(skip + y)


class FlowEncoder(nn.Module):
    """A picture ``[B, 3, H, W]`` in [-1, 1] to features ``[B, 256, H/8, W/8]``."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3)
        self.norm1 = norm(64)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64, 1, norm), ResidualBlock(64, 64, 1, norm))
        self.layer2 = nn.Sequential(ResidualBlock(64, 96, 2, norm), ResidualBlock(96, 96, 1, norm))
        self.layer3 = nn.Sequential(ResidualBlock(96, 128, 2, norm), ResidualBlock(128, 128, 1, norm))
        self.conv2 = nn.Conv2d(128, FEATURES, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """As the class says; the values are not bounded."""
        y = F.relu(self.norm1(self.conv1(picture)))
        features: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(y))))
        return features


class PCBlock(nn.Module):
    """Convolution with large kernels made of cheap ones (super kernel block, SKFlow, NeurIPS 2022).

    Residual steps with GELU: a point-wise network, depthwise convolutions of growing size, a point-wise convolution;
    then a point-wise network to ``channels``.
    """

    def __init__(self, channels_in: int, channels: int, kernels: tuple[int, ...] = (1, 15)) -> None:
        super().__init__()
        inner = int(1.5 * channels_in)
        self.conv_list = nn.ModuleList(
            nn.Conv2d(channels_in, channels_in, kernel, padding=kernel // 2, groups=channels_in)
            for kernel in kernels
        )
        self.ffn1 = _pointwise_network(channels_in, inner, channels_in)
        self.pw = nn.Conv2d(channels_in, channels_in, 1)
        self.ffn2 = _pointwise_network(channels_in, inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels_in, h, w]`` to ``[B, channels, h, w]``."""
        for step in (self.ffn1, *self.conv_list, self.pw):
            x = F.gelu(x + step(x))
        result: Tensor = self.ffn2(x)
        return result


def _pointwise_network(channels_in: int, inner: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, inner, 1), nn.GELU(), nn.Conv2d(inner, channels, 1))


class MotionEncoder(nn.Module):
    """Flow ``[B, 2, h, w]`` and correlation ``[B, 324, h, w]`` to motion features ``[B, 128, h, w]``."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = PCBlock(CHANNELS, 256)
        self.convc2 = PCBlock(256, 192)
        self.convf1 = nn.Conv2d(2, 128, 1)
        self.convf2 = PCBlock(128, 64)
        self.conv = PCBlock(64 + 192, HIDDEN - 2)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """As the class says; the last two features are the flow itself."""
        seen = self.convc2(F.gelu(self.convc1(correlation)))
        moved = self.convf2(self.convf1(flow))
        joined = self.conv(torch.cat([seen, moved], dim=1))
        return torch.cat([joined, flow.to(joined.dtype)], dim=1)


class Aggregator(nn.Module):
    """Values of the attention, and how much of what it reads is added to the motion features."""

    def __init__(self) -> None:
        super().__init__()
        self.to_v = nn.Conv2d(HIDDEN, HIDDEN, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))


class UpdateBlock(nn.Module):
    """What one iteration computes with; :class:`~atelier.archs.memflow.MemFlow` says in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = PCBlock(4 * HIDDEN, HIDDEN, (1, 7))
        self.flow_head = PCBlock(HIDDEN, 2)
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 64 * 9, 1))
        self.aggregator = Aggregator()


class UnusedPositions(nn.Module):
    """Relative position embeddings that the files hold and that nothing reads."""

    def __init__(self, side: int = 160) -> None:
        super().__init__()
        place = torch.arange(side)
        self.rel_height = nn.Embedding(2 * side - 1, HIDDEN)
        self.rel_width = nn.Embedding(2 * side - 1, HIDDEN)
        self.register_buffer("rel_ind", place[None, :] - place[:, None] + side - 1)


class Attention(nn.Module):
    """Queries and keys of the context."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qk = nn.Conv2d(HIDDEN, 2 * HIDDEN, 1, bias=False)
        self.pos_emb = UnusedPositions()
