"""ColorVidNet as a fusion network: both colours with their lightness, confidence and similarity go in as planes."""

from __future__ import annotations

import torch
from torch import Tensor

from atelier.archs.checks import checked
from atelier.archs.colorvidnet import ColorVidNet
from atelier.archs.fusion import FusionNet, average_colours, zeroed
from atelier.archs.fusion_options import Base, VidNetFusionOptions


class FusionNetV1(FusionNet, ColorVidNet):  # type: ignore[misc]  # forward is the fusion's, on purpose
    """``base + tanh(conv10_ab)`` in the layout of :class:`ColorVidNet` with 8 planes (32,802,683 parameters).

    Planes: LAB with the flow's colours (3), confidence, LAB with the reference's colours (3), similarity. Sides are
    multiples of 8, at least 16.

    Args:
        base: what the network corrects, ``average`` or ``flow`` (the flow's colours).
    """

    def __init__(self, base: Base = "average") -> None:
        ColorVidNet.__init__(self, in_channels=8)
        self.options = checked(VidNetFusionOptions, base=base)
        self.base = base
        zeroed(self.conv10_ab)

    def fuse(
        self, flow_ab: Tensor, exemplar_ab: Tensor, confidence: Tensor, similarity: Tensor, lightness: Tensor
    ) -> Tensor:
        """The base plus the network's answer."""
        planes = [lightness, flow_ab, confidence, lightness, exemplar_ab, similarity]
        residual = ColorVidNet.forward(self, torch.cat(planes, dim=1)).float()
        if self.base == "flow":
            return flow_ab.float() + residual
        return average_colours(flow_ab, exemplar_ab, confidence, similarity) + residual
