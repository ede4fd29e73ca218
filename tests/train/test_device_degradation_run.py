"""Training whose lq is made on the device, with both objectives: exact resume, and what a changed place means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.degrade.device_steps import _OPERATORS
from atelier.degrade.realesrgan_options import RealESRGANOptions
from atelier.errors import UserError
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.randomness import Streams
from atelier.train.resume import compare_past
from atelier.train.run import train
from support import small_run
from train.test_gan_run import assert_same_gan_run, plain
from train.test_run import assert_same_run, records, stop_at, weights

DEVICE = {"type": "realesrgan", "run_on": "device"}


def run_of(objective: str, root: Path, degradation: dict[str, Any]) -> dict[str, Any]:
    run = plain(root, accumulate=2) if objective == "gan" else small_run(root)
    return {**run, "degradation": degradation}


@pytest.mark.parametrize("objective", ["pixel", "gan"])
def test_a_resumed_run_is_bit_identical(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.train.trainer import Trainer

    whole = train(run_of(objective, tmp_path / "whole", DEVICE), quiet=True).folder
    options = run_of(objective, tmp_path / "stopped", DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at(5))
        assert train(options, quiet=True).iteration == 5
    stopped = train(options, quiet=True, auto_resume=True).folder
    if objective == "gan":
        assert_same_gan_run(stopped, whole)
    else:
        assert_same_run(stopped, whole, 8)


def test_validation_keeps_its_own_path_and_training_does_not(tmp_path: Path) -> None:
    folders = [
        train(run_of("pixel", tmp_path / place, {"type": "realesrgan", "run_on": place}), quiet=True).folder
        for place in ("workers", "device")
    ]
    baselines = [[each for each in records(folder) if each["kind"] == "baseline"] for folder in folders]
    assert baselines[0] == baselines[1] != []
    assert not torch.equal(*(weights(folder, 8)["params"]["body.0.weight"] for folder in folders))


def test_a_changed_place_changes_the_past(tmp_path: Path) -> None:
    options = run_of("pixel", tmp_path, DEVICE)
    train(options, ["train.total_iter=4"], quiet=True)
    options["degradation"] = {**DEVICE, "run_on": "workers"}
    with pytest.raises(UserError, match=r"degradation\.run_on.*would alter what the saved steps saw"):
        train(options, quiet=True, auto_resume=True)


@pytest.mark.parametrize("place", ["workers", "device"])
def test_a_checkpoint_from_before_the_option_ran_on_workers(place: str) -> None:
    told: list[str] = []
    old, new = ({"degradation": {"type": "realesrgan", **more}} for more in ({}, {"run_on": place}))
    if place == "workers":
        assert compare_past(old, new, accept=False, report=told.append) == [] == told
    else:
        with pytest.raises(UserError, match=r"degradation\.run_on: not set -> 'device'"):
            compare_past(old, new, accept=False, report=told.append)


def test_nothing_waits_for_the_device(no_host_sync: Any) -> None:
    gt = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    picture = torch.from_numpy(gt).permute(2, 0, 1)[None]
    seen: set[str] = set()
    for jpeg in ("libjpeg", "reference"):
        operator = RealESRGANOptions(run_on="device", jpeg=jpeg, target_usm=True).build(2)
        drawn = [operator.draw(Streams(0, 1, k), gt.shape) for k in range(8)]
        made = [operator.device_numbers(each, gt.shape, Streams(0, 1, k)) for k, each in enumerate(drawn)]
        numbers = [[torch.from_numpy(array) for array in each] for each in made]
        for together in (1, 8):
            with no_host_sync():
                operator.apply_on_device([picture] * 8, drawn, numbers, [255] * 8, together=together)
        seen |= {step["op"] for each in drawn for step in each["steps"]}
    assert seen == set(_OPERATORS)


def test_messages_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run_on: device is not possible with type bsrgan"):
        load_run_options(run_of("pixel", tmp_path, {"type": "bsrgan", "run_on": "device"}))
    options = load_run_options(
        run_of("pixel", tmp_path, {"type": "realesrgan"}), ["degradation.run_on=device"]
    )
    assert isinstance(options, RunOptions) and options.degradation is not None
    assert options.degradation.run_on == "device"
