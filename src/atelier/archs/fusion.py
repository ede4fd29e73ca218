"""Networks that decide, pixel by pixel, whom to believe: the colours of the motion or those of the reference.

All have one signature and begin as the average by confidence: their last layer is zero.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.fusion_options import (
    AverageOptions,
    Base,
    FusionOptions,
    SimpleFusionOptions,
    UNetFusionOptions,
)
from atelier.errors import UserError

# Where neither source is believed, both count alike.
EPSILON = 1e-3
# How far a residual on the average may reach: a quarter of the range of ab.
REACH = 0.25


def flow_weight(confidence: Tensor, similarity: Tensor) -> Tensor:
    """``(c + ε) / (c + s⁺ + 2ε)``, ε = 1e-3: the share of the flow's colours in the average; float32."""
    c, s = confidence.float(), similarity.float().clamp(0, 1)
    return (c + EPSILON) / (c + s + 2 * EPSILON)


def average_colours(flow_ab: Tensor, exemplar_ab: Tensor, confidence: Tensor, similarity: Tensor) -> Tensor:
    """Both colours weighted by :func:`flow_weight`; float32, in [-1, 1] where both are."""
    weight = flow_weight(confidence, similarity)
    return weight * flow_ab.float() + (1 - weight) * exemplar_ab.float()


class FusionNet(nn.Module):
    """The signature of all fusion networks; :meth:`forward` checks the input and clamps the output."""

    options: FusionOptions

    @abstractmethod
    def fuse(
        self, flow_ab: Tensor, exemplar_ab: Tensor, confidence: Tensor, similarity: Tensor, lightness: Tensor
    ) -> Tensor:
        """Colours ``[B, 2, H, W]``, not yet clamped; ``similarity`` is within [0, 1]."""

    def forward(
        self,
        memflow_ab: Tensor,
        swintexco_ab: Tensor,
        memflow_conf: Tensor,
        swintexco_sim: Tensor,
        L_channel: Tensor,
    ) -> Tensor:
        """Fuse two proposals of colour.

        Args:
            memflow_ab: the previous frame's colours along the motion, ``[B, 2, H, W]``, unit scale (ab / 127).
            swintexco_ab: the reference's colours by similarity, the same.
            memflow_conf: confidence of the motion, ``[B, 1, H, W]`` in [0, 1].
            swintexco_sim: cosine similarity, ``[B, 1, H, W]``; below 0 counts as 0.
            L_channel: lightness ``[B, 1, H, W]``, unit scale (L / 50 - 1).

        Returns:
            ``[B, 2, H, W]``, float32, in [-1, 1].

        Raises:
            UserError: a side is no multiple of ``options.size_multiple``.
        """
        height, width = L_channel.shape[-2:]
        multiple = self.options.size_multiple
        if height % multiple or width % multiple:
            raise UserError(
                f"fusion network '{self.options.type}' needs sides that are multiples of {multiple}, "
                f"given {width}x{height} (width x height)"
            )
        similarity = swintexco_sim.clamp(0, 1)
        return self.fuse(memflow_ab, swintexco_ab, memflow_conf, similarity, L_channel).float().clamp(-1, 1)


class ConfidenceAverage(FusionNet):
    """:func:`average_colours` as a module without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.options = AverageOptions()

    def fuse(
        self, flow_ab: Tensor, exemplar_ab: Tensor, confidence: Tensor, similarity: Tensor, lightness: Tensor
    ) -> Tensor:
        """The average; ``lightness`` has no part in it."""
        return average_colours(flow_ab, exemplar_ab, confidence, similarity)


class SimpleFusionNet(FusionNet):
    """``base + 0.25 tanh(net)``, four convolutions at full size (16,114 parameters).

    Args:
        base: what the network corrects: ``average``, or ``flow``, the flow's colours, with ``tanh`` at full reach:
            what weights of the code base that came before were trained for.
    """

    def __init__(self, base: Base = "average") -> None:
        super().__init__()
        self.options = checked(SimpleFusionOptions, base=base)
        self.base = base
        layers: list[nn.Module] = []
        for planes_in, planes_out in ((7, 32), (32, 32), (32, 16)):
            layers += [nn.Conv2d(planes_in, planes_out, 3, padding=1), nn.BatchNorm2d(planes_out), nn.ReLU()]
        self.net = nn.Sequential(*layers, zeroed(nn.Conv2d(16, 2, 1)))

    def fuse(
        self, flow_ab: Tensor, exemplar_ab: Tensor, confidence: Tensor, similarity: Tensor, lightness: Tensor
    ) -> Tensor:
        """The base plus a bounded residual."""
        planes = torch.cat([flow_ab, exemplar_ab, confidence, similarity, lightness], dim=1)
        residual = torch.tanh(self.net(planes).float())
        if self.base == "flow":
            return flow_ab.float() + residual
        return average_colours(flow_ab, exemplar_ab, confidence, similarity) + REACH * residual


class UNetFusionNet(FusionNet):
    """A gated mix of both colours plus a bounded residual, from a U-Net with two halvings.

    Two of its four output planes shift the logarithms of confidence and similarity, whose softmax gives the weights;
    the others, through ``0.25 tanh``, are added. 59,156 parameters at ``width`` 16, 233,508 at 32, 927,812 at 64.

    Args:
        width: channels at full size, a multiple of 4.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.options = checked(UNetFusionOptions, width=width)
        self.e1 = _block(7, width)
        self.e2 = _block(width, 2 * width, stride=2)
        self.e3 = _block(2 * width, 4 * width, stride=2)
        self.d2 = _block(6 * width, 2 * width)
        self.d1 = _block(3 * width, width)
        self.out = zeroed(nn.Conv2d(width, 4, 1))

    def fuse(
        self, flow_ab: Tensor, exemplar_ab: Tensor, confidence: Tensor, similarity: Tensor, lightness: Tensor
    ) -> Tensor:
        """The convex combination by shifted weights, plus the residual."""
        planes = torch.cat([flow_ab, exemplar_ab, confidence, similarity, lightness], dim=1)
        e1 = self.e1(planes)
        e2 = self.e2(e1)
        e3 = self.e3(e2)
        d2 = self.d2(torch.cat([F.interpolate(e3, scale_factor=2.0, mode="nearest"), e2], dim=1))
        d1 = self.d1(torch.cat([F.interpolate(d2, scale_factor=2.0, mode="nearest"), e1], dim=1))
        gates, residual = self.out(d1).float().split(2, dim=1)
        trust = torch.cat([confidence, similarity], dim=1).float()
        weights = torch.softmax((trust + EPSILON).log() + gates, dim=1)
        mixed = weights[:, :1] * flow_ab.float() + weights[:, 1:] * exemplar_ab.float()
        return mixed + REACH * torch.tanh(residual)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weight and bias 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(4, channels_out), nn.SiLU())
