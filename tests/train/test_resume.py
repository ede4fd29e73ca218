"""Which checkpoint a run goes on from, what it leaves untouched until then, and what stays its best."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from atelier.cli.main import app
from atelier.errors import UserError
from atelier.options.read import load_run_options
from atelier.train.basicsr_checkpoint import newest_basicsr_checkpoint
from atelier.train.checkpoint import Checkpoint, CheckpointStore
from atelier.train.folder import RunFolder
from atelier.train.kair_checkpoint import newest_kair_checkpoint
from atelier.train.resume import choose_checkpoint
from atelier.train.run import look_ahead_of, train
from support import small_run
from train.test_basicsr_checkpoint import as_basicsr_leaves


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps with KAIR's names beside ours; checkpoints and validations at 4, 8 and 12."""
    options = small_run(tmp_path_factory.mktemp("first"))
    return train(options, ["train.total_iter=12", "path.layout=kair"], quiet=True).folder


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "small"))


def chosen(root: Path, *overrides: str, flag: bool = False) -> tuple[Checkpoint | None, list[str]]:
    options = load_run_options(small_run(root), list(overrides))
    notes: list[str] = []
    store = CheckpointStore(RunFolder(options.run_dir))
    return choose_checkpoint(options, store, auto_resume=flag, report=notes.append), notes


def state(run: Path, step: int) -> str:
    return f"path.resume_state={run / 'training_states' / f'{step}.state'}"


def archives(root: Path) -> list[Path]:
    return sorted(root.glob("*_archived_*"))


def shown(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "visualization").rglob("*.png"))


def test_auto_resume_goes_on_in_the_own_folder_and_not_where_the_run_began(run: Path) -> None:
    root = run.parent
    for again, flag in ((["name=second"], True), (["name=second", "path.resume=auto"], False)):
        found, notes = chosen(root, *again, state(run, 4), flag=flag)
        assert found is not None and (found.run, found.iteration) == (run, 4)
        assert notes == []
    shutil.copytree(run, root / "second")
    for again, flag in ((["name=second"], True), (["name=second", "path.resume=auto"], False)):
        found, notes = chosen(root, *again, state(run, 4), flag=flag)
        assert found is not None and (found.run, found.iteration) == (root / "second", 12)
        assert "small/training_states/4.state is passed over" in notes[0]
    found, _ = chosen(root, "name=second", state(run, 4))
    assert found is not None and found.run == run
    # A step of the own folder is gone back to, unless the flag says that the run goes on.
    for overrides, flag, step in (([], False, 4), (["path.resume=auto"], False, 4), ([], True, 12)):
        found, _ = chosen(root, *overrides, state(run, 4), flag=flag)
        assert found is not None and found.iteration == step
    found, notes = chosen(root, state(run, 12), flag=True)
    assert notes == []


def test_a_torn_first_checkpoint_leads_back_to_where_the_run_began(run: Path) -> None:
    second = run.parent / "second"
    shutil.copytree(run, second)
    for path in (second / "models").iterdir():
        path.write_bytes(b"")
    found, notes = chosen(run.parent, "name=second", state(run, 4), flag=True)
    assert found is not None and (found.run, found.iteration) == (run, 4)
    assert any("step 12 is damaged" in note for note in notes)
    with pytest.raises(UserError, match="none that is complete"):
        chosen(run.parent, "name=second", flag=True)


def test_what_a_run_threw_away_is_not_continued_under_kairs_name(run: Path) -> None:
    again = train(
        small_run(run.parent), ["train.total_iter=6", "path.layout=kair", state(run, 4)], quiet=True
    )
    assert again.folder == run and (run / "models" / "12_G.pth").exists()
    found, _ = chosen(run.parent, flag=True)
    assert found is not None and found.iteration == 6
    assert newest_kair_checkpoint(RunFolder(run)) is None


def test_a_damaged_checkpoint_of_ours_does_not_turn_into_kairs(run: Path) -> None:
    (run / "models" / "net_g_12.pth").write_bytes(b"")
    found, notes = chosen(run.parent, flag=True)
    assert found is not None and found.iteration == 8 and type(found) is Checkpoint
    assert "step 12 is damaged" in notes[0]


def test_other_programs_checkpoints_are_set_aside_too(first: Path, tmp_path: Path) -> None:
    kairs = tmp_path / "kair" / "small"
    (kairs / "models").mkdir(parents=True)
    for step in (4, 12):
        for kind in ("G", "E", "optimizerG"):
            shutil.copy(first / "models" / f"{step}_{kind}.pth", kairs / "models")
    store = CheckpointStore(RunFolder(kairs))
    assert store.supersede_after(4) == [12]
    assert store.supersede_after(4) == []
    found = newest_kair_checkpoint(store.folder)
    assert found is not None and found.iteration == 4
    (kairs / "models" / "4_G.pth").unlink()
    (kairs / "models" / "4_E.pth").unlink()
    (kairs / "models" / "4_optimizerG.pth").unlink()
    with pytest.raises(UserError, match=r"12_G\.pth was set aside when the run went back"):
        chosen(tmp_path / "kair", flag=True)
    # Who names it takes it up again.
    assert store.supersede_after(12) == []
    found = newest_kair_checkpoint(store.folder)
    assert found is not None and found.iteration == 12
    for step in (4, 8):
        basicsrs = as_basicsr_leaves(first, tmp_path / "basicsr", step)
    folder = RunFolder(basicsrs)
    assert CheckpointStore(folder).supersede_after(4) == [8]
    other = newest_basicsr_checkpoint(folder)
    assert other is not None and other.iteration == 4


def best_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "models" / "net_g_best.pth", weights_only=True)


def named_best(run: Path) -> str:
    """The step that the log's last line names as the best."""
    lines = [line for line in (run / "train.log").read_text().splitlines() if "best: " in line]
    return lines[-1].split(" at step ")[1].split(":")[0]


#: A run of these gets worse with every step.
WORSE = ["train.ema_decay=0", "train.optim_g.lr=1"]


def test_the_best_file_follows_a_run_that_goes_back(run: Path) -> None:
    assert best_of(run)["iter"] == 12  # of steps that are thrown away now
    train(small_run(run.parent), ["train.total_iter=8", *WORSE, state(run, 4)], quiet=True)
    assert named_best(run) == "4"
    kept = torch.load(run / "models" / "net_g_4.pth", weights_only=True)
    for key, value in kept["params"].items():
        assert torch.equal(value, best_of(run)["params"][key])
    assert best_of(run)["iter"] == 4


def test_a_run_of_another_name_takes_the_best_weights_over(run: Path) -> None:
    options = ["train.total_iter=16", "name=second", *WORSE]
    second = train(small_run(run.parent), [*options, state(run, 12)], quiet=True).folder
    assert best_of(second)["iter"] == 12 and named_best(second) == "12"


def test_best_weights_that_are_gone_are_not_named(run: Path) -> None:
    (run / "models" / "net_g_best.pth").unlink()
    (run / "models" / "net_g_12.pth").unlink()
    (run / "models" / "net_g_4.pth").unlink()
    path = run / "training_states" / "8.state"
    content = torch.load(path, weights_only=True)
    content["best"]["iteration"] = 4
    torch.save(content, path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    from atelier.files import sha256_of

    manifest["files"]["training_states/8.state"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    path.with_suffix(".json").write_text(json.dumps(manifest))
    train(small_run(run.parent), ["train.total_iter=12", *WORSE], quiet=True, auto_resume=True)
    assert "the best weights so far, of step 4, are in no file any more" in (run / "train.log").read_text()
    assert best_of(run)["iter"] == 12 and named_best(run) == "12"


def test_preflight_of_a_resume_changes_nothing(run: Path) -> None:
    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in run.parent.rglob("*") if path.is_file()}

    before = everything()
    longer = ["train.total_iter=14", f"cache.folder={run.parent / 'cache'}"]
    lines = look_ahead_of(
        small_run(run.parent), ["datasets.val.name=mine", *longer], auto_resume=True, quiet=True
    )
    assert any("datasets.val.name" in line for line in lines)
    assert not any("data: names, sizes" in line for line in lines)
    assert any(line.startswith("goes on after step 12: ") for line in lines)
    assert everything() == before
    with pytest.raises(UserError, match=r"manual_seed"):
        look_ahead_of(small_run(run.parent), ["manual_seed=9", *longer], auto_resume=True, quiet=True)
    look_ahead_of(
        small_run(run.parent), ["manual_seed=9", *longer], auto_resume=True, accept_changes=True, quiet=True
    )
    assert everything() == before


def test_pictures_of_a_run_that_is_set_aside_stay(run: Path) -> None:
    """Another run's checkpoint begins this one; the older run of this name is kept as it was."""
    second = Path(shutil.copytree(run, run.parent / "second"))
    before = shown(second)
    options = small_run(run.parent)
    options["datasets"]["val"]["pictures"] = ["astronaut"]
    train(options, ["name=second", "train.total_iter=12", state(run, 12)], quiet=True)
    (older,) = archives(run.parent)
    assert shown(older) == before and "chelsea_gt.png" in before


def test_pictures_of_a_refused_resume_stay_and_those_of_a_resume_go(run: Path) -> None:
    before = shown(run)
    options = small_run(run.parent)
    options["datasets"]["val"]["name"] = "mine"
    with pytest.raises(UserError, match=r"beyond train\.total_iter"):
        train(options, ["train.total_iter=8"], auto_resume=True, quiet=True)
    assert shown(run) == before
    train(options, ["train.total_iter=12"], auto_resume=True, quiet=True)
    assert [name for name in before if name not in shown(run)] == [
        "chelsea_bicubic.png",
        "chelsea_gt.png",
        "chelsea_lq.png",
    ]


def test_the_command_looks_ahead_with_its_flags(run: Path) -> None:
    file = run.parent / "run.yml"
    file.write_text(json.dumps(small_run(run.parent)))
    command = ["train", "-opt", str(file), "manual_seed=9", "train.total_iter=12", "--auto-resume"]
    refused = CliRunner().invoke(app, [*command, "--preflight"])
    assert isinstance(refused.exception, UserError) and "--accept-changes" in str(refused.exception)
    accepted = CliRunner().invoke(app, [*command, "--preflight", "--accept-changes"])
    assert accepted.exit_code == 0, accepted.output
    assert "goes on after step 12" in accepted.output and "nothing stands in the way" in accepted.output
    for mode in ("--debug", "--build-cache"):
        for flag in ("--auto-resume", "--accept-changes"):
            result = CliRunner().invoke(app, ["train", "-opt", str(file), mode, flag])
            assert isinstance(result.exception, UserError)
            assert f"{mode} resumes nothing, so {flag} means nothing" in str(result.exception)
