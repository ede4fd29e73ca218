"""A convolution divided by its largest singular value (Miyato et al., Spectral Normalization for GANs, ICLR 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-12


class SpectralConv2d(nn.Module):
    """A convolution whose kernel, as a matrix [out, in·k·k], is kept at spectral norm about 1; without bias by default.

    The singular value is estimated by one step of power iteration at each forward pass in training mode; the vectors
    ``weight_u`` [out] and ``weight_v`` [in·k·k] are buffers, so they belong to the state that an exact resume needs.
    In evaluation mode they stand still. Names are those of ``torch.nn.utils.spectral_norm``.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight_orig = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight_orig, a=math.sqrt(5))  # as nn.Conv2d
        if bias:
            bound = 1 / math.sqrt(in_channels * kernel_size**2)
            self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))  # as nn.Conv2d
        else:
            self.register_parameter("bias", None)
        self.register_buffer("weight_u", _unit(torch.randn(out_channels)))
        self.register_buffer("weight_v", _unit(torch.randn(in_channels * kernel_size**2)))

    def normalised_weight(self) -> Tensor:
        """The kernel over its estimated spectral norm; moves u and v in training mode.

        In full precision whatever autocast says: a few steps of iteration in half precision would drift away.
        """
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            u, v = self.weight_u, self.weight_v
            if self.training:
                with torch.no_grad():
                    matrix = self.weight_orig.flatten(1)
                    v = _unit(torch.mv(matrix.t(), u))
                    u = _unit(torch.mv(matrix, v))
                    # The graph below holds the new tensors: a later pass that moves the buffers must not change them.
                    self.weight_u.copy_(u)
                    self.weight_v.copy_(v)
            sigma = torch.dot(u, torch.mv(self.weight_orig.flatten(1), v))
            return self.weight_orig / sigma

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, h, w]; with padding 1 and kernel 3 or (stride 2) 4, h = H / stride."""
        return F.conv2d(x, self.normalised_weight(), self.bias, stride=self.stride, padding=self.padding)


def _unit(vector: Tensor) -> Tensor:
    return F.normalize(vector, dim=0, eps=_EPS)
