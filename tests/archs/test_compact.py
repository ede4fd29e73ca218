"""SRVGGNetCompact: the skip, the activations, the receptive field, wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from archs.examples import lively, picture
from atelier.archs import SRVGGNetCompact
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.errors import UserError


@pytest.mark.parametrize(("channels", "scale"), [(3, 1), (1, 2), (3, 3)])
def test_without_a_residual_it_enlarges_by_repetition(channels: int, scale: int) -> None:
    net = SRVGGNetCompact(channels, channels, 4, 1, scale)
    torch.nn.init.zeros_(net.body[-1].weight)
    torch.nn.init.zeros_(net.body[-1].bias)
    x = picture(2, channels, 5, 3)
    with torch.no_grad():
        assert torch.equal(net(x), x.repeat_interleave(scale, 2).repeat_interleave(scale, 3))


def test_a_gray_picture_may_become_a_coloured_one() -> None:
    net = SRVGGNetCompact(1, 3, 4, 1, 2)
    assert net(picture(1, 1, 5, 3)).shape == (1, 3, 10, 6)


@pytest.mark.parametrize(
    ("act_type", "activation"),
    [("prelu", 0.25), ("relu", 0.0), ("leakyrelu", 0.1)],
)
def test_slopes(act_type: str, activation: float) -> None:
    """One slope a channel, 0.25 at first; 0.1 for leakyrelu."""
    net = SRVGGNetCompact(3, 3, 6, 0, 1, act_type)
    x = picture(1, 3, 7, 7)
    with torch.no_grad():
        first = F.conv2d(x, net.body[0].weight, net.body[0].bias, padding=1)
        active = torch.where(first < 0, activation * first, first)
        last = F.conv2d(active, net.body[2].weight, net.body[2].bias, padding=1)
        torch.testing.assert_close(net(x), last + x, rtol=0, atol=1e-6)
    assert [tuple(each.shape) for name, each in net.named_parameters() if "body.1." in name] == (
        [(6,)] if act_type == "prelu" else []
    )


def test_the_receptive_radius_is_exact() -> None:
    net = lively(SRVGGNetCompact(num_feat=6, num_conv=2, upscale=2)).double()
    radius = net.options.receptive_radius
    x = picture(1, 3, 15, 15).double().requires_grad_()
    net(x)[..., 14:16, 14:16].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().amax((0, 1)) > 0
    assert seen.nonzero().amin(0).tolist() == [7 - radius] * 2
    assert seen.nonzero().amax(0).tolist() == [7 + radius] * 2


def test_the_output_is_not_clamped() -> None:
    net = lively(SRVGGNetCompact(num_feat=6, num_conv=1, upscale=2))
    with torch.no_grad():
        y = net(20 * picture(1, 3, 9, 9) - 10)
    assert float(y.min()) < 0 and float(y.max()) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_in_ch": 3, "num_out_ch": 1}, "num_in_ch 3 and num_out_ch 1"),
        ({"act_type": "gelu"}, "act_type.*prelu.*given 'gelu'"),
        ({"num_conv": -1}, "num_conv.*given -1"),
        ({"upscale": 0}, "upscale.*given 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SRVGGNetCompact(**arguments)
    with pytest.raises(ValidationError):
        SRVGGNetCompactOptions(**arguments)
