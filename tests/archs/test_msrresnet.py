"""MSRResNet1: KAIR's names, a formula written from the paper, recognition, wrong arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

import atelier
from archs.examples import lively, on_meta, picture, save
from atelier.archs import NETWORKS, load_network
from atelier.archs.info import count_parameters, describe
from atelier.archs.msrresnet import MSRResNet1
from atelier.archs.msrresnet_options import MSRResNet1Options
from atelier.errors import UserError


def shapes_of(options: MSRResNet1Options) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in on_meta(options).state_dict().items()}


def test_names_as_kair_writes_them() -> None:
    assert list(shapes_of(MSRResNet1Options(nc=4, nb=2)).items()) == [
        ("conv_first.weight", (4, 3, 3, 3)),
        ("conv_first.bias", (4,)),
        *(
            (f"recon_trunk.{block}.conv{conv}.{kind}", shape)
            for block in (0, 1)
            for conv in (1, 2)
            for kind, shape in (("weight", (4, 4, 3, 3)), ("bias", (4,)))
        ),
        ("upconv1.weight", (16, 4, 3, 3)),
        ("upconv1.bias", (16,)),
        ("upconv2.weight", (16, 4, 3, 3)),
        ("upconv2.bias", (16,)),
        ("HRconv.weight", (4, 4, 3, 3)),
        ("HRconv.bias", (4,)),
        ("conv_last.weight", (3, 4, 3, 3)),
        ("conv_last.bias", (3,)),
    ]
    assert shapes_of(MSRResNet1Options(nc=4, nb=1, upscale=3))["upconv1.weight"] == (36, 4, 3, 3)
    assert "upconv2.weight" not in shapes_of(MSRResNet1Options(nc=4, nb=1, upscale=2))


def test_count() -> None:
    assert count_parameters(on_meta(MSRResNet1Options()))[0] == 1_517_571


def by_hand(state: dict[str, Tensor], x: Tensor, scale: int) -> Tensor:
    """The network as a formula over its weights."""

    def conv(name: str, y: Tensor) -> Tensor:
        return F.conv2d(y, state[name + ".weight"], state[name + ".bias"], padding=1)

    def leaky(y: Tensor) -> Tensor:
        return torch.where(y < 0, 0.1 * y, y)

    def shuffle(y: Tensor, factor: int) -> Tensor:
        count, channels, height, width = y.shape
        cells = y.reshape(count, channels // factor**2, factor, factor, height, width)
        return cells.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, height * factor, width * factor)

    y = leaky(conv("conv_first", x))
    for block in range(3):
        y = y + conv(f"recon_trunk.{block}.conv2", conv(f"recon_trunk.{block}.conv1", y).clamp_min(0))
    for name, factor in {2: [("upconv1", 2)], 3: [("upconv1", 3)], 4: [("upconv1", 2), ("upconv2", 2)]}[
        scale
    ]:
        y = leaky(shuffle(conv(name, y), factor))
    skip = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    return conv("conv_last", leaky(conv("HRconv", y))) + skip


@pytest.mark.parametrize("channels", [(3, 3), (1, 1), (1, 3)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_formula(scale: int, channels: tuple[int, int]) -> None:
    net = lively(MSRResNet1(*channels, 6, 3, scale)).double()
    x = picture(2, channels[0], 5, 7).double()
    with torch.no_grad():
        y = net(x)
        assert y.shape == (2, channels[1], 5 * scale, 7 * scale)
        torch.testing.assert_close(y, by_hand(net.state_dict(), x, scale), rtol=0, atol=1e-12)


def test_it_starts_near_the_enlarged_input() -> None:
    torch.manual_seed(0)
    net = MSRResNet1(nc=16, nb=2)
    weights = net.recon_trunk[0].conv1.weight.detach()
    assert float(weights.std()) == pytest.approx(0.1 * (2 / (16 * 9)) ** 0.5, rel=0.05)
    assert all(not value.detach().any() for name, value in net.named_parameters() if "bias" in name)
    x = picture(1, 3, 8, 8)
    with torch.no_grad():
        skip = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
        torch.testing.assert_close(net(x), skip, rtol=0, atol=1e-2)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_receptive_radius_is_exact(scale: int) -> None:
    net = lively(MSRResNet1(3, 3, 6, 2, scale)).double()
    radius = net.options.receptive_radius
    assert radius == 7
    # A ReLU may close a path for one picture; together these leave none.
    x = picture(8, 3, 19, 19).double().requires_grad_()
    net(x)[..., 9 * scale : 10 * scale, 9 * scale : 10 * scale].sum().backward()
    assert x.grad is not None
    seen = (x.grad.abs().amax((0, 1)) > 0).nonzero()
    assert (int(seen.min()), int(seen.max())) == (9 - radius, 9 + radius)


def test_a_file_comes_back_and_restores(tmp_path: Path) -> None:
    net = lively(MSRResNet1(nc=6, nb=2, upscale=3)).eval()
    torch.save({"params": net.state_dict()}, tmp_path / "kair.pth")
    model = atelier.load_model(tmp_path / "kair.pth", device="cpu")
    assert (model.architecture, model.scale) == ("MSRResNet1", 3)
    x = picture(1, 3, 30, 41)
    with torch.no_grad():
        expected = net(x)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    restored = model.restore(x[0].permute(1, 2, 0).contiguous().numpy(), tile=16)
    assert abs(restored - expected).max() <= 1e-5
    text = describe(save(net, tmp_path / "ours.pth"), size=(8, 8))
    assert "MSRResNet1" in text and "upscale: 3" in text


@settings(max_examples=30, deadline=None)
@given(
    channels=st.sampled_from([(1, 1), (3, 3), (1, 3)]),
    nc=st.integers(1, 9),
    nb=st.integers(1, 12),
    scale=st.sampled_from([2, 3, 4]),
)
def test_options_from_shapes(channels: tuple[int, int], nc: int, nb: int, scale: Any) -> None:
    options = MSRResNet1Options(in_nc=channels[0], out_nc=channels[1], nc=nc, nb=nb, upscale=scale)
    shapes = shapes_of(options)
    assert [name for name in NETWORKS if NETWORKS.options_class(name).recognises(shapes)] == ["MSRResNet1"]
    assert MSRResNet1Options.from_shapes(shapes) == options


def test_a_misshapen_file_is_named(tmp_path: Path) -> None:
    state = dict(MSRResNet1(nc=4, nb=1, upscale=2).state_dict())
    state["upconv1.weight"] = torch.zeros(20, 4, 3, 3)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"looks like MSRResNet1, but upconv1 has 20 rows, expected 16"):
        load_network(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 1}, "upscale.*given 1"),
        ({"out_nc": 1}, "in_nc 3 and out_nc 1"),
        ({"nb": 0}, "nb.*given 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MSRResNet1(**arguments)
    with pytest.raises(ValidationError):
        MSRResNet1Options(**arguments)
