"""RRDBNet: residual-in-residual dense blocks (ESRGAN, Wang et al., ECCVW 2018; Real-ESRGAN, ICCVW 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.rrdbnet_options import RRDBNetOptions
from atelier.archs.swinir import crop_to, pad_to_window

_SLOPE = 0.2
_RESIDUAL = 0.2


class DenseBlock(nn.Module):
    """Five convolutions, each over the input and the results of all before it; the fifth is added to the input."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_grow_ch, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat + num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv3 = nn.Conv2d(num_feat + 2 * num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv4 = nn.Conv2d(num_feat + 3 * num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv5 = nn.Conv2d(num_feat + 4 * num_grow_ch, num_feat, 3, padding=1)
        for conv in self.children():
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.kaiming_normal_(conv.weight)
            with torch.no_grad():
                conv.weight.mul_(0.1)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_feat, H, W] to the same shape."""
        known = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            known = torch.cat((known, F.leaky_relu(conv(known), _SLOPE, inplace=True)), 1)
        return torch.add(x, self.conv5(known), alpha=_RESIDUAL)


class RRDB(nn.Module):
    """Three dense blocks, whose result is added to the input."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(num_feat, num_grow_ch)
        self.rdb2 = DenseBlock(num_feat, num_grow_ch)
        self.rdb3 = DenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_feat, H, W] to the same shape."""
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=_RESIDUAL)


class RRDBNet(nn.Module):
    """A trunk at input resolution (half of it for ``scale`` 2, a quarter for 1), then two doublings.

    For scales 2 and 1 squares of 2x2 or 4x4 pixels become channels first; pictures of other sizes are mirrored at the
    right and bottom, and the result is cropped. The output is not clamped.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: int = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
    ) -> None:
        super().__init__()
        self.options = checked(
            RRDBNetOptions,
            num_in_ch=num_in_ch,
            num_out_ch=num_out_ch,
            scale=scale,
            num_feat=num_feat,
            num_block=num_block,
            num_grow_ch=num_grow_ch,
        )
        self.scale = scale
        self.unshuffle = self.options.unshuffle
        self.conv_first = nn.Conv2d(num_in_ch * self.unshuffle**2, num_feat, 3, padding=1)
        self.body = nn.ModuleList(RRDB(num_feat, num_grow_ch) for _ in range(num_block))
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in_ch, H, W] in [0, 1] to [B, num_out_ch, H * scale, W * scale], not clamped."""
        height, width = x.shape[2] * self.scale, x.shape[3] * self.scale
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(pad_to_window(x, self.unshuffle), self.unshuffle)
        y = self.trunk(x)
        return crop_to(y, height, width) if self.unshuffle > 1 else y

    def trunk(self, x: Tensor) -> Tensor:
        """[B, num_in_ch * unshuffle², h, w], squares of pixels as channels, to [B, num_out_ch, 4 * h, 4 * w]."""
        first = self.conv_first(x)
        y = first
        for block in self.body:
            y = block(y)
        y = first + self.conv_body(y)
        for conv in (self.conv_up1, self.conv_up2):
            y = F.leaky_relu(conv(F.interpolate(y, scale_factor=2, mode="nearest")), _SLOPE, inplace=True)
        result: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(y), _SLOPE, inplace=True))
        return result
