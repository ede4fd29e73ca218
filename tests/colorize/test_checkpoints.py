from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from atelier.archs.fusion import SimpleFusionNet, UNetFusionNet
from atelier.archs.fusion_vidnet import FusionNetV1
from atelier.archs.weights import StateFile, save_weights
from atelier.colorize.checkpoints import load_fusion
from atelier.errors import UserError
from colorize.films import lively, small_system


def equal(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_an_older_checkpoint_corrects_the_flow(tmp_path: Path) -> None:
    net = lively(SimpleFusionNet())
    matching = {"theta.weight": torch.rand(2, 2)}
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save(
        {"epoch": 3, "fusion_unet": state, "swintexco_nonlocal": matching, "optimizer": {"state": {}}},
        tmp_path / "old.pth",
    )
    found = load_fusion(tmp_path / "old.pth")
    assert isinstance(found.fusion, SimpleFusionNet) and found.fusion.base == "flow"
    assert equal(found.fusion, net) and not found.fusion.training
    assert found.matching is not None and found.matching.state.keys() == matching.keys()
    torch.save({"fusion_unet": state}, tmp_path / "alone.pth")
    assert load_fusion(tmp_path / "alone.pth").matching is None


def test_an_older_vidnet(tmp_path: Path) -> None:
    net = FusionNetV1()
    torch.save({"fusion_unet": net.state_dict()}, tmp_path / "old.pth")
    found = load_fusion(tmp_path / "old.pth").fusion
    assert isinstance(found, FusionNetV1) and found.base == "flow" and equal(found, net)


def test_the_older_unet_is_refused(tmp_path: Path) -> None:
    torch.save({"fusion_unet": {"enc1.0.weight": torch.zeros(64, 8, 3, 3)}}, tmp_path / "old.pth")
    with pytest.raises(UserError, match=r"old\.pth: this fusion U-Net cannot be used: its decoder"):
        load_fusion(tmp_path / "old.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_our_model_files_and_bare_weights(suffix: str, tmp_path: Path) -> None:
    system = lively(small_system(SimpleFusionNet("flow")))
    assert system.options is not None
    metadata = {"arch": "FusionSystem", "options": system.options.model_dump(mode="json")}
    save_weights(tmp_path / f"model{suffix}", {"params": system.state_dict()}, metadata)
    found = load_fusion(tmp_path / f"model{suffix}")
    assert found.fusion.base == "flow" and equal(found.fusion, system.fusion) and found.matching is None
    net = lively(UNetFusionNet(8))
    save_weights(tmp_path / f"bare{suffix}", {"params": net.state_dict()}, {})
    assert equal(load_fusion(tmp_path / f"bare{suffix}").fusion, net)


def test_a_renamed_tensor_is_named_both_ways(tmp_path: Path) -> None:
    state = SimpleFusionNet().state_dict()
    state["net.3.wait"] = state.pop("net.3.weight")
    torch.save({"fusion_unet": state}, tmp_path / "renamed.pth")
    with pytest.raises(UserError, match=r"(?s)net\.3\.weight.*net\.3\.wait|net\.3\.wait.*net\.3\.weight"):
        load_fusion(tmp_path / "renamed.pth")
    torch.save({"net.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: these are no weights of a fusion network"):
        load_fusion(tmp_path / "other.pth")
    with pytest.raises(UserError, match="no such weight file"):
        load_fusion(tmp_path / "absent.pth")


def test_matching_weights_need_a_matching_network() -> None:
    system = small_system()
    file = StateFile({"weight": torch.ones(2, 2)}, None, {}, Path("old.pth"))
    with pytest.raises(UserError, match=r"old\.pth holds weights .* TinyMatcher; use exemplar: swintexco"):
        system.load_matching(file)
    system.exemplar.nonlocal_net = nn.Linear(2, 2, bias=False)
    system.load_matching(file)
    assert (system.exemplar.nonlocal_net.weight == 1).all()
    with pytest.raises(UserError, match="wait"):
        system.load_matching(StateFile({"wait": torch.ones(2, 2)}, None))
