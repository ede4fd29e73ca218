"""The six arms of the distillation study: KAIR's form and ours are one, and each leaves what the original leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atelier.errors import UserError
from atelier.options.read import load_run_options
from atelier.options.write import diff_options
from support import REPOSITORY
from test_shipped import bundled

FOLDER = REPOSITORY / "options" / "distill"
ARMS = sorted(FOLDER.glob("*.json"))


@pytest.fixture
def data_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that the files name, with one picture's name each: KAIR's form looks there for the names of pairs."""
    names = ("DIV2K/DIV2K_train_HR/0001.png", "DIV2K/DIV2K_train_LR_bicubic/X4/0001x4.png")
    names = tuple(f"trainsets/{name}" for name in names)
    for name in (*names, "testsets/Set5/HR/baby.png", "testsets/Set5/LR_bicubic/X4/babyx4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.chdir(tmp_path)


def test_there_are_six() -> None:
    names = ["feature_20k", "feature_500k", "feature_v2_20k", "none_20k", "none_500k", "response_20k"]
    assert [path.stem for path in ARMS] == names
    assert all(path.with_suffix(".yml").is_file() for path in ARMS)


@pytest.mark.usefixtures("data_beside")
@pytest.mark.parametrize("path", ARMS, ids=lambda path: path.stem)
def test_both_forms_are_equal(path: Path) -> None:
    kair, ours = (load_run_options(each) for each in (path, path.with_suffix(".yml")))
    assert diff_options(kair.model_dump(mode="json"), ours.model_dump(mode="json")) == []
    assert kair.objective == ours.objective


@pytest.mark.parametrize("path", ARMS, ids=lambda path: path.stem)
def test_the_studys_two_recipes(path: Path) -> None:
    """Crops, batch, rates, milestones and frequencies of its 20k and 500k files."""
    options = load_run_options(path.with_suffix(".yml"))
    train, data = options.train, options.datasets.train
    long = "500k" in path.stem
    assert train.total_iter == (500_000 if long else 20_000)
    assert (data.gt_size, data.batch_size_per_gpu, data.num_worker_per_gpu) == (
        (128, 32, 8) if long else (96, 32, 0)
    )
    marks = [250_000, 400_000, 450_000, 475_000] if long else [10_000, 16_000, 18_000, 19_000]
    assert train.scheduler.model_dump()["milestones"] == marks
    optimizer = train.optim_g.model_dump()
    assert (optimizer["type"], optimizer["lr"], optimizer["betas"], optimizer["weight_decay"]) == (
        "Adam",
        2e-4,
        (0.9, 0.999),
        0,
    )
    assert (train.ema_decay, train.grad_clip) == (0.999, None)
    rate = train.scheduler.build(2e-4, train.total_iter, train.warmup_iter)
    assert [rate(step) for step in (marks[0] - 1, marks[0], marks[3])] == [2e-4, 1e-4, 2e-4 / 16]
    kind = path.stem.partition("_")[0]
    assert options.objective.model_dump()["recipe"] == f"classic-{kind}@1"
    with torch.device("meta"):
        net = options.network_g.build()
    assert sum(each.numel() for each in net.parameters()) == 988_959


def test_a_missing_teacher_is_one_error_that_names_its_key(tmp_path: Path) -> None:
    from atelier.train.run import train

    path = FOLDER / "response_20k.json"
    changes = [each for each in bundled(path, tmp_path) if not each.startswith("distill.teacher.0.weights")]
    with pytest.raises(UserError) as told:
        train(path, changes, quiet=True)
    message = str(told.value)
    assert message.startswith(
        "distill.teacher[0].weights: model_zoo/001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth"
    )
    assert "distill.teacher.0.weights=" in message and "\n" not in message
    assert not (tmp_path / "swinir_student_x4_response_20k").exists()


@pytest.mark.parametrize("path", ARMS, ids=lambda path: path.stem)
def test_each_trains_and_leaves_the_originals_files(path: Path, tmp_path: Path) -> None:
    from atelier.train.run import train

    changes = [
        *bundled(path, tmp_path),
        "train.total_iter=20",
        "train.scheduler.milestones=[10]",
        "val.val_freq=20",
        "logger.print_freq=5",
        "logger.save_checkpoint_freq=20",
        "logger.use_tb_logger=false",
        "path.layout=kair",
        "datasets.val.middle=64",
    ]
    run = train(path, changes, quiet=True).folder
    written = {each.name for each in (run / "models").iterdir()}
    feature = "feature" in path.stem
    kairs = {"20_G.pth", "20_E.pth", "20_optimizerG.pth"} | ({"20_P.pth"} if feature else set())
    assert {name for name in written if name[0].isdigit()} == kairs
    assert ("net_p_20.pth" in written) == feature
    student = torch.load(run / "models/20_G.pth")
    assert ("extra_residual" in student) == ("v2" in path.stem)
    assert not any("term" in key or "project" in key for key in student)
    if feature:
        projectors = torch.load(run / "models/20_P.pth")
        assert list(projectors) == ["0.weight", "0.bias"]
        assert projectors["0.weight"].shape == (12, 8)
    terms = [
        "l_g_L1",
        *(["l_g_distill"] if path.stem[0] != "n" else []),
        *(["l_g_feature"] if feature else []),
    ]
    line = next(line for line in (run / "train.log").read_text().splitlines() if "iter:      20" in line)
    places = [line.index(f"{name}: ") for name in (*terms, "G_loss")]
    assert places == sorted(places)
    assert ("l_g_distill" in line) == ("l_g_distill" in terms)


def test_a_kair_run_begins_with_given_projectors(tmp_path: Path) -> None:
    """``pretrained_netP``: bare or under ``params``; a rate of 0 leaves them as they are."""
    from atelier.train.run import train

    given = {"0.weight": torch.full((12, 8), 0.25), "0.bias": torch.full((12,), -0.5)}
    torch.save(given, tmp_path / "P.pth")
    torch.save({"params": given}, tmp_path / "inner.pth")
    text = (FOLDER / "feature_20k.json").read_text()
    for name in ("P.pth", "inner.pth"):
        path = tmp_path / "run.json"
        path.write_text(text.replace('"pretrained_netP": null', f'"pretrained_netP": "{tmp_path / name}"'))
        changes = [
            *bundled(path, tmp_path),
            "train.total_iter=1",
            "train.scheduler.milestones=[1]",
            "train.scheduler.gamma=1e-20",
            "logger.use_tb_logger=false",
            "path.resume=never",
            "datasets.val.middle=64",
        ]
        run = train(path, changes, quiet=True).folder
        kept = torch.load(run / "models/net_p_1.pth")["params"]
        assert all(torch.equal(kept[key], value) for key, value in given.items())
