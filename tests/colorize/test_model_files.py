"""Model files of a colorizer: small with a record, or self-contained; what is wrong is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from atelier.archs import load_network, save_weights
from atelier.archs.load import load_whole
from atelier.archs.weights import read_weights
from atelier.colorize import FusionSystem, FusionSystemOptions, load_system
from atelier.colorize.model_files import digest, frozen_modules
from atelier.errors import UserError


def options(**changes: Any) -> FusionSystemOptions:
    return FusionSystemOptions.model_validate({"fusion": {"type": "unet", "width": 4}, **changes})


def with_memflow(**changes: Any) -> FusionSystemOptions:
    return options(flow={"type": "memflow", "allow_random": True}, **changes)


def save(path: Path, system: FusionSystem, **metadata: Any) -> Path:
    assert system.options is not None
    told = {
        "arch": "FusionSystem",
        "options": system.options.model_dump(mode="json", exclude={"type"}),
        **system.file_record(),
        **metadata,
    }
    save_weights(path, {"params": system.state_dict()}, told)
    return path


def moved(system: FusionSystem) -> FusionSystem:
    """Trained parts that no fresh system has."""
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    return system


def assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("save_frozen", [False, True])
def test_a_file_opens_as_the_system_it_was(tmp_path: Path, save_frozen: bool, suffix: str) -> None:
    system = moved(with_memflow(save_frozen=save_frozen).build())
    path = save(tmp_path / f"model{suffix}", system)
    kept = [key for key in read_weights(path).state if key.startswith("flow.")]
    assert bool(kept) == save_frozen
    assert (path.stat().st_size > 2e7) == save_frozen
    loaded = load_system(path)
    assert_equal(loaded.system, system)
    assert not loaded.system.training and loaded.system.options == system.options
    assert not any(parameter.requires_grad for parameter in loaded.system.flow.parameters())
    assert "random" in loaded.lines[0] and "tiny" in loaded.lines[1] and "unet" in loaded.lines[2]


def test_a_self_contained_file_needs_no_other_file(tmp_path: Path) -> None:
    weights = tmp_path / "memflow.pth"
    made = with_memflow().build()
    network = made.flow.network
    assert isinstance(network, torch.nn.Module)
    torch.save(network.state_dict(), weights)
    system = options(flow={"type": "memflow", "weights": str(weights)}, save_frozen=True).build()
    path = save(tmp_path / "model.pth", system)
    small = save(tmp_path / "small.pth", options(flow={"type": "memflow", "weights": str(weights)}).build())
    weights.rename(tmp_path / "elsewhere.pth")
    assert_equal(load_system(path).system, system)
    with pytest.raises(UserError, match=r"memflow\.pth"):
        load_system(small)
    assert_equal(load_system(small, memflow_ckpt=tmp_path / "elsewhere.pth").system.flow, system.flow)


def test_frozen_weights_that_are_not_those_of_training_are_refused(tmp_path: Path) -> None:
    system = with_memflow().build()
    path = save(tmp_path / "model.pth", system)
    other = with_memflow().build()
    with torch.no_grad():
        next(iter(other.flow.buffers())).add_(1e-3)
    with pytest.raises(UserError, match=r"was trained with flow from random.*SHA-256.*save_frozen: true"):
        load_whole(other, read_weights(path))
    record = {**system.file_record(), "frozen": {}}
    bare = save(tmp_path / "bare.pth", system, **record)
    with pytest.raises(UserError, match="has no tensors of flow and does not say"):
        load_system(bare)


def test_a_self_contained_file_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    system = with_memflow(save_frozen=True).build()
    record = system.file_record()
    with torch.no_grad():
        next(system.flow.parameters()).mul_(2)
    with pytest.raises(UserError, match="was trained with flow"):
        load_system(save(tmp_path / "model.pth", system, **record))


def test_a_part_that_this_system_lacks_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", with_memflow().build())
    with pytest.raises(UserError, match=r"trained with flow from random.*which this system has not"):
        load_whole(options().build(), read_weights(path))


def test_places_for_weights_that_the_model_does_not_have_are_errors(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", options().build())
    with pytest.raises(UserError, match="--memflow_ckpt does nothing: the model's flow is dis"):
        load_system(path, memflow_ckpt=tmp_path / "x.pth")
    with pytest.raises(UserError, match="the model's exemplar is tiny"):
        load_system(path, swintexco_ckpt=tmp_path)


def test_a_colorizer_is_no_restorer_and_the_other_way_round(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", options().build())
    with pytest.raises(UserError, match=r"colours films \(FusionSystem\); use: atelier colorize -m"):
        load_network(path)
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no colorizer for films: it does not say what it is"):
        load_system(tmp_path / "other.pth")


def test_notes_about_the_weights_stand_in_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", options().build(), notes=["weights of a test"])
    assert load_system(path).notes == ("weights of a test",)


def test_the_digest_sees_names_types_shapes_and_buffers() -> None:
    net = torch.nn.BatchNorm1d(2)
    first = digest(net)
    assert net.running_mean is not None
    net.running_mean[0] = 1
    assert digest(net) != first
    net.running_mean[0] = 0
    assert digest(net) == first
    assert digest(torch.nn.BatchNorm1d(2, dtype=torch.float64)) != first
    assert digest(torch.nn.Sequential(net)) != first


def test_only_parts_with_tensors_are_frozen_parts() -> None:
    system = options().build()
    assert frozen_modules(system, system.frozen_parts) == {}
    assert list(frozen_modules(with_memflow().build(), ("flow", "exemplar.embed_net"))) == ["flow"]


@pytest.mark.slow
def test_swintexco_files(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    built = options(exemplar={"type": "swintexco", "allow_random_backbone": True}, save_frozen=True).build()
    loaded = load_system(save(tmp_path / "model.pth", built))
    assert_equal(loaded.system, built)
    assert "embed_net: random" in loaded.lines[1]
    assert any("RANDOM" in note for note in loaded.notes)
    # Drawn weights cannot be had again, so a file without them says how to keep them.
    small = options(exemplar={"type": "swintexco", "allow_random_backbone": True}).build()
    with pytest.raises(UserError, match="save_frozen: true"):
        load_system(save(tmp_path / "small.pth", small))
