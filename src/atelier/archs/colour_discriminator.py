"""ColourDiscriminatorSN: judges a coloured frame (as in exemplar video colouring, Zhang et al., CVPR 2019).

Spectral normalisation after Miyato et al., ICLR 2018; self-attention after Zhang et al. (SAGAN), ICML 2019.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.colour_discriminator_options import LEAST_SIDE, ColourDiscriminatorSNOptions
from atelier.archs.spectral_norm import SpectralConv2d
from atelier.errors import UserError

_SLOPE = 0.2
#: Channels after each halving, in units of ``num_feat``; attention looks at the second.
_WIDTHS = (1, 1, 2, 4, 8, 16)


class SelfAttention(nn.Module):
    """x + gamma * attention(x) over all places, one head, no scaling; gamma starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = SpectralConv2d(channels, channels, 1, padding=0, bias=True)
        self.key = SpectralConv2d(channels, channels, 1, padding=0, bias=True)
        self.value = SpectralConv2d(channels, channels, 1, padding=0, bias=True)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        q, k, v = (
            layer(x).flatten(2).transpose(1, 2)[:, None] for layer in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.gamma * found


class ColourDiscriminatorSN(nn.Module):
    """4×4 convolutions of stride 2 to 64, 64 (attention), 128, 256, 512, 1024 channels, a 3×3 one to 1, the mean.

    All are spectrally normalised (in training mode each pass moves their vectors by one step). Instance normalisation
    from the second on, so every picture is judged by itself.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64) -> None:
        super().__init__()
        self.options = checked(ColourDiscriminatorSNOptions, num_in_ch=num_in_ch, num_feat=num_feat)
        widths = [num_in_ch, *(num_feat * factor for factor in _WIDTHS)]
        self.halvings = nn.ModuleList(
            SpectralConv2d(taken, given, 4, stride=2, bias=True) for taken, given in pairwise(widths)
        )
        self.attention = SelfAttention(widths[2])
        self.last = SpectralConv2d(widths[-1], 1, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in_ch, H, W] with sides of 128 and more, unit LAB, to logits [B, 1].

        Raises:
            UserError: a side below 128.
        """
        if min(x.shape[-2:]) < LEAST_SIDE:
            height, width = x.shape[-2:]
            raise UserError(
                f"ColourDiscriminatorSN judges pictures of at least {LEAST_SIDE} pixels a side, given {width}×{height}"
            )
        for level, conv in enumerate(self.halvings):
            x = conv(x)
            if level:
                x = F.instance_norm(x)
            x = F.leaky_relu(x, _SLOPE)
            if level == 1:
                x = self.attention(x)
        logits: Tensor = self.last(x).mean(dim=(2, 3))
        return logits
