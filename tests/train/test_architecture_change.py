"""A run whose network changed: what is carried over, what starts anew, and that nothing of the old run is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier.archs.weights import read_weights, written_state
from atelier.errors import UserError
from atelier.options.read import load_run_options
from atelier.train.distributed import Ranks
from atelier.train.folder import RunFolder
from atelier.train.kair_checkpoint import newest_kair_checkpoint
from atelier.train.run import train
from atelier.train.trainer import Trainer
from support import small_run

OLD = {"embed_dim": 8, "depths": [2], "num_heads": [2]}
NEW = {"embed_dim": 12, "depths": [2, 2], "num_heads": [3, 3]}


def denoiser(root: Path, shape: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A grey denoiser of a second or two, without validation."""
    run = small_run(
        root,
        scale=1,
        degradation={"type": "gaussian_noise", "sigma": 25},
        network_g={
            "type": "SwinIR",
            "in_chans": 1,
            "window_size": 4,
            "mlp_ratio": 2,
            "drop_path_rate": 0,
            **shape,
        },
        **sections,
    )
    run["network_g"].pop("num_feat", None)
    run["network_g"].pop("num_conv", None)
    run["datasets"] = {
        "train": {
            "dataroot_gt": "bundled",
            "pictures": ["camera", "moon"],
            "gt_size": 16,
            "batch_size_per_gpu": 2,
            "num_worker_per_gpu": 0,
        }
    }
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the old network, 24 steps: long enough that its weights beat a random start."""
    root = tmp_path_factory.mktemp("old")
    options = denoiser(
        root,
        OLD,
        train={"total_iter": 24, "optim_g": {"type": "Adam", "lr": 2e-3}},
        logger={"save_checkpoint_freq": 24},
    )
    return train(options, quiet=True).folder


@pytest.fixture
def old_run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "small")
    return tmp_path / "small"


def archives(root: Path) -> list[Path]:
    return [each for each in root.iterdir() if "_archived_" in each.name]


def log(run: Path) -> str:
    return (run / "train.log").read_text()


def test_strict_names_what_changed_and_what_would_work(old_run: Path) -> None:
    before = sorted(path.name for path in old_run.rglob("*"))
    with pytest.raises(UserError, match=r"network_g\.embed_dim 8 -> 12.*path\.load=inherit") as caught:
        train(denoiser(old_run.parent, NEW), quiet=True, auto_resume=True)
    assert "network_g.depths [2] -> [2, 2]" in str(caught.value)
    assert sorted(path.name for path in old_run.rglob("*")) == before


def test_inherit_starts_a_new_run_and_keeps_the_old_one(old_run: Path) -> None:
    result = train(denoiser(old_run.parent, NEW), ["path.load=inherit"], quiet=True, auto_resume=True)
    assert result.iteration == 8  # a changed architecture counts from 0
    (kept,) = archives(old_run.parent)
    assert (kept / "models" / "net_g_24.pth").exists()
    assert not (old_run / "models" / "net_g_24.pth").exists()
    text = log(old_run)
    assert "inherited (" in text
    assert "start loss on 4 samples: inherited" in text
    assert "the checkpoint stood at 24" in text
    report = json.loads((old_run / "models" / "load_report.json").read_text())
    assert report["mode"] == "inherit"
    assert report["inherited"]
    assert report["iteration"] == 0
    assert set(report["optimizer"]["restored"]) <= set(report["loaded"])
    assert "What it began with" in (old_run / "report.html").read_text()


def test_flexible_says_it_in_the_words_users_search_for(old_run: Path) -> None:
    overrides = ["path.load=flexible", "path.min_loaded=0", "path.resume=auto"]
    train(denoiser(old_run.parent, NEW), overrides, quiet=True)
    text = log(old_run)
    assert (
        "Size mismatch for conv_first.weight: checkpoint torch.Size([8, 1, 3, 3]) vs model "
        "torch.Size([12, 1, 3, 3]), using random initialization"
    ) in text
    assert "Keys in model but not in checkpoint (" in text
    assert "Mismatched: " in text


def test_keep_goes_on_at_the_checkpoints_step(old_run: Path) -> None:
    overrides = ["path.load=inherit", "path.resume_iteration=keep", "train.total_iter=28"]
    result = train(denoiser(old_run.parent, NEW), overrides, quiet=True, auto_resume=True)
    assert result.iteration == 28
    steps = [json.loads(line)["iter"] for line in (old_run / "metrics.jsonl").read_text().splitlines()]
    assert min(steps) > 24


def test_the_same_network_can_count_from_zero_again(old_run: Path) -> None:
    """Its moments survive in full."""
    overrides = ["path.resume_iteration=reset", "train.total_iter=4"]
    result = train(denoiser(old_run.parent, OLD), overrides, quiet=True, auto_resume=True)
    assert result.iteration == 4
    report = json.loads((old_run / "models" / "load_report.json").read_text())
    assert report["optimizer"]["reset"] == []
    assert len(archives(old_run.parent)) == 1


@pytest.mark.parametrize("key", ["path.resume=never", "path.ignore_resume_network=true"])
def test_never_starts_afresh_even_against_the_flag(old_run: Path, key: str) -> None:
    train(denoiser(old_run.parent, NEW), [key], quiet=True, auto_resume=True)
    (kept,) = archives(old_run.parent)
    assert (kept / "models" / "net_g_24.pth").exists()
    assert "the run starts afresh, against --auto_resume" in log(old_run)
    assert not (old_run / "models" / "load_report.json").exists()


def test_what_was_unlearned_stops_the_run(old_run: Path) -> None:
    """Weights that are worse than chance are not built upon, and the old run stays where it was."""
    path = old_run / "spoilt.pth"
    file = read_weights(old_run / "models" / "net_g_24.pth")
    spoilt = {key: value * 30 if value.is_floating_point() else value for key, value in file.state.items()}
    torch.save({"params": spoilt, **file.metadata}, path)
    overrides = ["path.load=inherit", f"path.pretrain_network_g={path}"]
    with pytest.raises(UserError, match="no better than a random start"):
        train(denoiser(old_run.parent, NEW), overrides, quiet=True)
    assert archives(old_run.parent) == []


def test_unrelated_weights_are_refused_by_name(old_run: Path, tmp_path: Path) -> None:
    """A checkpoint of another task: everything that does not fit is named."""
    compact = load_run_options(small_run(tmp_path))
    path = tmp_path / "compact.pth"
    torch.save(compact.network_g.build().state_dict(), path)
    for mode in ("flexible", "inherit"):
        with pytest.raises(UserError, match=str(path)):
            train(
                denoiser(tmp_path / "other", OLD),
                [f"path.pretrain_network_g={path}", f"path.load={mode}"],
                quiet=True,
            )


def test_another_task_is_told_in_one_sentence(old_run: Path, tmp_path: Path) -> None:
    """Strictly it is an error that names both tasks; inherited, a note."""
    path = old_run / "models" / "net_g_24.pth"
    colour = {**OLD, "in_chans": 3}
    colourful = denoiser(tmp_path / "c", colour)
    colourful["datasets"]["train"]["pictures"] = ["coffee", "rocket"]
    given = [f"path.pretrain_network_g={path}"]
    with pytest.raises(UserError) as caught:
        train(colourful, given, quiet=True)
    assert "holds a network for grey pictures at x1, this run trains one for colour pictures at x1" in str(
        caught.value
    )
    assert len(str(caught.value).splitlines()) == 1
    result = train(colourful, [*given, "path.load=inherit"], quiet=True)
    assert "note: " + str(path) + " holds a network for grey pictures" in log(result.folder)


def test_a_reset_is_done_once(old_run: Path) -> None:
    """The same command again goes on; else a job that is restarted would never end."""
    overrides = ["path.resume_iteration=reset", "train.total_iter=8", "logger.save_checkpoint_freq=4"]
    train(denoiser(old_run.parent, OLD), overrides, quiet=True, auto_resume=True)
    (old_run / "training_states" / "8.json").unlink()
    result = train(denoiser(old_run.parent, OLD), overrides, quiet=True, auto_resume=True)
    assert result.iteration == 8
    assert len(archives(old_run.parent)) == 1
    assert "step 4, place in the data plan" in log(old_run)


def test_the_report_names_the_file_where_it_is_now(old_run: Path) -> None:
    train(denoiser(old_run.parent, NEW), ["path.load=inherit"], quiet=True, auto_resume=True)
    (kept,) = archives(old_run.parent)
    report = json.loads((old_run / "models" / "load_report.json").read_text())
    assert report["path"] == str(kept / "models" / "net_g_24.pth")
    assert "network_g.embed_dim 8 -> 12" in report["changes"]
    assert any(line.startswith("start loss") for line in report["lines"])


def test_a_refused_debug_run_leaves_the_older_one(old_run: Path) -> None:
    """And a good one that begins with a file of the older one keeps that, under another name."""
    from atelier.train.debug import debug_run

    debug_run(load_run_options(denoiser(old_run.parent, OLD)))
    older = old_run.parent / "debug_small" / "models" / "net_g_8.pth"
    with pytest.raises(UserError):
        debug_run(load_run_options(denoiser(old_run.parent, OLD), ["path.pretrain_network_g=absent.pth"]))
    assert older.exists()
    debug_run(load_run_options(denoiser(old_run.parent, OLD), [f"path.pretrain_network_g={older}"]))
    assert len(list(old_run.parent.glob("debug_small_archived_*"))) == 1


def test_both_networks_are_measured(tmp_path: Path) -> None:
    run = small_run(tmp_path, val={"measure": "both"}, logger={"log_format": "kair"})
    result = train(run, ["train.total_iter=4"], quiet=True)
    lines = log(result.folder).splitlines()
    own = [line for line in lines if "Average PSNR :" in line]
    averaged = [line for line in lines if "Average PSNR of the averaged network :" in line]
    assert len(own) == len(averaged) == 1
    assert own[0].split()[-1] != averaged[0].split()[-1]
    kinds = [json.loads(line)["kind"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("validation") == kinds.count("validation_beside") == 1


def trainer_of(run: Path, shape: dict[str, Any]) -> Trainer:
    return Trainer(load_run_options(denoiser(run.parent, shape)), Ranks(0, 1, torch.device("cpu")))


# KAIR's checkpoints


@pytest.fixture(scope="module")
def kair_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 8 steps with KAIR's file names beside ours, stopped at 4 by ``keep_last``."""
    root = tmp_path_factory.mktemp("kair")
    return train(denoiser(root, OLD), ["path.layout=kair"], quiet=True).folder


def only_kair(source: Path, target: Path, iteration: int) -> Path:
    """A folder as KAIR leaves it."""
    (target / "small" / "models").mkdir(parents=True)
    for kind in ("G", "E", "optimizerG"):
        name = f"{iteration}_{kind}.pth"
        shutil.copy(source / "models" / name, target / "small" / "models" / name)
    return target / "small"


def test_kair_files_hold_what_kair_expects(kair_run: Path) -> None:
    bare = torch.load(kair_run / "models" / "8_G.pth", weights_only=True)
    ours = torch.load(kair_run / "models" / "net_g_8.pth", weights_only=True)
    assert list(bare) == list(ours["params"])
    assert "layers.0.residual_group.blocks.1.attn_mask" in bare
    average = torch.load(kair_run / "models" / "8_E.pth", weights_only=True)
    assert all(torch.equal(average[key], ours["params_ema"][key]) for key in average)
    optimizer = torch.load(kair_run / "models" / "8_optimizerG.pth", weights_only=True)
    parameters = sum("attn_mask" not in key and "position_index" not in key for key in bare)
    assert optimizer["param_groups"][0]["params"] == list(range(parameters))


def test_elsa_goes_back_to_the_fork_and_comes_again(tmp_path: Path) -> None:
    """Its files carry the fork's names, unused tables included, and its moments are found by them."""
    shape = {**OLD, "attention": "elsa", "elsa": {"kernel_size": 3, "scope": "window", "lam": 1}}
    whole = train(denoiser(tmp_path / "whole", shape), ["path.layout=kair"], quiet=True).folder
    bare = torch.load(whole / "models" / "4_G.pth", weights_only=True)
    assert "layers.0.residual_group.blocks.0.attn.elsa_attention.qkv.weight" in bare
    only_kair(whole, tmp_path / "again", 4)
    again = train(denoiser(tmp_path / "again", shape), ["path.resume=auto"], quiet=True).folder
    left, right = (torch.load(run / "models" / "net_g_8.pth", weights_only=True) for run in (whole, again))
    assert all(torch.equal(left["params"][key], right["params"][key]) for key in left["params"])


def test_a_kair_folder_resumes_exactly(kair_run: Path, tmp_path: Path) -> None:
    run = only_kair(kair_run, tmp_path, 4)
    result = train(denoiser(tmp_path, OLD), ["path.resume=auto"], quiet=True)
    assert result.iteration == 8
    again = torch.load(run / "models" / "net_g_8.pth", weights_only=True)
    whole = torch.load(kair_run / "models" / "net_g_8.pth", weights_only=True)
    for key in ("params", "params_ema"):
        assert all(torch.equal(again[key][name], whole[key][name]) for name in whole[key])
    assert archives(tmp_path) == []  # KAIR's folder is continued in place
    assert (run / "models" / "4_G.pth").exists()


def test_a_torn_kair_set_goes_back_to_the_one_before(kair_run: Path, tmp_path: Path) -> None:
    run = only_kair(kair_run, tmp_path, 4)
    for kind in ("G", "E", "optimizerG"):
        shutil.copy(kair_run / "models" / f"8_{kind}.pth", run / "models" / f"8_{kind}.pth")
    torn = run / "models" / "8_optimizerG.pth"
    torn.write_bytes(torn.read_bytes()[:1000])
    (run / "models" / "latest_G.pth").write_bytes(b"")
    notes: list[str] = []
    found = newest_kair_checkpoint(RunFolder(run), notes.append)
    assert found is not None
    assert found.iteration == 4
    assert "8_optimizerG.pth is damaged" in notes[0]
    torn.unlink()
    found = newest_kair_checkpoint(RunFolder(run), notes.append)
    assert found is not None
    assert found.iteration == 4
    assert "8_optimizerG.pth is missing" in notes[1]


def test_a_folder_without_any_whole_set_is_not_started_over(kair_run: Path, tmp_path: Path) -> None:
    run = only_kair(kair_run, tmp_path, 4)
    torn = run / "models" / "4_G.pth"
    torn.write_bytes(torn.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"none that is complete[\s\S]*step 4[\s\S]*path\.resume=never"):
        train(denoiser(tmp_path, OLD), ["path.resume=auto"], quiet=True)
    for each in (run / "models").iterdir():
        each.rename(each.with_name(each.name.replace("4_", "latest_")))
    with pytest.raises(UserError, match=r"latest_G\.pth has no step"):
        train(denoiser(tmp_path, OLD), ["path.resume=auto"], quiet=True)
    assert archives(tmp_path) == []


def test_a_kair_checkpoint_grows(kair_run: Path, tmp_path: Path) -> None:
    """The document's change, from a file named by its step."""
    source = only_kair(kair_run, tmp_path / "source", 8) / "models" / "8_G.pth"
    named = source.with_name("995000_G.pth")
    for kind in ("G", "E", "optimizerG"):
        source.with_name(f"8_{kind}.pth").rename(source.with_name(f"995000_{kind}.pth"))
    overrides = [
        f"path.resume_state={named}",
        "path.load=flexible",
        "path.min_loaded=0",
        "path.resume_iteration=keep",
        "train.total_iter=995002",
    ]
    result = train(denoiser(tmp_path, NEW), overrides, quiet=True)
    assert result.iteration == 995002
    text = log(result.folder)
    assert "optimiser: moments of" in text
    assert "start at zero" in text


def test_moments_follow_their_names(old_run: Path) -> None:
    """A deeper network: every tensor that survived goes on with its own moments, whatever its position."""
    deeper = {**OLD, "depths": [2, 2], "num_heads": [2, 2]}
    train(denoiser(old_run.parent, deeper), ["path.load=inherit"], quiet=True, auto_resume=True)
    report = json.loads((old_run / "models" / "load_report.json").read_text())
    restored, reset = report["optimizer"]["restored"], report["optimizer"]["reset"]
    assert "norm.weight" in restored  # far behind its old position
    assert all(name.startswith("layers.1.") for name in reset)


def test_teeth_moments_by_position_would_be_wrong(old_run: Path) -> None:
    deeper = {**OLD, "depths": [2, 2], "num_heads": [2, 2]}
    trainer = trainer_of(old_run, deeper)
    state = torch.load(old_run / "training_states" / "24.state", weights_only=True)
    names = state["parameters"]["g"]
    trainer.carry_moments(state, names)
    own = dict(trainer.nets["g"].named_parameters())
    kept = trainer.optimizers["g"].state[own["norm.weight"]]["exp_avg"]
    assert torch.equal(kept, state["optimizers"][0]["state"][names.index("norm.weight")]["exp_avg"])
    position = list(own).index("norm.weight")
    wrong = state["optimizers"][0]["state"].get(position)
    assert wrong is None or wrong["exp_avg"].shape != kept.shape or not torch.equal(wrong["exp_avg"], kept)


def test_written_state_is_what_kair_files_hold(kair_run: Path) -> None:
    trainer = trainer_of(kair_run, OLD)
    bare = torch.load(kair_run / "models" / "8_G.pth", weights_only=True)
    assert list(written_state(trainer.nets["g"])) == list(bare)


def rates(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["lr"] for line in lines if line["kind"] == "train"]


def test_inherited_weights_begin_gently_and_a_resume_goes_on_so(old_run: Path) -> None:
    """An optimiser without moments would move every weight by the full rate."""
    overrides = ["path.load=inherit", "logger.print_freq=1", "train.total_iter=40", "train.optim_g.lr=1e-3"]
    overrides += ["logger.save_checkpoint_freq=2", "logger.keep_last=null"]
    options = denoiser(old_run.parent, NEW, train={"scheduler": {"type": "MultiStepLR", "milestones": []}})
    train(options, [*overrides, "train.total_iter=40"], quiet=True, auto_resume=True)
    expected = [2.5e-4, 5e-4, 7.5e-4, *([1e-3] * 37)]
    assert rates(old_run) == pytest.approx(expected)
    assert "learning rate: rises over 4 steps" in log(old_run)
    weights = (old_run / "models" / "net_g_40.pth").read_bytes()
    for step in range(4, 42, 2):
        (old_run / "training_states" / f"{step}.json").unlink(missing_ok=True)
    train(options, [*overrides, "train.total_iter=40"], quiet=True, auto_resume=True)
    assert rates(old_run) == pytest.approx(expected)
    resumed = read_weights(old_run / "models" / "net_g_40.pth", "params").state
    (old_run / "first.pth").write_bytes(weights)
    first = read_weights(old_run / "first.pth", "params").state
    assert all(torch.equal(value, first[key]) for key, value in resumed.items())


def test_the_gentle_beginning_can_be_left_out(old_run: Path) -> None:
    options = denoiser(old_run.parent, NEW, train={"scheduler": {"type": "MultiStepLR", "milestones": []}})
    overrides = ["path.load=inherit", "path.inherit.warmup=0", "logger.print_freq=1", "train.optim_g.lr=1e-3"]
    train(options, [*overrides, "train.total_iter=2"], quiet=True, auto_resume=True)
    assert rates(old_run) == pytest.approx([1e-3, 1e-3])
    assert "train.warmup_iter=1 makes them gentler" in log(old_run)
