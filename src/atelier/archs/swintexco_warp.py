"""WarpNet, the matching network of SwinTExCo (official state-dict names, there called ``nonlocal_net``).

Structure: Zhang et al., "Deep Exemplar-based Video Colorization" (CVPR 2019); SwinTExCo feeds it with the four stages
of a Swin transformer instead of VGG's layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.nonlocal_match import centred_unit, match

#: Channels of the four levels, which come at 1/2, 1/4, 1/8 and 1/16 of the picture's size.
LEVELS = (96, 192, 384, 768)
#: The matching happens at 1/4 of the picture's size.
REDUCTION = 4


def _step(channels_in: int, channels_out: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.ReflectionPad2d(1),
        nn.Conv2d(channels_in, channels_out, 3, stride=stride),
        nn.InstanceNorm2d(channels_out),
        nn.PReLU(),
    ]


def _twice() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="nearest")


class _Residual(nn.Module):
    """Two convolutions around the identity; one slope serves both activations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(F.instance_norm(self.conv1(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        y = F.instance_norm(self.conv2(F.pad(y, (1, 1, 1, 1), mode="reflect")))
        result: Tensor = self.prelu(x + y)
        return result


class WarpNet(nn.Module):
    """Turns the levels of two pictures into features whose cosines say what belongs together.

    Dropout (0.2) is active in training. Biases in front of an instance normalisation or of the centring change
    nothing and get no gradient; the official files hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        second, third, fourth, fifth = LEVELS
        self.layer2_1 = nn.Sequential(*_step(second, 128), *_step(128, 128, 2), nn.Dropout(0.2))
        self.layer3_1 = nn.Sequential(*_step(third, 128), *_step(128, 128), nn.Dropout(0.2))
        self.layer4_1 = nn.Sequential(*_step(fourth, 256), *_step(256, 128), _twice(), nn.Dropout(0.2))
        self.layer5_1 = nn.Sequential(
            *_step(fifth, 256), _twice(), *_step(256, 128), _twice(), nn.Dropout(0.2)
        )
        self.layer = nn.Sequential(*(_Residual(512) for _ in range(3)))
        self.theta = nn.Conv2d(512, 256, 1)
        self.phi = nn.Conv2d(512, 256, 1)

    def _joined(self, levels: Sequence[Tensor]) -> Tensor:
        branches = (self.layer2_1, self.layer3_1, self.layer4_1, self.layer5_1)
        joined = [branch(level) for branch, level in zip(branches, levels, strict=True)]
        result: Tensor = self.layer(torch.cat(joined, dim=1))
        return result

    def queries(self, levels: Sequence[Tensor], valid: Tensor | None = None) -> Tensor:
        """Of the picture that wants colours.

        Args:
            levels: ``[B, 96, H/2, W/2]``, ``[B, 192, H/4, W/4]``, ``[B, 384, H/8, W/8]``, ``[B, 768, H/16, W/16]``.
            valid: ``[B, H/4 * W/4]`` bool, False where the picture was padded: left out of the mean.

        Returns:
            ``[B, H/4 * W/4, 256]`` float32.
        """
        return centred_unit(self.theta(self._joined(levels)), valid)

    def keys(self, levels: Sequence[Tensor], valid: Tensor | None = None) -> Tensor:
        """The same of a reference picture."""
        return centred_unit(self.phi(self._joined(levels)), valid)

    def forward(
        self,
        target: Sequence[Tensor],
        reference: Sequence[Tensor],
        reference_lab: Tensor,
        temperature: float = 0.01,
        chunk: int = 1024,
    ) -> tuple[Tensor, Tensor]:
        """One reference's colours at the places of the target.

        Args:
            target: levels of the target, see :meth:`queries`.
            reference: levels of the reference.
            reference_lab: ``[B, C, H, W]``, averaged over 4x4 pixels.
            temperature: see :func:`~atelier.archs.nonlocal_match.match`.
            chunk: see there.

        Returns:
            ``[B, C, H, W]`` colours and ``[B, 1, H, W]`` cosines in [-1, 1], enlarged by repetition.
        """
        values = F.avg_pool2d(reference_lab, REDUCTION).flatten(2).transpose(1, 2)
        height, width = target[1].shape[-2:]
        found = match(self.queries(target), self.keys(reference), values, temperature, chunk=chunk)
        colours, similarity = (
            F.interpolate(each.transpose(1, 2).reshape(len(each), -1, height, width), scale_factor=REDUCTION)
            for each in found
        )
        return colours, similarity
