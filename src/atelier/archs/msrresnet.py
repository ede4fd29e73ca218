"""MSRResNet1: SRResNet (Ledig et al., CVPR 2017) without batch normalisation, as in KAIR and the ESRGAN project."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.msrresnet_options import MSRResNet1Options

_SLOPE = 0.1


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input."""

    def __init__(self, nc: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(nc, nc, 3, padding=1)
        self.conv2 = nn.Conv2d(nc, nc, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, nc, H, W] to the same shape."""
        result: Tensor = x + self.conv2(F.relu(self.conv1(x), inplace=True))
        return result


class MSRResNet1(nn.Module):
    """Residual blocks at input resolution, pixel shuffle, and a bilinear enlargement of the input added at the end.

    Scale 4 doubles twice, scale 3 shuffles once by three. The output is not clamped.
    """

    def __init__(self, in_nc: int = 3, out_nc: int = 3, nc: int = 64, nb: int = 16, upscale: int = 4) -> None:
        super().__init__()
        self.options = checked(MSRResNet1Options, in_nc=in_nc, out_nc=out_nc, nc=nc, nb=nb, upscale=upscale)
        self.upscale = upscale
        self.step = 3 if upscale == 3 else 2
        self.conv_first = nn.Conv2d(in_nc, nc, 3, padding=1)
        self.recon_trunk = nn.ModuleList(ResidualBlock(nc) for _ in range(nb))
        self.upconv1 = nn.Conv2d(nc, nc * self.step**2, 3, padding=1)
        if upscale == 4:
            self.upconv2 = nn.Conv2d(nc, nc * self.step**2, 3, padding=1)
        self.HRconv = nn.Conv2d(nc, nc, 3, padding=1)
        self.conv_last = nn.Conv2d(nc, out_nc, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                with torch.no_grad():
                    module.weight.mul_(0.1)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_nc, H, W] in [0, 1] to [B, out_nc, H * upscale, W * upscale], not clamped."""
        y = F.leaky_relu(self.conv_first(x), _SLOPE, inplace=True)
        for block in self.recon_trunk:
            y = block(y)
        for conv in (self.upconv1, self.upconv2) if self.upscale == 4 else (self.upconv1,):
            y = F.leaky_relu(F.pixel_shuffle(conv(y), self.step), _SLOPE, inplace=True)
        y = self.conv_last(F.leaky_relu(self.HRconv(y), _SLOPE, inplace=True))
        enlarged = F.interpolate(x, scale_factor=self.upscale, mode="bilinear", align_corners=False)
        result: Tensor = y + enlarged
        return result
