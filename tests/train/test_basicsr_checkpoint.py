"""Checkpoints that BasicSR wrote: a state of four entries, weight files, no manifest."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from atelier.archs.registry import DISCRIMINATORS, NETWORKS
from atelier.errors import UserError
from atelier.train.basicsr_checkpoint import basicsr_checkpoint_at, newest_basicsr_checkpoint
from atelier.train.folder import RunFolder
from atelier.train.moments import parameter_names, with_tensor_steps
from atelier.train.run import train
from support import small_run
from train.test_gan_run import plain
from train.test_run import assert_same, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps with a discriminator, checkpoints at 4 and 8."""
    return train(plain(tmp_path_factory.mktemp("whole")), quiet=True).folder


def as_basicsr_leaves(source: Path, root: Path, iteration: int) -> Path:
    """The run's folder as BasicSR writes it: bare entries, nothing of ours."""
    run = root / "small"
    for part in ("models", "training_states"):
        (run / part).mkdir(parents=True, exist_ok=True)
    state = torch.load(source / "training_states" / f"{iteration}.state", weights_only=True)
    for role in state["roles"]:
        file = torch.load(source / "models" / f"net_{role}_{iteration}.pth", weights_only=True)
        entries = {key: file[key] for key in ("params", "params_ema") if key in file}
        torch.save(entries, run / "models" / f"net_{role}_{iteration}.pth")
    schedule = {"milestones": Counter([200000]), "gamma": 0.5, "last_epoch": iteration, "_last_lr": [1e-4]}
    bare = {"epoch": 3, "iter": iteration, "optimizers": state["optimizers"], "schedulers": [schedule] * 2}
    torch.save(bare, run / "training_states" / f"{iteration}.state")
    return run


def continued(root: Path, *overrides: str, **keys: Any) -> Path:
    return train(plain(root, **keys), list(overrides), quiet=True).folder


def test_a_folder_of_basicsr_is_continued(whole: Path, tmp_path: Path) -> None:
    """Weights, averages, both optimisers and the step are all that our own plan needs: the rest is bit for bit ours."""
    run = as_basicsr_leaves(whole, tmp_path, 4)
    continued(tmp_path, "path.resume=auto")
    again, uninterrupted = weights(run, 8), weights(whole, 8)
    for key in ("params", "params_ema"):
        assert_same(again[key], uninterrupted[key], key)
    states = [torch.load(each / "training_states" / "8.state", weights_only=True) for each in (run, whole)]
    assert_same(states[0]["optimizers"], states[1]["optimizers"])
    discriminators = [torch.load(each / "models" / "net_d_8.pth", weights_only=True) for each in (run, whole)]
    assert_same(discriminators[0]["params"], discriminators[1]["params"])
    log = (run / "train.log").read_text()
    assert "4.state is BasicSR's" in log
    assert "sampling goes on from the plan at this step, not bit for bit" in log
    assert "network_g: optimiser: moments of 11 of 11 parameters restored" in log
    assert "network_d: optimiser: moments of 12 of 12 parameters restored" in log


def test_schedule_free_training_goes_on_at_the_checkpoints_weights(whole: Path, tmp_path: Path) -> None:
    """It keeps weights of its own, which were those of a fresh network."""
    run = as_basicsr_leaves(whole, tmp_path, 4)
    still = "{type: AdamWScheduleFree, lr: 1e-30}"
    optimizers = (f"train.optim_g={still}", f"train.optim_d={still}", "train.ema_decay=0")
    continued(tmp_path, "path.resume=auto", *optimizers)
    assert_same(weights(run, 8)["params"], weights(whole, 4)["params"])
    ours, theirs = (
        torch.load(folder / "models" / f"net_d_{step}.pth", weights_only=True)["params"]
        for folder, step in ((run, 8), (whole, 4))
    )
    learned = [key for key in theirs if not key.endswith(("_u", "_v"))]
    assert_same({key: ours[key] for key in learned}, {key: theirs[key] for key in learned})
    assert "moments are not carried from Adam to AdamWScheduleFree" in (run / "train.log").read_text()


def test_teeth_without_the_moments_the_run_is_another(whole: Path, tmp_path: Path) -> None:
    run = as_basicsr_leaves(whole, tmp_path, 4)
    path = run / "training_states" / "4.state"
    state = torch.load(path, weights_only=True)
    for entry in state["optimizers"][1]["state"].values():
        entry["exp_avg_sq"].mul_(2)
    torch.save(state, path)
    continued(tmp_path, f"path.resume_state={path}")
    assert not torch.equal(
        weights(run, 8)["params"]["body.0.weight"], weights(whole, 8)["params"]["body.0.weight"]
    )


def test_a_state_is_named_directly(whole: Path, tmp_path: Path) -> None:
    run = as_basicsr_leaves(whole, tmp_path / "theirs", 4)
    folder = continued(tmp_path / "ours", f"path.resume_state={run / 'training_states' / '4.state'}")
    assert_same(weights(folder, 8)["params"], weights(whole, 8)["params"])
    assert not (run / "models" / "net_g_8.pth").exists()


def test_a_run_without_a_discriminator(tmp_path: Path) -> None:
    source = train(small_run(tmp_path / "whole"), quiet=True).folder
    run = as_basicsr_leaves(source, tmp_path / "theirs", 4)
    train(small_run(tmp_path / "theirs"), auto_resume=True, quiet=True)
    assert_same(weights(run, 8)["params"], weights(source, 8)["params"])


def test_another_kind_of_run_is_refused(whole: Path, tmp_path: Path) -> None:
    as_basicsr_leaves(whole, tmp_path, 4)
    with pytest.raises(UserError, match=r"trained networks \['g', 'd'\], this run \['g'\]"):
        train(small_run(tmp_path), auto_resume=True, quiet=True)


def test_what_is_torn_is_named_and_passed_over(whole: Path, tmp_path: Path) -> None:
    run = as_basicsr_leaves(whole, tmp_path, 4)
    as_basicsr_leaves(whole, tmp_path, 8)
    folder = RunFolder(run)

    def newest() -> tuple[int | None, str]:
        notes: list[str] = []
        found = newest_basicsr_checkpoint(folder, notes.append)
        return found.iteration if found else None, " ".join(notes)

    assert newest() == (8, "")
    (run / "models" / "net_d_8.pth").unlink()
    iteration, said = newest()
    assert iteration == 4
    assert "8.state is incomplete, going back to an older one" in said
    assert "net_d_8.pth" in said
    state = run / "training_states" / "8.state"
    state.write_bytes(state.read_bytes()[:500])
    assert "8.state cannot be read" in newest()[1]
    torch.save({"iter": 8, "optimizers": [], "schedulers": []}, state)
    assert "no training state of a network" in newest()[1]


def test_states_of_ours_are_not_taken_for_theirs(whole: Path, tmp_path: Path) -> None:
    """One of ours whose manifest is gone is no checkpoint, whoever asks."""
    copy = tmp_path / "small"
    shutil.copytree(whole, copy)
    for manifest in (copy / "training_states").glob("*.json"):
        manifest.unlink()
    assert newest_basicsr_checkpoint(RunFolder(copy)) is None
    assert basicsr_checkpoint_at(copy / "training_states" / "8.state") is None
    with pytest.raises(UserError, match="belongs to no complete checkpoint"):
        continued(tmp_path, f"path.resume_state={copy / 'training_states' / '8.state'}")
    # The newer one wins, and ours of the same step before theirs.
    assert newest_basicsr_checkpoint(RunFolder(whole)) is None


def test_a_damaged_checkpoint_of_ours_does_not_turn_into_theirs(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small"
    shutil.copytree(whole, copy)
    (copy / "models" / "net_g_8.pth").write_bytes(b"")
    assert newest_basicsr_checkpoint(RunFolder(copy)) is None


def test_an_optimiser_of_another_network_is_refused(whole: Path, tmp_path: Path) -> None:
    run = as_basicsr_leaves(whole, tmp_path, 4)
    path = run / "training_states" / "4.state"
    state = torch.load(path, weights_only=True)
    state["optimizers"][0]["param_groups"][0]["params"] = [0, 1]
    torch.save(state, path)
    checkpoint = basicsr_checkpoint_at(path)
    assert checkpoint is not None
    with pytest.raises(UserError, match=r"counts 2 parameters, but .*net_g_4\.pth has 11"):
        checkpoint.load_state()
    state["optimizers"][0] = {"state": {}}
    torch.save(state, path)
    with pytest.raises(UserError, match="no optimiser of network_g"):
        checkpoint.load_state()


def test_plain_step_counts_of_older_versions() -> None:
    changed = with_tensor_steps({"state": {0: {"step": 7}, 1: {}}, "param_groups": []})
    assert torch.equal(changed["state"][0]["step"], torch.tensor(7.0))
    assert changed["state"][1] == {}


class LegacyDiscriminator(nn.Module):
    """The layers of UNetDiscriminatorSN as the original program makes them, with torch's own spectral norm."""

    def __init__(self, feat: int) -> None:
        super().__init__()
        norm = nn.utils.spectral_norm
        self.conv0 = nn.Conv2d(3, feat, 3, 1, 1)
        sizes = [(1, 2), (2, 4), (4, 8), (8, 4), (4, 2), (2, 1), (1, 1), (1, 1)]
        for place, (first, second) in enumerate(sizes, start=1):
            side = 4 if place <= 3 else 3
            layer = nn.Conv2d(first * feat, second * feat, side, 1, 1, bias=False)
            setattr(self, f"conv{place}", norm(layer))
        self.conv9 = nn.Conv2d(feat, 1, 3, 1, 1)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_places_are_those_of_the_original_modules() -> None:
    """An optimiser counts ``parameters()``; the names read off the weight file follow the same order."""
    legacy = LegacyDiscriminator(8)
    original = [name for name, _ in legacy.named_parameters()]
    assert parameter_names(legacy.state_dict(), None) == original
    ours = DISCRIMINATORS.options_class("UNetDiscriminatorSN").model_validate({"num_feat": 8}).build()
    assert [name for name, _ in ours.named_parameters()] == original


@pytest.mark.parametrize("kind", ["RRDBNet", "SRVGGNetCompact", "VGGStyleDiscriminator"])
def test_places_of_networks_with_equal_names(kind: str) -> None:
    small = {"num_feat": 4} | ({"num_block": 1, "num_grow_ch": 2} if kind == "RRDBNet" else {})
    registry: Any = NETWORKS if kind in NETWORKS else DISCRIMINATORS
    net = registry.options_class(kind).model_validate(small).build()
    assert parameter_names(net.state_dict(), None) == [name for name, _ in net.named_parameters()]
