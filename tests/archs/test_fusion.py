from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from archs.golden import shapes_of
from atelier.archs.fusion import (
    ConfidenceAverage,
    SimpleFusionNet,
    UNetFusionNet,
    average_colours,
    flow_weight,
)
from atelier.archs.fusion_options import FUSIONS, fusion_from_shapes
from atelier.archs.fusion_vidnet import FusionNetV1
from atelier.errors import UserError


def proposals(batch: int = 2, height: int = 16, width: int = 24, seed: int = 0) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)

    def uniform(channels: int, low: float) -> Tensor:
        return low + (1 - low) * torch.rand(batch, channels, height, width, generator=draw)

    return uniform(2, -1), uniform(2, -1), uniform(1, 0), uniform(1, -1), uniform(1, -1)


def lively(net: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return net


@pytest.fixture(scope="module")
def vidnet() -> FusionNetV1:
    torch.manual_seed(0)
    return FusionNetV1()


def test_parameter_counts(vidnet: FusionNetV1) -> None:
    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert count(ConfidenceAverage()) == 0
    assert count(SimpleFusionNet()) == 16_114
    assert [count(UNetFusionNet(width)) for width in (16, 32, 64)] == [59_156, 233_508, 927_812]
    assert count(vidnet) == 32_802_683
    assert list(SimpleFusionNet().state_dict())[:2] == ["net.0.weight", "net.0.bias"]
    assert {key.split(".")[1] for key in SimpleFusionNet().state_dict()} == {
        "0",
        "1",
        "3",
        "4",
        "6",
        "7",
        "9",
    }


def test_the_average_is_its_formula() -> None:
    flow, exemplar, c, s, lightness = proposals()
    s_plus = s.clamp(min=0)
    weight = (c + 1e-3) / (c + s_plus + 2e-3)
    expected = weight * flow + (1 - weight) * exemplar
    torch.testing.assert_close(average_colours(flow, exemplar, c, s), expected)
    torch.testing.assert_close(ConfidenceAverage()(flow, exemplar, c, s, lightness), expected)
    zero = torch.zeros(1, 1, 1, 1)
    assert float(flow_weight(zero, zero)) == 0.5
    assert float(flow_weight(zero, zero + 1)) < 1e-2 < 1 - 1e-2 < float(flow_weight(zero + 1, zero - 1))


@pytest.mark.parametrize("kind", ["simple", "unet", "vidnet"])
def test_untrained_is_the_average_and_trained_is_not(kind: str, vidnet: FusionNetV1) -> None:
    net = vidnet if kind == "vidnet" else FUSIONS.options_class(kind)().build()
    given = proposals()
    average = ConfidenceAverage()(*given)
    for training in (True, False):
        torch.testing.assert_close(net.train(training)(*given), average, atol=1e-6, rtol=0)
    changed = lively(copy.deepcopy(net))
    assert (changed(*given) - average).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", ["simple", "vidnet"])
def test_the_residual_may_stand_on_the_flow(kind: str) -> None:
    net = FUSIONS.options_class(kind).model_validate({"base": "flow"}).build()
    given = proposals()
    torch.testing.assert_close(net(*given), given[0], atol=1e-6, rtol=0)


def test_every_parameter_learns_once_the_last_layer_has_moved() -> None:
    for net in (SimpleFusionNet(), UNetFusionNet(8)):
        lively(net)
        target = torch.zeros(2, 2, 16, 24)
        (net(*proposals()) - target).square().sum().backward()
        # A bias before a batch normalisation changes nothing, hence has no gradient to speak of.
        before_bn = {"net.0.bias", "net.3.bias", "net.6.bias"} if isinstance(net, SimpleFusionNet) else set()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert name in before_bn or parameter.grad.abs().max() > 1e-6, name


def test_colours_stay_within_the_range_whatever_the_weights(vidnet: FusionNetV1) -> None:
    flow, exemplar, c, s, lightness = proposals()
    extreme = (flow.sign(), exemplar.sign(), c, s, lightness)
    net = lively(SimpleFusionNet("flow")).eval()
    assert net(*extreme).abs().max() == 1
    assert (extreme[0] + torch.tanh(net.net(torch.cat(extreme, 1)))).abs().max() > 1.5  # type: ignore[operator]
    assert lively(UNetFusionNet(8))(*extreme).abs().max() <= 1


@pytest.mark.parametrize("kind", ["average", "simple", "unet"])
def test_a_batch_is_its_clips(kind: str) -> None:
    net = lively(FUSIONS.options_class(kind)().build()).eval()
    given = proposals()
    both = net(*given)
    for item in range(2):
        alone = net(*(plane[item : item + 1] for plane in given))
        torch.testing.assert_close(both[item : item + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["average", "simple", "unet"])
def test_mixed_precision_is_close_and_gives_float32(kind: str) -> None:
    torch.manual_seed(2)
    net = FUSIONS.options_class(kind)().build().eval()
    if kind != "average":
        last = net.net[-1] if kind == "simple" else net.out  # type: ignore[index]
        nn.init.normal_(last.weight, std=0.2)
    given = proposals()
    plain = net(*given)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            mixed = net(*given)
        assert mixed.dtype == torch.float32
        assert (mixed - plain).abs().max() < 2e-2


def test_sizes_that_cannot_be_halved_are_named(vidnet: FusionNetV1) -> None:
    with pytest.raises(UserError, match="'unet' needs sides that are multiples of 4, given 22x16"):
        UNetFusionNet(8)(*proposals(1, 16, 22))
    with pytest.raises(UserError, match="multiples of 8"):
        vidnet(*proposals(1, 16, 20))
    assert SimpleFusionNet()(*proposals(1, 7, 9)).shape == (1, 2, 7, 9)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="width"):
        UNetFusionNet(10)
    with pytest.raises(UserError, match="base"):
        SimpleFusionNet("exemplar")  # type: ignore[arg-type]


def test_weights_are_recognised_by_their_names() -> None:
    simple = {key: tuple(value.shape) for key, value in SimpleFusionNet().state_dict().items()}
    assert fusion_from_shapes(simple, foreign=True).model_dump() == {"type": "simple", "base": "flow"}
    assert fusion_from_shapes(simple).model_dump() == {"type": "simple", "base": "average"}
    unet = {key: tuple(value.shape) for key, value in UNetFusionNet(32).state_dict().items()}
    assert fusion_from_shapes(unet).model_dump() == {"type": "unet", "width": 32}
    vidnet = {"conv1_1.0.weight": (32, 8, 3, 3)}
    assert fusion_from_shapes(vidnet, foreign=True).model_dump() == {"type": "vidnet", "base": "flow"}
    with pytest.raises(UserError, match="decoder was drawn anew"):
        fusion_from_shapes({"enc1.0.weight": (64, 8, 3, 3)})
    for other in ({}, {"conv1_1.0.weight": (32, 7, 3, 3)}, {"net.0.weight": (8, 3, 3, 3)}):
        with pytest.raises(UserError, match="no weights of a fusion network"):
            fusion_from_shapes(other)


def test_vidnet_has_the_official_names_with_one_plane_more(vidnet: FusionNetV1) -> None:
    official = shapes_of("swintexco_colornet")
    official["conv1_1.0.weight"] = (32, 8, 3, 3)
    assert {key: tuple(value.shape) for key, value in vidnet.state_dict().items()} == official
