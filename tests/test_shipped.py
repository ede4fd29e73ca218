"""Every option file that ships is checked and run; the README's commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atelier.options.read import load_run_options
from support import REPOSITORY

FILES = sorted((REPOSITORY / "options").rglob("*.yml"))


def bundled(options_file: Path, root: Path) -> list[str]:
    """Overrides that point a shipped file at the bundled photographs and make its networks small enough for a test."""
    options = load_run_options(options_file)
    grey = options.network_g.in_channels == 1
    train = "[camera, moon]" if grey else "[coffee, rocket]"
    val = "[coins]" if grey else "[chelsea]"
    overrides = [
        f"path.experiments_root={root}",
        "datasets.train.dataroot_gt=bundled",
        "datasets.val.dataroot_gt=bundled",
        f"datasets.train.pictures={train}",
        f"datasets.val.pictures={val}",
        "datasets.train.batch_size_per_gpu=2",
        f"datasets.train.gt_size={16 * options.scale}",
        "datasets.train.num_worker_per_gpu=0",
        "val.tile=64",
    ]
    for part in ("train", "val"):
        if getattr(options.datasets, part).dataroot_lq is not None:
            overrides += [f"datasets.{part}.dataroot_lq=~", f"datasets.{part}.filename_tmpl='{{}}'"]
    if options.network_g.type == "SwinIR":
        overrides += ["network_g.embed_dim=12", "network_g.depths=[2]", "network_g.num_heads=[2]"]
    return overrides


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_option_file_runs(path: Path, tmp_path: Path) -> None:
    from atelier.train.debug import debug_run

    text = debug_run(load_run_options(path, bundled(path, tmp_path)))
    assert "resumes" in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_option_file_has_no_warnings(path: Path) -> None:
    assert load_run_options(path).warnings() == []


def test_readme_names_only_commands_that_exist() -> None:
    from typer.main import get_command

    from atelier.cli.main import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"^\s*atelier ([a-z-]+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert named
    assert named <= set(commands)


def test_readme_names_only_files_that_exist() -> None:
    text = (REPOSITORY / "README.md").read_text()
    for name in re.findall(r"options/[\w/]+\.yml", text):
        assert (REPOSITORY / name).exists(), name


@pytest.mark.slow
def test_the_demo_beats_bicubic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atelier.demo import run_demo

    monkeypatch.chdir(tmp_path)
    result = run_demo()
    assert result.exit_code == 0, result.text
    assert (tmp_path / "experiments/demo/restored/astronaut_x2.png").exists()


def test_the_demo_says_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atelier.demo import run_demo

    monkeypatch.chdir(tmp_path)
    result = run_demo(["train.total_iter=2", "val.val_freq=2", "logger.use_tb_logger=false"])
    assert result.exit_code == 1
    assert "FAILED: the trained model does not beat bicubic on: astronaut, chelsea" in result.text
