"""RRDBNet: Real-ESRGAN's names, spandrel's network, older names, any size, wrong arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from spandrel import ModelLoader
from torch import nn

from archs.examples import lively, on_meta, picture, save
from archs.test_key_files import key_file
from atelier.archs import NETWORKS, load_network
from atelier.archs.compiling import repeated_parts
from atelier.archs.info import count_parameters, describe
from atelier.archs.rrdbnet import RRDB, RRDBNet
from atelier.archs.rrdbnet_options import RRDBNetOptions
from atelier.errors import UserError
from atelier.restore.tiling import pad_to_multiple, restore_tensor

SMALL = {"num_feat": 8, "num_block": 2, "num_grow_ch": 4}


def small(**changes: Any) -> RRDBNet:
    net: RRDBNet = lively(RRDBNet(**{**SMALL, **changes})).eval()
    return net


def shapes_of(options: RRDBNetOptions) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in on_meta(options).state_dict().items()}


def old_names(state: dict[str, Any]) -> dict[str, Any]:
    """The names KAIR and BSRGAN write."""
    renamed = {}
    for key, value in state.items():
        for new, old in (
            ("conv_body", "trunk_conv"),
            ("body.", "RRDB_trunk."),
            (".rdb", ".RDB"),
            ("conv_up", "upconv"),
            ("conv_hr", "HRconv"),
        ):
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


def test_the_file_has_the_official_names_shapes_and_order() -> None:
    expected = key_file("rrdb_x4")
    assert list(shapes_of(RRDBNetOptions()).items()) == list(expected.items())
    assert RRDBNetOptions.from_shapes(expected) == RRDBNetOptions()


def test_names_as_real_esrgan_writes_them() -> None:
    keys = list(shapes_of(RRDBNetOptions(num_feat=8, num_block=1, num_grow_ch=4)))
    assert [key.removesuffix(".weight") for key in keys if key.endswith(".weight")] == [
        "conv_first",
        *(f"body.0.rdb{block}.conv{conv}" for block in (1, 2, 3) for conv in (1, 2, 3, 4, 5)),
        "conv_body",
        "conv_up1",
        "conv_up2",
        "conv_hr",
        "conv_last",
    ]


@pytest.mark.parametrize(
    ("scale", "blocks", "parameters"),
    [(4, 23, 16_697_987), (2, 23, 16_703_171), (1, 23, 16_723_907), (4, 6, 4_467_779)],
)
def test_published_counts(scale: Any, blocks: int, parameters: int) -> None:
    assert count_parameters(on_meta(RRDBNetOptions(scale=scale, num_block=blocks)))[0] == parameters


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("names", ["new", "old"])
def test_spandrel_agrees(scale: int, channels: int, names: str, tmp_path: Path) -> None:
    # spandrel knows a growth of 32 only.
    net = small(scale=scale, num_in_ch=channels, num_out_ch=channels, num_grow_ch=32)
    path = save(net, tmp_path / "net.pth")
    if names == "old":
        torch.save(old_names(net.state_dict()), path)
        assert torch.load(path, weights_only=True).keys() >= {"RRDB_trunk.1.RDB3.conv5.bias", "HRconv.weight"}
    descriptor = ModelLoader(device="cpu").load_from_file(path)
    theirs = descriptor.model.eval()
    assert (descriptor.architecture.id, descriptor.scale) == ("ESRGAN", scale)
    loaded = load_network(path)
    assert (loaded.facts.source, loaded.facts.scale, loaded.report.complete) == ("atelier", scale, True)
    x = picture(2, channels, 12, 16)
    with torch.no_grad():
        y = net(x)
        assert y.shape == (2, channels, 12 * scale, 16 * scale) and float(y.std()) > 0.02
        torch.testing.assert_close(y, theirs(x), rtol=0, atol=1e-5)
        assert torch.equal(loaded.net(x), y)


def test_gradients_equal_spandrels(tmp_path: Path) -> None:
    net = small(scale=2, num_grow_ch=32)
    theirs = ModelLoader(device="cpu").load_from_file(save(net, tmp_path / "net.pth")).model
    theirs.requires_grad_(True)
    x, weight = picture(1, 3, 8, 8), picture(1, 3, 16, 16, seed=5) - 0.5
    for each in (net, theirs):
        (each(x) * weight).sum().backward()
    found = [parameter.grad for parameter in net.parameters()]
    expected = [parameter.grad for parameter in theirs.parameters()]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 6), (9, 3)])
@pytest.mark.parametrize(("scale", "multiple"), [(1, 4), (2, 2), (4, 1)])
def test_other_sizes_are_mirrored_and_cropped(scale: int, multiple: int, size: tuple[int, int]) -> None:
    net = small(scale=scale)
    assert net.options.size_multiple == multiple
    x = picture(1, 3, *size)
    with torch.no_grad():
        y = net(x)
        assert y.shape == (1, 3, size[0] * scale, size[1] * scale)
        padded = pad_to_multiple(x, multiple)
        torch.testing.assert_close(y, net(padded)[..., : y.shape[2], : y.shape[3]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("scale", "radius"), [(4, 19), (2, 38), (1, 76)])
def test_the_receptive_radius_is_exact(scale: int, radius: int) -> None:
    net = small(scale=scale, num_feat=4, num_block=1, num_grow_ch=2).double()
    assert net.options.receptive_radius == radius
    reach = []
    # Every place inside a square of unshuffled pixels, along one axis.
    for place in range(4):
        centre = -(-radius // 4) * 4 + place
        x = picture(1, 3, 8, 2 * centre + 8).double().requires_grad_()
        net(x)[..., centre * scale : (centre + 1) * scale].sum().backward()
        assert x.grad is not None
        seen = (x.grad.abs().amax((0, 1, 2)) > 0).nonzero()
        reach.append(max(centre - int(seen.min()), int(seen.max()) - centre))
    assert max(reach) == radius


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_tiles_are_exact(scale: int) -> None:
    net = small(scale=scale, num_feat=4, num_block=1, num_grow_ch=2)
    x = picture(1, 3, 9, 200)
    radius = net.options.receptive_radius
    with torch.no_grad():
        whole = net(x)
    tiled = restore_tensor(
        net,
        x,
        scale=scale,
        tile=32,
        overlap=-(-radius // 4) * 4,
        size_multiple=net.options.size_multiple,
        receptive_radius=radius,
    )
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_dense_blocks_start_small() -> None:
    torch.manual_seed(0)
    net = RRDBNet(num_block=1)
    conv = net.body[0].rdb2.conv4
    assert float(conv.weight.detach().std()) == pytest.approx(0.1 * (2 / (160 * 9)) ** 0.5, rel=0.02)
    assert float(conv.bias.detach().abs().max()) == 0
    # Outside of them PyTorch's own start, as in Real-ESRGAN.
    assert float(net.conv_body.weight.detach().std()) == pytest.approx((1 / (3 * 64 * 9)) ** 0.5, rel=0.02)
    assert float(net.conv_body.bias.detach().abs().max()) > 0


def test_blocks_are_what_is_compiled() -> None:
    parts = repeated_parts(small())
    assert len(parts) == 2 and all(isinstance(part, RRDB) for part in parts)


def test_every_parameter_learns() -> None:
    net = small(scale=1)
    net(picture(1, 3, 8, 8)).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in net.parameters())


def test_info(tmp_path: Path) -> None:
    text = describe(save(small(scale=2), tmp_path / "net.pth"), size=(8, 8))
    assert "RRDBNet" in text and "x2" in text and "num_grow_ch: 4" in text and "spandrel" not in text


def test_bsrgans_single_doubling_goes_through_spandrel(tmp_path: Path) -> None:
    state = old_names(dict(small(num_grow_ch=32).state_dict()))
    for key in ("upconv2.weight", "upconv2.bias"):
        del state[key]
    torch.save(state, tmp_path / "net.pth")
    facts = load_network(tmp_path / "net.pth").facts
    assert (facts.source, facts.architecture, facts.scale) == ("spandrel", "ESRGAN", 2)


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 3),
    scale=st.sampled_from([1, 2, 4]),
    feat=st.integers(1, 9),
    blocks=st.integers(1, 3),
    grow=st.integers(1, 5),
    old=st.booleans(),
)
def test_options_from_shapes(channels: int, scale: Any, feat: int, blocks: int, grow: int, old: bool) -> None:
    options = RRDBNetOptions(
        num_in_ch=channels,
        num_out_ch=channels,
        scale=scale,
        num_feat=feat,
        num_block=blocks,
        num_grow_ch=grow,
    )
    shapes = old_names(shapes_of(options)) if old else shapes_of(options)
    assert [name for name in NETWORKS if NETWORKS.options_class(name).recognises(shapes)] == ["RRDBNet"]
    assert RRDBNetOptions.from_shapes(shapes) == options


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    state = dict(small().state_dict())
    del state["body.1.rdb2.conv3.weight"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net\.pth does not fit(?s:.*)body\.1\.rdb2\.conv3\.weight"):
        load_network(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"scale": 3}, "scale.*given 3"), ({"num_block": 0}, "num_block.*given 0")],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RRDBNet(**arguments)
    with pytest.raises(ValidationError):
        RRDBNetOptions(**arguments)


def test_an_option_file_gives_it_the_scale_of_the_run() -> None:
    from atelier.options.schema import RunOptions
    from support import small_run

    run = small_run(Path("experiments"))
    run["network_g"] = {"type": "RRDBNet", **SMALL}
    assert isinstance(RunOptions.model_validate(run).network_g, RRDBNetOptions)
    assert RunOptions.model_validate(run).network_g.scale == run["scale"] == 2
    assert isinstance(RRDBNetOptions(scale=2).build(), nn.Module)
