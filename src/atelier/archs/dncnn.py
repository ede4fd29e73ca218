"""DnCNN: a chain of 3x3 convolutions that finds the noise in a picture (Zhang et al., IEEE TIP 26(7), 2017).

Names, defaults and the constants of batch normalisation are those of KAIR's networks, so that their files load.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from atelier.archs.checks import checked
from atelier.archs.dncnn_options import DnCNNOptions

# KAIR's: with another eps its weight files would give other pictures. Its momentum is the share of the newest batch
# (PyTorch's sense), so the running statistics are nearly those of the last training batch.
_EPS, _MOMENTUM = 1e-4, 0.9


class DnCNN(nn.Module):
    """The input minus what a chain of ``nb`` convolutions makes of it.

    ``model`` is flat, so its indices count activations and normalisations as well (``act_mode`` R: convolution ``i``
    stands at ``2i``; BR: at 0, 2, 5, 8, ...). The output is not clamped.
    """

    def __init__(
        self, in_nc: int = 1, out_nc: int = 1, nc: int = 64, nb: int = 17, act_mode: str = "BR"
    ) -> None:
        super().__init__()
        self.options = checked(DnCNNOptions, in_nc=in_nc, out_nc=out_nc, nc=nc, nb=nb, act_mode=act_mode)
        layers: list[nn.Module] = [nn.Conv2d(in_nc, nc, 3, padding=1), self._activation()]
        for _ in range(nb - 2):
            layers.append(nn.Conv2d(nc, nc, 3, padding=1))
            if self.options.normalises:
                layers.append(nn.BatchNorm2d(nc, eps=_EPS, momentum=_MOMENTUM))
            layers.append(self._activation())
        layers.append(nn.Conv2d(nc, out_nc, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def _activation(self) -> nn.Module:
        return nn.ReLU(inplace=True) if self.options.act_mode[-1] == "R" else nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_nc, H, W] in [0, 1] to the same shape, not clamped."""
        noise: Tensor = self.model(x)
        return x - noise


def fold_batch_norm(net: DnCNN) -> DnCNN:
    """The network without batch normalisation that computes what ``net`` computes in evaluation mode.

    A normalisation with running statistics is affine for each channel, hence part of the convolution before it:
    w' = w·g/sqrt(v + eps), b' = (b - m)·g/sqrt(v + eps) + beta. Computed in float64, rounded once. ``net`` is left as
    it is; the result has its device, number format and mode. Without normalisation it is a plain copy.
    """
    options = net.options.model_copy(update={"act_mode": net.options.act_mode[-1]})
    first = next(net.parameters())
    # The weights drawn here are replaced; nobody's numbers should shift.
    with torch.random.fork_rng(devices=()):
        folded = options.build().to(first.device, first.dtype).train(net.training)
    targets = [layer for layer in folded.model if isinstance(layer, nn.Conv2d)]
    layers = list(net.model)
    places = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for place, target in zip(places, targets, strict=True):
            source = cast(nn.Conv2d, layers[place])
            weight, bias = source.weight.double(), cast(Tensor, source.bias).double()
            following = layers[place + 1] if place + 1 < len(layers) else None
            if isinstance(following, nn.BatchNorm2d):
                mean, variance = cast(Tensor, following.running_mean), cast(Tensor, following.running_var)
                slope = following.weight.double() / (variance.double() + following.eps).sqrt()
                weight = weight * slope[:, None, None, None]
                bias = (bias - mean.double()) * slope + following.bias.double()
            target.weight.copy_(weight)
            cast(Tensor, target.bias).copy_(bias)
    return folded
