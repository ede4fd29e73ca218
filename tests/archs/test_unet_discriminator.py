"""UNetDiscriminatorSN: the official file's tensors, spectral normalisation against torch's, sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from archs.examples import on_meta, picture
from atelier.archs.load import load_network, load_state
from atelier.archs.registry import DISCRIMINATORS
from atelier.archs.spectral_norm import SpectralConv2d
from atelier.archs.unet_discriminator import UNetDiscriminatorSN
from atelier.archs.unet_discriminator_options import UNetDiscriminatorSNOptions
from atelier.archs.weights import read_weights, save_weights
from atelier.errors import UserError
from support import SHARED


def small(seed: int = 0, **keys: Any) -> UNetDiscriminatorSN:
    torch.manual_seed(seed)
    return UNetDiscriminatorSN(num_feat=8, **keys)


class Reference(nn.Module):
    """The network written down once more with torch's own (legacy) spectral normalisation."""

    def __init__(self, feat: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        sides = [(feat, 2 * feat), (2 * feat, 4 * feat), (4 * feat, 8 * feat), (8 * feat, 4 * feat)]
        sides += [(4 * feat, 2 * feat), (2 * feat, feat), (feat, feat), (feat, feat)]
        self.conv0 = nn.Conv2d(3, feat, 3, 1, 1)
        for place, (taken, given) in enumerate(sides, start=1):
            kernel, stride = (4, 2) if place <= 3 else (3, 1)
            conv = nn.Conv2d(taken, given, kernel, stride, 1, bias=False)
            setattr(self, f"conv{place}", nn.utils.spectral_norm(conv))
        self.conv9 = nn.Conv2d(feat, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def act(y: torch.Tensor) -> torch.Tensor:
            return torch.where(y > 0, y, 0.2 * y)

        def up(y: torch.Tensor) -> torch.Tensor:
            return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)(y)

        x0 = act(self.conv0(x))
        x1 = act(self.conv1(x0))
        x2 = act(self.conv2(x1))
        x3 = act(self.conv3(x2))
        x4 = act(self.conv4(up(x3))) + (x2 if self.skip else 0)
        x5 = act(self.conv5(up(x4))) + (x1 if self.skip else 0)
        x6 = act(self.conv6(up(x5))) + (x0 if self.skip else 0)
        return self.conv9(act(self.conv8(act(self.conv7(x6)))))


def test_names_shapes_order_and_counts_are_the_official_ones() -> None:
    net = on_meta(UNetDiscriminatorSNOptions())
    state = net.state_dict()
    assert sum(each.numel() for each in net.parameters()) == 4_376_897
    assert sum(each.numel() for each in state.values()) == 4_394_753
    assert len(state) == 28
    assert list(state)[:6] == [
        "conv0.weight",
        "conv0.bias",
        "conv1.weight_orig",
        "conv1.weight_u",
        "conv1.weight_v",
        "conv2.weight_orig",
    ]
    path = SHARED / "spec" / "keys" / "unet_discriminator_sn.json"
    if not path.is_file():
        pytest.skip("the key list unet_discriminator_sn.json is not in the shared folder")
    assert [(key, list(value.shape)) for key, value in state.items()] == list(
        json.loads(path.read_text()).items()
    )


@pytest.mark.parametrize("skip", [True, False])
def test_it_equals_torchs_spectral_norm_over_passes(skip: bool) -> None:
    """Outputs, gradients and the moving vectors, through three training passes and one in evaluation mode."""
    ours, reference = small(skip_connection=skip), Reference(8, skip)
    assert ours.state_dict().keys() == reference.state_dict().keys()
    reference.load_state_dict(ours.state_dict())
    for seed in range(3):
        x = picture(2, 3, 16, 24, seed=seed)
        results = [net(x) for net in (ours, reference)]
        assert results[0].shape == (2, 1, 16, 24)
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
        for net, result in zip((ours, reference), results, strict=True):
            net.zero_grad()
            F.softplus(result).mean().backward()
        named = dict(reference.named_parameters())
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter.grad, named[name].grad, rtol=1e-5, atol=1e-6)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    ours.eval(), reference.eval()
    torch.testing.assert_close(ours(x), reference(x), rtol=1e-6, atol=1e-6)


def vectors(net: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in net.buffers()]


def test_vectors_move_in_training_mode_only_and_take_no_gradient() -> None:
    net = small()
    before = vectors(net)
    net.eval()(picture(1, 3, 8, 8))
    assert all(map(torch.equal, before, vectors(net)))
    net.train()
    with torch.no_grad():
        net(picture(1, 3, 8, 8))
    assert not any(map(torch.equal, before, vectors(net)))
    assert not any(name.endswith(("_u", "_v")) for name, _ in net.named_parameters())


def test_the_norm_converges_to_one() -> None:
    torch.manual_seed(1)
    conv = SpectralConv2d(6, 5, 3)
    for _ in range(200):
        weight = conv.normalised_weight()
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-5)


def test_a_second_pass_leaves_the_gradient_of_the_first_alone() -> None:
    """The graph of a pass must keep its own vectors when a later pass moves the buffers."""
    x = picture(1, 3, 8, 8)
    alone, moved = small(), small()
    alone(x).sum().backward()
    result = moved(x).sum()
    moved(picture(1, 3, 8, 8, seed=5))
    result.backward()
    for one, two in zip(alone.parameters(), moved.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_half_precision_passes_move_the_vectors_in_full_precision() -> None:
    half, full = small(), small()
    with torch.autocast("cpu", torch.bfloat16):
        half(picture(1, 3, 8, 8))
    full(picture(1, 3, 8, 8))
    assert all(map(torch.equal, vectors(half), vectors(full)))


def test_its_file_loads_again_and_is_no_generator(tmp_path) -> None:
    net = small()
    path = tmp_path / "net_d_8.pth"
    save_weights(
        path, {"params": net.state_dict()}, {"arch": "UNetDiscriminatorSN", "options": {"num_feat": 8}}
    )
    stored = torch.load(path, weights_only=True)["params"]
    assert list(stored) == list(net.state_dict())
    other = small(seed=1)
    load_state(other, read_weights(path))
    for key, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    with pytest.raises(UserError, match="does not fit the network"):
        load_state(UNetDiscriminatorSN(num_feat=4), read_weights(path))
    with pytest.raises(UserError, match=r"holds a discriminator .* makes no pictures"):
        load_network(path)


def test_sizes_and_options() -> None:
    options = UNetDiscriminatorSNOptions(num_in_ch=1, num_feat=4)
    options.check_size(64)
    with pytest.raises(ValueError, match=r"180 is no multiple of 8.*nearest is 176"):
        options.check_size(180)
    assert options.build()(picture(1, 1, 8, 16)).shape == (1, 1, 8, 16)
    with pytest.raises(ValidationError):
        UNetDiscriminatorSNOptions(num_feat=0)
    with pytest.raises(UserError, match=r"unknown discriminator 'UNetDiscriminator'.*did you mean"):
        DISCRIMINATORS.options_class("UNetDiscriminator")
