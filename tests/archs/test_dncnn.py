"""DnCNN: KAIR's names and counts, spandrel's network, folding, recognition, wrong arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from spandrel import ModelLoader
from spandrel.architectures.DnCNN import DnCNN as SpandrelDnCNN
from torch import Tensor, nn

import atelier
from archs.examples import on_meta, picture, save
from atelier.archs import NETWORKS, load_network
from atelier.archs.dncnn import DnCNN, fold_batch_norm
from atelier.archs.dncnn_options import DnCNNOptions
from atelier.archs.info import count_parameters, describe
from atelier.errors import UserError
from atelier.restore import restore_tensor


def trained(net: nn.Module, seed: int = 0) -> Any:
    """Weights and running statistics as training might leave them, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def noise(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(noise(module.weight) * (2 / module.weight[0].numel()) ** 0.5)
                module.bias.copy_(0.1 * noise(module.bias))
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(1 + 0.3 * noise(module.weight))
                module.bias.copy_(0.2 * noise(module.bias))
                module.running_mean.copy_(0.2 * noise(module.running_mean))
                # One channel hardly varies: there eps decides.
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
                module.running_var[0], module.weight[0] = 1e-4, 0.01
    return net.eval()


def shapes_of(options: DnCNNOptions) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in on_meta(options).state_dict().items()}


def test_names_as_kair_writes_them() -> None:
    assert shapes_of(DnCNNOptions(nc=8, nb=3, act_mode="R")) == {
        "model.0.weight": (8, 1, 3, 3),
        "model.0.bias": (8,),
        "model.2.weight": (8, 8, 3, 3),
        "model.2.bias": (8,),
        "model.4.weight": (1, 8, 3, 3),
        "model.4.bias": (1,),
    }
    normalised = shapes_of(DnCNNOptions(nc=8, nb=4, act_mode="BR"))
    assert [key for key in normalised if not key.endswith("bias")] == [
        "model.0.weight",
        "model.2.weight",
        "model.3.weight",
        "model.3.running_mean",
        "model.3.running_var",
        "model.3.num_batches_tracked",
        "model.5.weight",
        "model.6.weight",
        "model.6.running_mean",
        "model.6.running_var",
        "model.6.num_batches_tracked",
        "model.8.weight",
    ]
    assert normalised["model.3.weight"] == (8,) and normalised["model.8.weight"] == (1, 8, 3, 3)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"act_mode": "R"}, 555_137),
        ({"act_mode": "BR"}, 557_057),
        ({"act_mode": "R", "nb": 20}, 665_921),
        ({"act_mode": "R", "nb": 20, "in_nc": 3, "out_nc": 3}, 668_227),
    ],
)
def test_published_counts(options: dict[str, Any], parameters: int) -> None:
    assert count_parameters(on_meta(DnCNNOptions(**options)))[0] == parameters


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("act_mode", ["R", "BR"])
def test_our_file_in_spandrel(act_mode: str, channels: int, tmp_path: Path) -> None:
    net = trained(DnCNN(channels, channels, 8, 9, act_mode))
    theirs = ModelLoader(device="cpu").load_from_file(save(net, tmp_path / "net.pth")).model.eval()
    for size in [(17, 23), (3, 1)]:
        x = picture(2, channels, *size)
        with torch.no_grad():
            y = net(x)
            assert float((y - x).std()) > 0.005
            torch.testing.assert_close(y, theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("act_mode", ["R", "L", "BR", "BL"])
def test_training_mode_equals_spandrels(act_mode: str) -> None:
    """Gradients, and what a step leaves in the running statistics (KAIR's momentum and eps)."""
    ours = trained(DnCNN(1, 1, 6, 4, act_mode)).train()
    theirs = SpandrelDnCNN(in_nc=1, out_nc=1, nc=6, nb=4, act_mode=act_mode).train()
    theirs.load_state_dict(ours.state_dict())
    x, weight = picture(3, 1, 9, 8), picture(3, 1, 9, 8, seed=4) - 0.5
    for net in (ours, theirs):
        (net(x) * weight).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("act_mode", ["BR", "BL", "R"])
def test_folding_changes_nothing_but_the_layers(act_mode: str) -> None:
    net = trained(DnCNN(3, 3, 8, 6, act_mode))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    folded = fold_batch_norm(net)
    assert torch.equal(torch.get_rng_state(), random)
    assert folded.options == net.options.model_copy(update={"act_mode": act_mode[-1]})
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not folded.training
    x = picture(2, 3, 13, 10)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            fold_batch_norm(net.double())(x.double()), net(x.double()), rtol=0, atol=1e-12
        )
    net.float()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in folded.parameters())


def test_the_folding_test_has_teeth() -> None:
    """With PyTorch's eps the folded network is another one."""
    net = trained(DnCNN(1, 1, 8, 6, "BR"))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    folded = fold_batch_norm(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-4
    x = picture(1, 1, 9, 9)
    with torch.no_grad():
        assert float((folded(x) - net(x)).abs().max()) > 1e-3


def test_evaluating_leaves_the_statistics_alone() -> None:
    net = trained(DnCNN(1, 1, 4, 4)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    restore_tensor(net, picture(1, 1, 12, 12), scale=1)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    net(picture(1, 1, 12, 12))
    assert not torch.equal(net.model[3].running_mean, before["model.3.running_mean"])


@pytest.mark.parametrize("act_mode", ["R", "L", "BR", "BL"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_ours_comes_back(act_mode: str, suffix: str, tmp_path: Path) -> None:
    net = trained(DnCNN(1, 1, 6, 5, act_mode))
    path = save(net, tmp_path / f"net{suffix}")
    loaded = load_network(path)
    assert loaded.report.complete and loaded.facts.options == net.options.model_dump(exclude={"type"})
    x = picture(1, 1, 12, 9)
    with torch.no_grad():
        assert torch.equal(loaded.net(x), net(x))
    text = describe(path, size=(16, 16))
    assert "DnCNN" in text and f"act_mode: {act_mode}" in text and "Restoration" in text


def test_a_bare_file_of_kair_comes_back(tmp_path: Path) -> None:
    net = trained(DnCNN(3, 3, 6, 5, "BR"))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = atelier.load_model(tmp_path / "net.pth", device="cpu")
    assert (model.architecture, model.scale, model.in_channels) == ("DnCNN", 1, 3)
    x = picture(1, 3, 40, 50)
    with torch.no_grad():
        expected = (net(x)[0].permute(1, 2, 0).clamp(0, 1)).numpy()
    restored = model.restore(x[0].permute(1, 2, 0).contiguous().numpy(), tile=16)
    assert restored.shape == (40, 50, 3)
    assert abs(restored - expected).max() <= 1e-5


def test_the_receptive_radius_is_exact() -> None:
    net = trained(DnCNN(1, 1, 6, 4, "BL")).double()
    x = picture(1, 1, 15, 15).double().requires_grad_()
    net(x)[..., 7, 7].sum().backward()
    assert x.grad is not None
    seen = (x.grad[0, 0].abs() > 0).nonzero()
    assert seen.amin(0).tolist() == [7 - 4] * 2 and seen.amax(0).tolist() == [7 + 4] * 2
    assert net.options.receptive_radius == 4


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 4),
    nc=st.integers(1, 9),
    nb=st.integers(2, 12),
    act_mode=st.sampled_from(["R", "L", "BR", "BL"]),
)
def test_options_from_shapes(channels: int, nc: int, nb: int, act_mode: Any) -> None:
    options = DnCNNOptions(in_nc=channels, out_nc=channels, nc=nc, nb=nb, act_mode=act_mode)
    shapes = shapes_of(options)
    assert [name for name in NETWORKS if NETWORKS.options_class(name).recognises(shapes)] == ["DnCNN"]
    seen = act_mode.replace("L", "R") if nb > 2 else "R"
    assert DnCNNOptions.from_shapes(shapes) == options.model_copy(update={"act_mode": seen})


def test_a_network_with_a_noise_map_is_another_family(tmp_path: Path) -> None:
    theirs = SpandrelDnCNN(in_nc=2, out_nc=1, nc=6, nb=9, act_mode="R", mode="FDnCNN")
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    assert load_network(tmp_path / "net.pth").facts.source == "spandrel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.2.weight": None, "model.2.bias": None}, r"convolutions stand at model\.0, 4, 6"),
        ({"model.2.weight": (8,)}, r"model\.2\.weight is no batch normalisation.*instance normalisation"),
    ],
)
def test_files_that_only_look_like_it(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = {
        key: torch.zeros(shape) for key, shape in shapes_of(DnCNNOptions(nc=8, nb=4, act_mode="R")).items()
    }
    for key, shape in change.items():
        if shape is None:
            del state[key]
        else:
            state[key] = torch.zeros(shape)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=rf"net\.pth looks like DnCNN, but .*{message}"):
        load_network(tmp_path / "net.pth")


def test_metadata_and_tensors_must_agree_on_normalisation(tmp_path: Path) -> None:
    net = trained(DnCNN(1, 1, 4, 4, "R"))
    net.options = net.options.model_copy(update={"act_mode": "BR"})
    with pytest.raises(UserError, match="act_mode is 'BR', the tensors say 'R'"):
        load_network(save(net, tmp_path / "net.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_nc": 3}, "in_nc 3 and out_nc 1 must be equal"),
        ({"act_mode": "IR"}, "act_mode.*given 'IR'"),
        ({"nb": 1}, "nb.*given 1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DnCNN(**arguments)
    with pytest.raises(ValidationError):
        DnCNNOptions(**arguments)
