"""The whole path, in seconds: a run leaves what it promises and resumes bit for bit from any stop."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier.errors import RunStopped, UserError
from atelier.train.run import train
from support import small_run, start_command


def weights(folder: Path, iteration: int) -> dict[str, Any]:
    return torch.load(folder / "models" / f"net_g_{iteration}.pth", weights_only=True)


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run without what depends on the clock and the machine."""
    clock = {"time", "images_per_s", "data_share", "memory_mb"}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in lines]


def assert_same(left: Any, right: Any, path: str = "") -> None:
    """Bit-identical, for any nesting of tensors and plain values."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), path
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{path}[{index}]")
    else:
        assert left == right, path


def assert_same_run(left: Path, right: Path, iteration: int) -> None:
    """Weights, averages, optimiser, meters and every logged number agree exactly."""
    a, b = weights(left, iteration), weights(right, iteration)
    assert_same(a["params"], b["params"], "params")
    assert_same(a["params_ema"], b["params_ema"], "params_ema")
    states = [
        torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)
        for folder in (left, right)
    ]
    for state in states:
        state.pop("past")
    assert_same(*states, "state")
    assert records(left) == records(right)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small_run(tmp_path_factory.mktemp("whole")), quiet=True).folder


def test_a_run_leaves_what_the_design_promises(uninterrupted: Path) -> None:
    expected = [
        "options.yml",
        "environment.json",
        "train.log",
        "metrics.jsonl",
        "report.html",
        "models/net_g_4.pth",
        "models/net_g_8.pth",
        "models/net_g_latest.pth",
        "models/net_g_best.pth",
        "training_states/8.state",
        "training_states/8.json",
        "visualization/chelsea/chelsea_8.png",
        "visualization/chelsea/chelsea_gt.png",
    ]
    assert [name for name in expected if not (uninterrupted / name).exists()] == []
    leftovers = [path for path in uninterrupted.rglob("*") if path.name.startswith(".")]
    assert leftovers == []
    kinds = [(record["kind"], record["iter"]) for record in records(uninterrupted)]
    assert kinds == [
        ("baseline", 0),
        ("train", 3),
        ("validation", 4),
        ("train", 6),
        ("train", 8),
        ("validation", 8),
    ]


def test_the_best_checkpoint_is_that_of_the_highest_psnr_and_is_named(uninterrupted: Path) -> None:
    measured = {
        record["iter"]: record["metrics"]["psnr"]["value"]
        for record in records(uninterrupted)
        if record["kind"] == "validation"
    }
    step = max(measured, key=lambda each: measured[each])
    best = torch.load(uninterrupted / "models" / "net_g_best.pth", weights_only=True)
    assert best["iter"] == step
    assert_same(best["params_ema"], weights(uninterrupted, step)["params_ema"], "params_ema")
    told = f"best: PSNR-RGB (crop 2) on val {measured[step]:.4f} at step {step}: "
    last = [line for line in (uninterrupted / "train.log").read_text().splitlines() if told in line]
    assert len(last) == 1 and last[0].endswith("net_g_best.pth")
    report = (uninterrupted / "report.html").read_text()
    assert f"step {step} ({measured[step]:.2f})" in report


def test_start_weights_that_are_not_there_are_named_by_their_key(tmp_path: Path) -> None:
    for key in ("pretrain_network_g", "pretrain_network_ema"):
        options = small_run(tmp_path)
        options["path"] |= {"pretrain_network_g": __file__, key: str(tmp_path / "gone.pth")}
        with pytest.raises(UserError, match=rf"path\.{key}: .*gone\.pth: there is no such weight file"):
            train(options, quiet=True)


def test_the_weight_file_opens_elsewhere(uninterrupted: Path) -> None:
    from spandrel import ModelLoader

    model = ModelLoader().load_from_file(uninterrupted / "models" / "net_g_8.pth")
    assert (model.scale, model.input_channels) == (2, 3)
    file = weights(uninterrupted, 8)
    assert not torch.equal(file["params"]["body.0.weight"], file["params_ema"]["body.0.weight"])


def test_resolved_options_load_again(uninterrupted: Path) -> None:
    from atelier.options.read import load_run_options

    options = load_run_options(uninterrupted / "options.yml")
    assert options.run_dir.resolve() == uninterrupted.resolve()
    assert options.train.total_iter == 8


def test_metrics_are_those_of_the_saved_pictures(uninterrupted: Path) -> None:
    from atelier.images import read_image
    from atelier.metrics import psnr

    shown = uninterrupted / "visualization" / "chelsea"
    pictures = [read_image(shown / f"chelsea_{what}.png").pixels for what in ("8", "gt")]
    last = records(uninterrupted)[-1]
    assert last["images"]["chelsea"]["psnr"] == pytest.approx(psnr(*pictures, crop_border=2), abs=1e-9)


def stop_at(step: int) -> Any:
    """Make the process believe that somebody pressed Ctrl-C during ``step``."""
    from atelier.train.trainer import Trainer

    real = Trainer.step

    def wrapped(self: Trainer, batch: Any) -> None:
        real(self, batch)
        if self.iteration == step:
            os.kill(os.getpid(), signal.SIGINT)

    return wrapped


@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_ctrl_c_then_auto_resume_equals_the_uninterrupted_run(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from atelier.train.trainer import Trainer

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at(step))
        stopped = train(small_run(tmp_path), quiet=True)
    assert (stopped.finished, stopped.exit_code, stopped.iteration) == (False, 130, step)
    resumed = train(small_run(tmp_path), quiet=True, auto_resume=True)
    assert resumed.finished
    assert_same_run(resumed.folder, uninterrupted, 8)


@pytest.mark.parametrize("sections", [{"train": {"accumulate": 2}}, {"checkpoint_format": "safetensors"}])
def test_resume_is_exact_with_other_settings(tmp_path: Path, sections: dict[str, Any]) -> None:
    base = small_run(tmp_path)
    merged = {
        name: {**base[name], **values} if isinstance(values, dict) else values
        for name, values in sections.items()
    }
    whole = train({**base, **merged, "name": "whole"}, quiet=True).folder
    half = train({**base, **merged, "name": "half"}, ["train.total_iter=4"], quiet=True).folder
    train({**base, **merged, "name": "half"}, quiet=True, auto_resume=True)
    for name in ("8.state",):
        states = [torch.load(run / "training_states" / name, weights_only=True) for run in (whole, half)]
        for state in states:
            state.pop("past")
        assert_same(*states)


TEETH = {
    "the plan starts over": ("atelier.data.loader", "TrainingData", "batches"),
    "the optimiser is forgotten": ("torch.optim", "Adam", "load_state_dict"),
}


@pytest.mark.parametrize("mutation", list(TEETH))
def test_the_resume_test_has_teeth(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutation: str
) -> None:
    import importlib

    from atelier.train.trainer import Trainer

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at(5))
        train(small_run(tmp_path), quiet=True)
    module, owner, method = TEETH[mutation]
    home = getattr(importlib.import_module(module), owner)
    real = getattr(home, method)
    if method == "batches":
        monkeypatch.setattr(home, method, lambda self, first, last: real(self, 1, last - first + 1))
    else:
        monkeypatch.setattr(home, method, lambda self, state: None)
    folder = train(small_run(tmp_path), quiet=True, auto_resume=True).folder
    with pytest.raises(AssertionError):
        assert_same_run(folder, uninterrupted, 8)


def option_file(root: Path, **sections: Any) -> Path:
    path = root / "run.yml"
    path.write_text(json.dumps(small_run(root / "experiments", **sections)))
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_resumes_exactly(tmp_path: Path, number: signal.Signals) -> None:
    sections = {"train": {"total_iter": 60, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0.9}}
    logger = {"print_freq": 5, "save_checkpoint_freq": 10, "use_tb_logger": False}
    sections |= {"logger": logger, "val": {"val_freq": 20}}
    command = ["train", "-opt", str(option_file(tmp_path, **sections))]
    output = tmp_path / "output"
    process = start_command(command, output)
    states = tmp_path / "experiments" / "small" / "training_states"
    deadline = time.monotonic() + 120
    while not (states / "10.json").exists():
        assert process.is_alive(), output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.join(120)
    assert process.exitcode == (-9 if number == signal.SIGKILL else 143), output.read_text()
    if number == signal.SIGTERM:
        assert "SIGTERM: stopped after step" in output.read_text()
    assert not (states / "60.json").exists(), "the run was over before the signal came"
    again = start_command([*command, "--auto_resume"], output)
    again.join(120)
    assert again.exitcode == 0, output.read_text()
    assert "resumed: " in output.read_text()
    whole = train(small_run(tmp_path / "whole", **sections), quiet=True).folder
    assert_same_run(tmp_path / "experiments" / "small", whole, 60)


def test_fresh_start_keeps_the_older_run(tmp_path: Path) -> None:
    first = train(small_run(tmp_path), ["train.total_iter=1"], quiet=True).folder
    marker = first / "mine.txt"
    marker.write_text("precious")
    train(small_run(tmp_path), ["train.total_iter=1"], quiet=True)
    archived = [path for path in tmp_path.iterdir() if "_archived_" in path.name]
    assert len(archived) == 1
    assert (archived[0] / "mine.txt").read_text() == "precious"
    assert not marker.exists()


def test_torn_newest_checkpoint_falls_back_and_ends_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    folder = train(small_run(tmp_path), quiet=True).folder
    newest = folder / "models" / "net_g_8.pth"
    newest.write_bytes(newest.read_bytes()[:500])
    train(small_run(tmp_path), quiet=True, auto_resume=True)
    assert "checkpoint of step 8 is damaged" in (folder / "train.log").read_text()
    assert_same_run(folder, uninterrupted, 8)


def test_resume_state_names_one_checkpoint(uninterrupted: Path, tmp_path: Path) -> None:
    folder = train(small_run(tmp_path), quiet=True).folder
    state = folder / "training_states" / "4.state"
    train(small_run(tmp_path), [f"path.resume_state={state}"], quiet=True)
    assert_same_run(folder, uninterrupted, 8)
    with pytest.raises(UserError, match=r"5\.state does not exist"):
        train(small_run(tmp_path), [f"path.resume_state={state.with_name('5.state')}"], quiet=True)


def test_changed_past_needs_a_yes(tmp_path: Path) -> None:
    folder = train(small_run(tmp_path), ["train.total_iter=4"], quiet=True).folder
    with pytest.raises(UserError, match=r"(?s)manual_seed.*3.*4.*--accept-changes"):
        train(small_run(tmp_path), ["manual_seed=4"], quiet=True, auto_resume=True)
    with pytest.raises(UserError, match="global_batch"):
        train(small_run(tmp_path), ["datasets.train.batch_size_per_gpu=2"], quiet=True, auto_resume=True)
    assert train(
        small_run(tmp_path), ["manual_seed=4"], quiet=True, auto_resume=True, accept_changes=True
    ).finished
    log = (folder / "train.log").read_text()
    assert "options changed since the checkpoint" in log


def test_harmless_change_is_shown_and_allowed(tmp_path: Path) -> None:
    folder = train(small_run(tmp_path), ["train.total_iter=4"], quiet=True).folder
    train(small_run(tmp_path), ["logger.print_freq=2"], quiet=True, auto_resume=True)
    assert "logger.print_freq" in (folder / "train.log").read_text()


def stored_optimizer(folder: Path, iteration: int) -> dict[str, Any]:
    state = torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)
    return state["optimizers"][0]


def test_optimiser_options_changed_at_a_resume_count(tmp_path: Path) -> None:
    """They were announced as changed while the checkpoint's stayed in force."""
    train(small_run(tmp_path), ["train.total_iter=4"], quiet=True)
    changed = "train.optim_g={type: AdamW, lr: 1e-3, weight_decay: 0.5, betas: [0.5, 0.6], eps: 1e-4}"
    folder = train(small_run(tmp_path), [changed], quiet=True, auto_resume=True).folder
    (group,) = stored_optimizer(folder, 8)["param_groups"]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.5, (0.5, 0.6), 1e-4)
    assert group["decoupled_weight_decay"] is True
    assert float(stored_optimizer(folder, 8)["state"][0]["step"]) == 8  # the moments went on
    assert "optimiser (AdamW)" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [("Adam", "SGD"), ("SGD", "Adam"), ("Adam", "AdamWScheduleFree"), ("AdamWScheduleFree", "Adam")],
)
def test_another_optimiser_begins_afresh_at_the_checkpoints_weights(
    tmp_path: Path, before: str, after: str
) -> None:
    options = small_run(tmp_path, train={"ema_decay": 0, "optim_g": {"type": before, "lr": 1e-3}})
    train(options, ["train.total_iter=4"], quiet=True)
    momentum = ", momentum: 0.9" if after == "SGD" else ""
    # With such a rate the weights stay where they are.
    changed = f"train.optim_g={{type: {after}, lr: 1e-30{momentum}}}"
    folder = train(options, [changed], quiet=True, auto_resume=True).folder
    assert_same(weights(folder, 4)["params"], weights(folder, 8)["params"])
    told = f"optimiser ({after}, which begins afresh: the checkpoint's are moments of {before})"
    assert told in (folder / "train.log").read_text()


@pytest.mark.parametrize("foreign", [False, True])
def test_fp16_from_a_checkpoint_without_a_loss_scale(tmp_path: Path, foreign: bool) -> None:
    folder = train(small_run(tmp_path), ["train.total_iter=4"], quiet=True).folder
    if foreign:  # BasicSR's states know nothing of a scale, and have no manifest
        path = folder / "training_states" / "4.state"
        optimizers = torch.load(path, weights_only=True)["optimizers"]
        torch.save({"epoch": 0, "iter": 4, "optimizers": optimizers, "schedulers": []}, path)
        path.with_suffix(".json").unlink()
    result = train(small_run(tmp_path), ["train.precision=fp16"], quiet=True, auto_resume=True)
    assert result.finished
    assert "a loss scale that begins afresh" in (folder / "train.log").read_text()
    state = torch.load(folder / "training_states" / "8.state", weights_only=True)
    assert state["scaler"]["_growth_tracker"] == 4 and state["scaler"]["scale"] == 65536
    train(small_run(tmp_path), ["train.precision=fp16", "train.total_iter=9"], quiet=True, auto_resume=True)
    state = torch.load(folder / "training_states" / "9.state", weights_only=True)
    assert state["scaler"]["_growth_tracker"] == 5  # a scale that is there goes on


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    train(small_run(tmp_path), ["train.total_iter=4"], quiet=True)
    other = ["network_g.num_feat=12"]
    with pytest.raises(UserError, match=r"network_g\.num_feat"):
        train(small_run(tmp_path), other, quiet=True, auto_resume=True)
    with pytest.raises(UserError, match=r"path\.load=inherit"):
        train(small_run(tmp_path), other, quiet=True, auto_resume=True, accept_changes=True)


def test_non_finite_loss_stops_before_a_checkpoint(tmp_path: Path) -> None:
    options = small_run(tmp_path, train={"optim_g": {"type": "SGD", "lr": 1e30}})
    with pytest.raises(RunStopped, match=r"l_g_pix.*step"):
        train(options, quiet=True)
    assert not list((tmp_path / "small" / "models").glob("*.pth"))


def test_steps_before_a_picture_that_is_gone_are_saved(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.data.loader import TrainingData

    real = TrainingData.batches

    def gone(self: TrainingData, first: int, last: int) -> Iterator[Any]:
        yield from real(self, first, 6)
        raise UserError("cannot read picture 3.png: there is no such file")

    monkeypatch.setattr(TrainingData, "batches", gone)
    with pytest.raises(
        UserError, match=r"3\.png: .*\nstep 6 is saved; the same command with --auto_resume continues"
    ):
        train(small_run(tmp_path), quiet=True)
    monkeypatch.undo()
    result = train(small_run(tmp_path), quiet=True, auto_resume=True)
    assert_same_run(uninterrupted, result.folder, 8)


def test_full_disk_ends_the_run_and_keeps_the_older_checkpoint(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = tmp_path / "small" / "training_states"
    real = os.fsync

    def full(handle: int) -> None:
        if (states / "4.json").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunStopped, match="the disk is full"):
            train(small_run(tmp_path, val={"val_freq": 100, "save_img": False}), quiet=True)
    assert not (states / "8.json").exists()
    assert not list((tmp_path / "small" / "models").glob("net_g_8*"))
    # With room on the disk again the run goes on from there, as if nothing had happened.
    folder = train(small_run(tmp_path), quiet=True, auto_resume=True).folder
    assert_same(weights(folder, 8)["params"], weights(uninterrupted, 8)["params"])


def test_no_gpu_when_asked_for(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="num_gpu: 1 asked for, but this machine shows 0 usable GPUs"):
        train(small_run(tmp_path), ["num_gpu=1"], quiet=True)
    assert not (tmp_path / "small").exists()


def test_logged_learning_rate_is_the_used_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    real = torch.optim.Adam.step

    def spy(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        used.append(float(self.param_groups[0]["lr"]))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    schedule = {"type": "MultiStepLR", "milestones": [4], "gamma": 0.5}
    folder = train(
        small_run(tmp_path, train={"scheduler": schedule}), ["logger.print_freq=1"], quiet=True
    ).folder
    logged = [record["lr"] for record in records(folder) if record["kind"] == "train"]
    assert logged == used
    assert len(set(used)) == 2


def test_every_precision_trains(tmp_path: Path) -> None:
    for precision in ("bf16", "fp16"):
        result = train(small_run(tmp_path), [f"train.precision={precision}", f"name={precision}"], quiet=True)
        assert result.finished


def test_debug_run_leaves_only_its_folder(tmp_path: Path) -> None:
    from atelier.options.read import load_run_options
    from atelier.train.debug import debug_run

    text = debug_run(load_run_options(small_run(tmp_path)))
    assert "the checkpoint of step 8 resumes" in text
    assert [path.name for path in tmp_path.iterdir()] == ["debug_small"]


def test_training_runs_without_validation_sets(tmp_path: Path) -> None:
    options = small_run(tmp_path)
    del options["datasets"]["val"]
    folder = train(options, quiet=True).folder
    assert not (folder / "models" / "net_g_best.pth").exists()
    assert (folder / "report.html").exists()


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    folder = train(small_run(tmp_path), quiet=True).folder
    train(small_run(tmp_path), quiet=True, auto_resume=True)
    assert "already at step 8 of 8: nothing left to train" in (folder / "train.log").read_text()
    with pytest.raises(UserError, match=r"step 8, beyond train\.total_iter 5"):
        train(small_run(tmp_path), ["train.total_iter=5"], quiet=True, auto_resume=True)


def test_missing_tracker_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"atelier\[wandb\]"):
        train(small_run(tmp_path), ["logger.wandb.project=x"], quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_set_is_called_by_its_name(tmp_path: Path) -> None:
    folder = train(
        small_run(tmp_path), ["datasets.val.name=held out", "train.total_iter=4"], quiet=True
    ).folder
    assert {record["set"] for record in records(folder) if record["kind"] != "train"} == {"held out"}
    assert (folder / "visualization/chelsea/chelsea_4.png").exists()


PLUGIN = """
from typing import Literal

from atelier.archs.registry import NETWORKS, NetworkOptions


class TinyOptions(NetworkOptions):
    type: Literal["PluginTiny"] = "PluginTiny"

    @property
    def scale(self):
        return 2

    @property
    def in_channels(self):
        return 3

    out_channels = in_channels

    def build(self):
        from torch import nn

        return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))


if "PluginTiny" not in NETWORKS:
    NETWORKS.register("PluginTiny", TinyOptions)
"""


def test_a_plugin_network_trains_and_its_weights_come_back(tmp_path: Path) -> None:
    (tmp_path / "tiny_plugin.py").write_text(PLUGIN)
    path = option_file(tmp_path, network_g={"type": "PluginTiny"}, plugins=["tiny_plugin"])
    options = json.loads(path.read_text())
    options["network_g"] = {"type": "PluginTiny"}
    path.write_text(json.dumps(options))
    output = tmp_path / "output"
    model = tmp_path / "experiments/small/models/net_g_best.pth"
    for arguments, code, text in (
        (["train", "-opt", str(path)], 0, "PluginTiny x2"),
        (["info", str(model)], 2, "'PluginTiny' of a plug-in; name its module with --plugin"),
        (["info", str(model), "--plugin", "tiny_plugin"], 0, "PluginTiny"),
    ):
        process = start_command(arguments, output, PYTHONPATH=str(tmp_path))
        process.join(120)
        assert process.exitcode == code, output.read_text()
        assert text in output.read_text()
