"""SwinIR's ways from features to a picture; modules stand at the root of the network, under official names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.swinir_options import SwinIROptions

# Fixed in the original (``num_feat``).
_FEATURES = 64


def head_modules(options: SwinIROptions) -> dict[str, nn.Module]:
    """The modules of the head in the order of official files."""
    dim, channels, scale = options.embed_dim, options.in_chans, options.upscale

    def conv(source: int, target: int) -> nn.Conv2d:
        return nn.Conv2d(source, target, 3, padding=1)

    if options.upsampler == "":
        return {"conv_last": conv(dim, channels)}
    if options.upsampler == "pixelshuffledirect":
        return {"upsample": nn.Sequential(conv(dim, channels * scale**2), nn.PixelShuffle(scale))}
    before = {"conv_before_upsample": nn.Sequential(conv(dim, _FEATURES), nn.LeakyReLU(inplace=True))}
    if options.upsampler == "pixelshuffle":
        factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        steps = [
            step
            for factor in factors
            for step in (conv(_FEATURES, factor**2 * _FEATURES), nn.PixelShuffle(factor))
        ]
        return {**before, "upsample": nn.Sequential(*steps), "conv_last": conv(_FEATURES, channels)}
    doublings = {f"conv_up{i + 1}": conv(_FEATURES, _FEATURES) for i in range(scale.bit_length() - 1)}
    return {
        **before,
        **doublings,
        "conv_hr": conv(_FEATURES, _FEATURES),
        "conv_last": conv(_FEATURES, channels),
    }


def _none(net: Any, features: Tensor, x: Tensor) -> Tensor:
    residual: Tensor = net.conv_last(features)
    return x + residual


def _pixelshuffledirect(net: Any, features: Tensor, x: Tensor) -> Tensor:
    y: Tensor = net.upsample(features)
    return y


def _pixelshuffle(net: Any, features: Tensor, x: Tensor) -> Tensor:
    y: Tensor = net.conv_last(net.upsample(net.conv_before_upsample(features)))
    return y


def _nearest_conv(net: Any, features: Tensor, x: Tensor) -> Tensor:
    y: Tensor = net.conv_before_upsample(features)
    for name in ("conv_up1", "conv_up2"):
        if hasattr(net, name):
            enlarged = F.interpolate(y, scale_factor=2, mode="nearest")
            y = F.leaky_relu(getattr(net, name)(enlarged), 0.2, inplace=True)
    y = F.leaky_relu(net.conv_hr(y), 0.2, inplace=True)
    result: Tensor = net.conv_last(y)
    return result


HEADS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "": _none,
    "pixelshuffledirect": _pixelshuffledirect,
    "pixelshuffle": _pixelshuffle,
    "nearest+conv": _nearest_conv,
}
"""upsampler -> (network, features [B, C, H, W], normalised input) -> normalised output [B, in_chans, H*s, W*s]."""
