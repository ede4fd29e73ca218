"""SRVGGNetCompact: 3x3 convolutions at input resolution, then one pixel shuffle (Real-ESRGAN, ICCVW 2021)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.checks import checked
from atelier.archs.compact_options import SRVGGNetCompactOptions

_ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "prelu": lambda features: nn.PReLU(num_parameters=features),
    "relu": lambda features: nn.ReLU(inplace=True),
    "leakyrelu": lambda features: nn.LeakyReLU(0.1, inplace=True),
}


class SRVGGNetCompact(nn.Module):
    """A chain of convolutions whose result is added to the nearest-neighbour enlarged input.

    ``body`` is flat: convolution ``i`` has index ``2i``, its activation ``2i + 1``. The output is not clamped.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_conv: int = 16,
        upscale: int = 4,
        act_type: str = "prelu",
    ) -> None:
        super().__init__()
        self.options = checked(
            SRVGGNetCompactOptions,
            num_in_ch=num_in_ch,
            num_out_ch=num_out_ch,
            num_feat=num_feat,
            num_conv=num_conv,
            upscale=upscale,
            act_type=act_type,
        )
        self.upscale = upscale
        activation = _ACTIVATIONS[act_type]
        layers: list[nn.Module] = [nn.Conv2d(num_in_ch, num_feat, 3, padding=1), activation(num_feat)]
        for _ in range(num_conv):
            layers += [nn.Conv2d(num_feat, num_feat, 3, padding=1), activation(num_feat)]
        layers.append(nn.Conv2d(num_feat, num_out_ch * upscale**2, 3, padding=1))
        self.body = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in_ch, H, W] in [0, 1] to [B, num_out_ch, H * upscale, W * upscale], not clamped."""
        y = x
        for layer in self.body:
            y = layer(y)
        return F.pixel_shuffle(y, self.upscale) + F.interpolate(x, scale_factor=self.upscale, mode="nearest")
