"""Spandrel's networks as the oracle: same weights, same pictures, same gradients, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from spandrel import ModelLoader, UnsupportedModelError
from spandrel.architectures.Compact import Compact
from spandrel.architectures.SwinIR import SwinIR as SpandrelSwinIR
from torch import Tensor, nn

from archs.examples import OFFICIAL, lively, picture, save, small_options, small_swinir
from atelier.archs import SRVGGNetCompact, SwinIR, load_network, load_state, read_weights
from atelier.archs.swinir_options import SwinIROptions
from support import SHARED

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # inside spandrel

SIZES = [(64, 64), (65, 50), (17, 23)]

CASES: dict[str, dict[str, Any]] = {
    "denoise colour": {},
    "denoise gray 3conv": {"in_chans": 1, "resi_connection": "3conv"},
    "jpeg gray": {"in_chans": 1, "window_size": 7, "img_size": 14, "img_range": 255.0},
    "jpeg colour 3conv": {
        "window_size": 7,
        "img_size": 21,
        "img_range": 255.0,
        "resi_connection": "3conv",
    },
    "direct x2": {"upsampler": "pixelshuffledirect", "upscale": 2},
    "direct x3 gray": {"upsampler": "pixelshuffledirect", "upscale": 3, "in_chans": 1},
    "direct x4 3conv": {"upsampler": "pixelshuffledirect", "upscale": 4, "resi_connection": "3conv"},
    "pixelshuffle x2 gray": {"upsampler": "pixelshuffle", "upscale": 2, "in_chans": 1},
    "pixelshuffle x3": {
        "upsampler": "pixelshuffle",
        "upscale": 3,
        "window_size": 7,
        "img_size": 14,
        "img_range": 255.0,
    },
    "pixelshuffle x4 3conv": {"upsampler": "pixelshuffle", "upscale": 4, "resi_connection": "3conv"},
    "pixelshuffle x8": {"upsampler": "pixelshuffle", "upscale": 8},
    "nearest+conv x2 3conv": {"upsampler": "nearest+conv", "upscale": 2, "resi_connection": "3conv"},
    "nearest+conv x4 gray": {"upsampler": "nearest+conv", "upscale": 4, "in_chans": 1},
    "deep, even window": {"depths": (3, 1), "window_size": 4, "img_size": 8},
    "one head": {"num_heads": (1, 12), "mlp_ratio": 1.3},
}


def spandrel_net(path: Path) -> nn.Module:
    """What spandrel makes of a file; it comes back in training mode, where drop path would change the result."""
    model: nn.Module = ModelLoader(device="cpu").load_from_file(path).model
    return model.eval()


def largest_difference(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        ours, theirs = a(x), b(x)
    assert ours.shape == theirs.shape
    assert float(theirs.std()) > 0.02
    return float((ours - theirs).abs().max())


def sizes_of(case: dict[str, Any]) -> list[tuple[int, int]]:
    """Large outputs cost seconds and show nothing that the small ones hide."""
    return SIZES if case.get("upscale", 1) <= 3 else SIZES[2:]


@pytest.mark.parametrize("name", CASES)
def test_our_file_in_spandrel(name: str, tmp_path: Path) -> None:
    net = small_swinir(**CASES[name])
    theirs = spandrel_net(save(net, tmp_path / "net.pth"))
    assert theirs.img_range == net.options.img_range
    channels = net.options.in_chans
    for height, width in sizes_of(CASES[name]):
        assert largest_difference(net, theirs, picture(1, channels, height, width)) <= 1e-5
    # In double precision nothing but a different formula is left.
    assert largest_difference(net.double(), theirs.double(), picture(2, channels, 9, 23).double()) <= 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.get("upscale", 1) > 3])
def test_our_file_in_spandrel_large_outputs(name: str, tmp_path: Path) -> None:
    net = small_swinir(**CASES[name])
    theirs = spandrel_net(save(net, tmp_path / "net.pth"))
    for height, width in SIZES[:2]:
        assert largest_difference(net, theirs, picture(1, net.options.in_chans, height, width)) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_spandrels_state_in_ours(name: str, tmp_path: Path) -> None:
    options = small_options(**CASES[name])
    theirs = lively(SpandrelSwinIR(**options), seed=3).eval()
    path = tmp_path / "net.pth"
    torch.save({"params": theirs.state_dict()}, path)
    loaded = load_network(path)
    assert isinstance(loaded.net, SwinIR)
    # ``img_range`` leaves no trace in a file: the field's rule says 255 for windows of 7 without an upsampler only.
    if options["window_size"] == 7 and options.get("upsampler"):
        assert loaded.net.img_range == 1
        theirs.img_range = 1.0
    assert largest_difference(loaded.net, theirs, picture(2, options.get("in_chans", 3), 20, 17)) <= 1e-5


def test_masks_of_the_smallest_size_change_nothing(tmp_path: Path) -> None:
    net = small_swinir(img_size=64)
    x = picture(1, 3, 40, 33)
    full = spandrel_net(save(net, tmp_path / "full.pth"))
    for name in ("minimal.pth", "minimal.safetensors"):
        minimal = spandrel_net(save(net, tmp_path / name, minimal_masks=True))
        mask = minimal.state_dict()["layers.0.residual_group.blocks.1.attn_mask"]
        assert mask.shape == (4, 64, 64)
        with torch.no_grad():
            assert torch.equal(minimal(x), full(x))


def test_spandrel_refuses_a_file_without_masks(tmp_path: Path) -> None:
    """Why the constants are written at all."""
    path = tmp_path / "bare.pth"
    torch.save(small_swinir().state_dict(), path)
    with pytest.raises(UnsupportedModelError):
        ModelLoader(device="cpu").load_from_file(path)
    assert isinstance(load_network(path).net, SwinIR)


def gradients(net: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    (net(x) * weight).sum().backward()
    return {name: each.grad.clone() for name, each in net.named_parameters() if each.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", ["denoise colour", "jpeg gray", "pixelshuffle x2 gray", "direct x4 3conv"])
def test_gradients_in_training(name: str, dtype: torch.dtype, tolerance: float) -> None:
    options = small_options(**CASES[name])
    theirs = lively(SpandrelSwinIR(**options)).to(dtype).train()
    ours = SwinIROptions(**options).build().to(dtype).train()
    ours.load_state_dict(ours.options.network_state(theirs.state_dict())[0])
    x = picture(2, ours.options.in_chans, 19, 16).to(dtype).requires_grad_()
    x_theirs = x.detach().clone().requires_grad_()
    with torch.no_grad():
        y = theirs(x)
    weight = picture(*y.shape, seed=9).to(dtype) - 0.5
    found, expected = gradients(ours, x, weight), gradients(theirs, x_theirs, weight)
    assert list(found) == list(expected) == [name for name, _ in ours.named_parameters()]
    for key in expected:
        if key.endswith("qkv.bias"):
            # The bias of k moves all logits of a row alike: its gradient is zero but for rounding.
            assert float((found[key] - expected[key]).norm()) <= tolerance * float(expected[key].norm()), key
            continue
        error = (found[key] - expected[key]).norm() / expected[key].norm()
        assert float(error) <= tolerance, key
    assert x.grad is not None and x_theirs.grad is not None
    assert float((x.grad - x_theirs.grad).norm() / x_theirs.grad.norm()) <= tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swinir_lightweight_x4", "swinir_gray_dn"])
def test_a_full_size_network(name: str, tmp_path: Path) -> None:
    net = SwinIROptions(**OFFICIAL[name].options).build().eval()
    theirs = spandrel_net(save(net, tmp_path / "net.pth"))
    with torch.no_grad():
        x = picture(1, net.options.in_chans, 65, 50)
        assert float((net(x) - theirs(x)).abs().max()) <= 1e-5


@pytest.mark.parametrize("act_type", ["prelu", "relu", "leakyrelu"])
@pytest.mark.parametrize(("channels", "scale"), [(3, 1), (3, 2), (1, 3), (3, 4)])
def test_compact(act_type: str, channels: int, scale: int) -> None:
    ours = lively(SRVGGNetCompact(channels, channels, 12, 3, scale, act_type)).eval()
    theirs = Compact(
        num_in_ch=channels,
        num_out_ch=channels,
        num_feat=12,
        num_conv=3,
        upscale=scale,
        act_type=act_type,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    for size in SIZES:
        assert largest_difference(ours, theirs, picture(2, channels, *size)) <= 1e-6


def test_compact_file_in_spandrel_and_back(tmp_path: Path) -> None:
    ours = lively(SRVGGNetCompact(num_feat=12, num_conv=3, upscale=2)).eval()
    for name in ("net.pth", "net.safetensors"):
        path = save(ours, tmp_path / name)
        x = picture(1, 3, 17, 23)
        assert largest_difference(load_network(path).net, spandrel_net(path), x) <= 1e-6


def test_compact_gradients() -> None:
    ours = lively(SRVGGNetCompact(num_feat=12, num_conv=3, upscale=2))
    theirs = Compact(num_feat=12, num_conv=3, upscale=2)
    theirs.load_state_dict(ours.state_dict())
    x, weight = picture(2, 3, 16, 12), picture(2, 3, 32, 24, seed=5) - 0.5
    found, expected = gradients(ours, x, weight), gradients(theirs, x, weight)
    assert list(found) == list(expected)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)


def test_the_published_animation_network(tmp_path: Path) -> None:
    path = SHARED / "weights" / "realesr-animevideox2v3.pth"
    if not path.is_file():
        pytest.skip("the published weights are not in the shared folder")
    loaded = load_network(path)
    assert (loaded.facts.architecture, loaded.facts.scale) == ("SRVGGNetCompact", 2)
    assert (loaded.report.param_key, len(loaded.report.loaded)) == ("params", 53)
    theirs = spandrel_net(path)
    for size in SIZES:
        assert largest_difference(loaded.net, theirs, picture(1, 3, *size)) <= 1e-6
    again = save(loaded.net, tmp_path / "again.pth")
    assert load_state(SRVGGNetCompact(upscale=2), read_weights(again)).complete
