"""UNetDiscriminatorSN: judges every pixel (Real-ESRGAN, ICCVW 2021, after Schönfeld et al., CVPR 2020)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.spectral_norm import SpectralConv2d
from atelier.archs.unet_discriminator_options import UNetDiscriminatorSNOptions

_SLOPE = 0.2


class UNetDiscriminatorSN(nn.Module):
    """Three halvings, three doublings with skips, two more convolutions, one logit per pixel.

    All convolutions but the first and the last are spectrally normalised; in training mode each forward pass moves
    their vectors by one step.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, skip_connection: bool = True) -> None:
        super().__init__()
        self.options = checked(
            UNetDiscriminatorSNOptions,
            num_in_ch=num_in_ch,
            num_feat=num_feat,
            skip_connection=skip_connection,
        )
        n = num_feat
        self.conv0 = nn.Conv2d(num_in_ch, n, 3, padding=1)
        self.conv1 = SpectralConv2d(n, 2 * n, 4, stride=2)
        self.conv2 = SpectralConv2d(2 * n, 4 * n, 4, stride=2)
        self.conv3 = SpectralConv2d(4 * n, 8 * n, 4, stride=2)
        self.conv4 = SpectralConv2d(8 * n, 4 * n, 3)
        self.conv5 = SpectralConv2d(4 * n, 2 * n, 3)
        self.conv6 = SpectralConv2d(2 * n, n, 3)
        self.conv7 = SpectralConv2d(n, n, 3)
        self.conv8 = SpectralConv2d(n, n, 3)
        self.conv9 = nn.Conv2d(n, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in_ch, H, W] with sides divisible by 8 to logits [B, 1, H, W]."""
        skips = [_leaky(self.conv0(x))]
        for down in (self.conv1, self.conv2, self.conv3):
            skips.append(_leaky(down(skips[-1])))
        y = skips.pop()
        for up in (self.conv4, self.conv5, self.conv6):
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
            y = _leaky(up(y))
            skip = skips.pop()
            if self.options.skip_connection:
                y = y + skip
        y = _leaky(self.conv7(y))
        y = _leaky(self.conv8(y))
        logits: Tensor = self.conv9(y)
        return logits


def _leaky(x: Tensor) -> Tensor:
    # In place on a convolution's own output, which its backward pass does not need.
    return F.leaky_relu(x, _SLOPE, inplace=True)
