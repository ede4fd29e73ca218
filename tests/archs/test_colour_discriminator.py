"""ColourDiscriminatorSN: its size, its function written down with torch's own layers, its bad input."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archs.examples import on_meta, picture
from atelier.archs.colour_discriminator import ColourDiscriminatorSN
from atelier.archs.colour_discriminator_options import ColourDiscriminatorSNOptions
from atelier.archs.registry import DISCRIMINATORS
from atelier.archs.spectral_norm import SpectralConv2d
from atelier.errors import UserError


def test_the_number_of_parameters() -> None:
    net = on_meta(ColourDiscriminatorSNOptions())
    assert sum(weight.numel() for weight in net.parameters()) == 11_233_474
    options = DISCRIMINATORS.options_class("ColourDiscriminatorSN")()
    assert isinstance(options, ColourDiscriminatorSNOptions) and options.in_channels == 3


def plain(layer: nn.Module) -> nn.Conv2d:
    """The same convolution as torch's, divided by its true largest singular value's estimate."""
    assert isinstance(layer, SpectralConv2d)
    out, taken, kernel, _ = layer.weight_orig.shape
    conv = nn.Conv2d(taken, out, kernel, layer.stride, layer.padding)
    sigma = layer.weight_u @ layer.weight_orig.detach().flatten(1) @ layer.weight_v
    conv.weight.data = layer.weight_orig.detach() / sigma
    assert layer.bias is not None
    conv.bias = layer.bias
    return conv


def test_it_computes_the_chain() -> None:
    torch.manual_seed(0)
    net = ColourDiscriminatorSN(num_feat=4).eval()
    net.attention.gamma.data.fill_(0.7)
    x = picture(2, 3, 128, 160)
    y = x
    for level, layer in enumerate(net.halvings):
        y = plain(layer)(y)
        if level > 0:
            y = nn.InstanceNorm2d(y.shape[1])(y)
        y = nn.LeakyReLU(0.2)(y)
        if level == 1:
            assert y.shape[-2:] == (32, 40)
            q, k, v = (
                plain(part)(y).flatten(2)
                for part in (net.attention.query, net.attention.key, net.attention.value)
            )
            found = v @ (q.transpose(1, 2) @ k).softmax(dim=-1).transpose(1, 2)
            y = y + 0.7 * found.reshape(y.shape)
    y = F.conv2d(y, plain(net.last).weight, net.last.bias, padding=1).mean(dim=(2, 3))
    assert y.shape == (2, 1)
    torch.testing.assert_close(net(x), y, rtol=1e-4, atol=1e-5)


def test_every_picture_is_judged_by_itself_and_every_weight_learns() -> None:
    torch.manual_seed(0)
    net = ColourDiscriminatorSN(num_feat=4).eval()
    net.attention.gamma.data.fill_(0.7)
    x = picture(3, 3, 128, 128)
    torch.testing.assert_close(net(x), torch.cat([net(x[k : k + 1]) for k in range(3)]), rtol=1e-4, atol=1e-6)
    net(x).square().sum().backward()
    # A bias before instance normalisation changes nothing, so its gradient is rounding.
    silent = {f"halvings.{level}.bias" for level in range(1, 6)} | {"attention.key.bias"}
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        if name not in silent:
            assert weight.grad.any(), name


def test_small_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="at least 128 pixels a side, given 96×128"):
        ColourDiscriminatorSN(num_feat=2)(picture(1, 3, 128, 96))
    with pytest.raises(ValueError, match="64 is too small for ColourDiscriminatorSN"):
        ColourDiscriminatorSNOptions().check_size(64)
    ColourDiscriminatorSNOptions().check_size(128)
