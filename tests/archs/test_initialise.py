"""The rules of initialisation against their formulas, and what they must leave alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from archs.examples import small_options
from atelier.archs import SwinIR
from atelier.archs.dncnn import DnCNN
from atelier.archs.initialise import initialise
from atelier.archs.initialise_options import WeightInitOptions

GAIN = 0.2
TYPES = [
    "normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "orthogonal",
]
INTO, OUT = 48 * 9, 64 * 9  # fans of the convolution below

# Deviation and, where there is one, the bound.
EXPECTED: dict[str, tuple[float, float | None]] = {
    "normal": (0.1 * GAIN, None),
    "uniform": (0.2 * GAIN / math.sqrt(3), 0.2 * GAIN),
    "xavier_normal": (GAIN * math.sqrt(2 / (INTO + OUT)), None),
    "xavier_uniform": (GAIN * math.sqrt(2 / (INTO + OUT)), GAIN * math.sqrt(6 / (INTO + OUT))),
    "kaiming_normal": (GAIN * math.sqrt(2 / INTO), None),
    "kaiming_uniform": (GAIN * math.sqrt(2 / INTO), GAIN * math.sqrt(6 / INTO)),
    "orthogonal": (GAIN / math.sqrt(INTO), None),
}


def options(kind: Any = "normal", **more: Any) -> WeightInitOptions:
    return WeightInitOptions(type=kind, **more)


@pytest.mark.parametrize("kind", TYPES)
def test_the_distribution_of_a_convolution(kind: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(48, 64, 3)
    initialise(conv, options(kind))
    weight = conv.weight.detach()
    deviation, bound = EXPECTED[kind]
    assert float(weight.std()) == pytest.approx(deviation, rel=0.02)
    assert abs(float(weight.mean())) < 0.02 * deviation
    if bound is not None:
        assert (
            float(weight.abs().max()) == pytest.approx(bound, rel=0.01) and float(weight.abs().max()) <= bound
        )
    else:
        assert float(weight.abs().max()) > 2.5 * deviation
    assert not conv.bias.detach().any()


def test_orthogonal_rows() -> None:
    layer = nn.Linear(40, 16)
    initialise(layer, options("orthogonal", gain=0.5))
    weight = layer.weight.detach()
    torch.testing.assert_close(weight @ weight.T, 0.25 * torch.eye(16), rtol=0, atol=1e-6)


def test_the_normal_rules_are_cut_at_one() -> None:
    """Kaiming's before the gain, Glorot's after it; a fan-in of one lets both reach the limit."""
    torch.manual_seed(0)
    layer = nn.Linear(1, 200)
    initialise(layer, options("kaiming_normal", gain=5.0))
    assert float(layer.weight.detach().abs().max()) == 5.0
    initialise(layer, options("xavier_normal", gain=500.0))
    assert float(layer.weight.detach().abs().max()) == 1.0


@pytest.mark.parametrize("kind", TYPES)
def test_every_convolution_and_linear_layer_of_swinir_and_nothing_else(kind: str) -> None:
    torch.manual_seed(1)
    net = SwinIR(**small_options(upsampler="pixelshuffle", upscale=2, resi_connection="3conv"))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    drawn = {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        for part in ("weight", "bias")
    }
    initialise(net, options(kind))
    for name, value in net.state_dict().items():
        if name not in drawn:
            assert torch.equal(value, before[name]), name
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert not torch.equal(value, before[name]), name
    others = {name.split(".")[-1] for name in before.keys() - drawn}
    assert "relative_position_bias_table" in others and any("norm" in name for name in before.keys() - drawn)
    # What has two axes or more and is not drawn is a table of positions: no other weight hides from the rule.
    hidden = [name for name, value in net.named_parameters() if value.ndim > 1 and name not in drawn]
    assert all(name.endswith("relative_position_bias_table") for name in hidden)


def test_batch_normalisation() -> None:
    torch.manual_seed(0)
    net = DnCNN(1, 1, 256, 3, "BR")
    norm = net.model[3]
    nn.init.ones_(norm.bias)
    initialise(net, options())
    assert not norm.bias.detach().any()
    weight = norm.weight.detach()
    assert 0.1 <= float(weight.min()) < 0.12 and 0.98 < float(weight.max()) <= 1.0
    assert not norm.running_mean.any() and bool((norm.running_var == 1).all())
    initialise(net, options(bn_type="constant"))
    assert bool((norm.weight == 1).all())
    bare = nn.BatchNorm2d(3, affine=False)
    initialise(bare, options())
    assert bare.weight is None


@pytest.mark.parametrize("kind", TYPES)
def test_torchs_generator_decides(kind: str) -> None:
    """In the order of the layers, by PyTorch's own functions: the numbers KAIR draws from the same seed."""
    net = DnCNN(1, 1, 6, 4, "BR")
    torch.manual_seed(5)
    initialise(net, options(kind, gain=0.3))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    initialise(net, options(kind, gain=0.3))
    assert not torch.equal(net.state_dict()["model.0.weight"], state["model.0.weight"])
    torch.manual_seed(5)
    initialise(net, options(kind, gain=0.3))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    torch.manual_seed(5)
    first = torch.empty(6, 1, 3, 3)
    if kind == "kaiming_normal":
        expected = 0.3 * nn.init.kaiming_normal_(first, a=0, mode="fan_in", nonlinearity="relu").clamp(-1, 1)
        assert torch.equal(state["model.0.weight"], expected)
    if kind == "xavier_uniform":
        assert torch.equal(state["model.0.weight"], nn.init.xavier_uniform_(first, gain=0.3))


@pytest.mark.parametrize("wrong", [{"type": "default"}, {"gain": 0}, {"gain": math.inf}, {"bn_type": "none"}])
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WeightInitOptions(**{"type": "normal", **wrong})
