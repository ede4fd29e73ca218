"""VGGStyleDiscriminator: names and shapes of BasicSR's file, its function written down once more, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archs.examples import on_meta, picture
from atelier.archs.registry import DISCRIMINATORS
from atelier.archs.vgg_discriminator import VGGStyleDiscriminator
from atelier.archs.vgg_discriminator_options import VGGStyleDiscriminatorOptions


@pytest.mark.parametrize(("size", "levels"), [(128, 5), (256, 6)])
def test_names_and_shapes(size: int, levels: int) -> None:
    state = on_meta(VGGStyleDiscriminatorOptions(input_size=size)).state_dict()
    keys = ["conv0_0.weight", "conv0_0.bias"]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for level in range(levels):
        for place in (0, 1):
            if (level, place) != (0, 0):
                keys.append(f"conv{level}_{place}.weight")
                keys += [f"bn{level}_{place}.{name}" for name in norm]
    keys += ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"]
    assert list(state) == keys
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["conv0_1.weight"] == (64, 64, 4, 4)
    assert shapes["conv1_0.weight"] == (128, 64, 3, 3)
    assert shapes["conv3_1.weight"] == (512, 512, 4, 4)
    assert shapes["conv4_0.weight"] == (512, 512, 3, 3)
    assert shapes["linear1.weight"] == (100, 512 * 16)


def test_it_computes_the_chain() -> None:
    torch.manual_seed(0)
    net = VGGStyleDiscriminator(num_feat=2)
    layers: list[nn.Module] = []
    for name, module in net.named_children():
        if name.startswith(("conv", "bn")):
            layers.append(module)
            if name == "conv0_0" or name.startswith("bn"):
                layers.append(nn.LeakyReLU(0.2))
    chain = nn.Sequential(*layers, nn.Flatten(), net.linear1, nn.LeakyReLU(0.2), net.linear2).eval()
    x = picture(2, 3, 128, 128)
    result = net.eval()(x)
    assert result.shape == (2, 1)
    torch.testing.assert_close(result, chain(x))
    assert VGGStyleDiscriminator(num_in_ch=1, num_feat=2, input_size=256)(picture(2, 1, 256, 256)).shape == (
        2,
        1,
    )


def test_it_judges_one_size() -> None:
    options = DISCRIMINATORS.options_class("VGGStyleDiscriminator")()
    options.check_size(128)
    with pytest.raises(ValueError, match=r"192 is not network_d\.input_size 128"):
        options.check_size(192)
