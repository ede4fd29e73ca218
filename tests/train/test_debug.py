"""``--debug``: what it makes smaller fits the networks, and nobody outside its folder hears of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.errors import UserError
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.train.debug import debug_options, debug_run
from support import small_run


def of_crops(root: Path, gt_size: int, **sections: Any) -> RunOptions:
    run = small_run(root, **sections)
    run["datasets"]["train"]["gt_size"] = gt_size
    return load_run_options(run)


def judged_by(network: str, **keys: Any) -> dict[str, Any]:
    return {
        "objective": {"type": "gan"},
        "network_d": {"type": network, "num_in_ch": 3, "num_feat": 4, **keys},
        "train": {"total_iter": 8, "ema_decay": 0.9, "gan_opt": {"gan_type": "vanilla", "loss_weight": 0.1}},
    }


def small_side(options: RunOptions) -> int:
    return debug_options(options, on_cpu=True).datasets.images.gt_size


def test_crops_are_made_small_on_the_cpu_only(tmp_path: Path) -> None:
    options = of_crops(tmp_path, 256)
    assert small_side(options) == 128
    assert debug_options(options).datasets.images.gt_size == 256
    assert small_side(of_crops(tmp_path, 48)) == 48


@pytest.mark.parametrize(
    ("network", "gt_size", "small"),
    [
        ({"type": "VGGStyleDiscriminator", "input_size": 256}, 256, 256),  # judges crops of one size
        ({"type": "VGGStyleDiscriminator", "input_size": 128}, 128, 128),
        ({"type": "UNetDiscriminatorSN"}, 256, 128),
    ],
)
def test_crops_stay_as_large_as_the_discriminator_needs(
    tmp_path: Path, network: dict[str, Any], gt_size: int, small: int
) -> None:
    kind = network.pop("type")
    assert small_side(of_crops(tmp_path, gt_size, **judged_by(kind, **network))) == small


@pytest.mark.parametrize(
    ("window", "gt_size", "small"), [(9, 36, 36), (9, 180, 144), (8, 256, 128), (7, 154, 112)]
)
def test_crops_hold_whole_windows_and_never_grow(
    tmp_path: Path, window: int, gt_size: int, small: int
) -> None:
    """Of 9 and of eighths only every 72nd pixel is a border, which is more than the 64 aimed at."""
    network = {
        "type": "SwinIR",
        "upscale": 2,
        "window_size": window,
        "img_size": 2 * window,
        "embed_dim": 12,
        "depths": [2],
        "num_heads": [2],
        "upsampler": "pixelshuffledirect",
    }
    run = small_run(tmp_path)
    run["network_g"] = network
    run["datasets"]["train"]["gt_size"] = gt_size
    assert small_side(load_run_options(run)) == small


def test_nothing_is_sent_to_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**keys: Any) -> None:
        raise AssertionError(f"a debug run was started as {keys}")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    run = small_run(tmp_path)
    run["logger"]["wandb"] = {"project": "restoration", "resume_id": "abc123"}
    assert "the checkpoint of step 8 resumes" in debug_run(load_run_options(run))


def test_a_tracker_that_is_not_installed_is_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = small_run(tmp_path)
    run["logger"]["wandb"] = {"project": "restoration"}
    with pytest.raises(UserError, match="wandb is not installed"):
        debug_run(load_run_options(run))
    assert list(tmp_path.iterdir()) == []
