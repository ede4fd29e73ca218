"""Study files: what is read, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atelier.errors import UserError
from atelier.experiment.options import BudgetOptions, load_study
from studies import study_of


def refused(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_study(study_of(tmp_path, **changes))
    return str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    study = load_study(study_of(tmp_path))
    assert study.reference_arm == "none"
    assert list(study.metrics) == ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"]
    assert study.seeds_of("low") == [0, 1]
    assert study.is_paired("low", "none")
    assert study.primary.weights == "ema"
    assert study.min_effect == 0.01


def test_a_file_is_read_with_its_base_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text("name: base\n")
    file = tmp_path / "study.yml"
    file.write_text(
        "name: s\nbase: base.yml\nseeds: [1, 2]\narms:\n  none:\n  low: {train.optim_g.lr: 1e-5}\n"
        "test:\n  set: {gt: bundled, pictures: [camera], convert_channels: true}\n"
    )
    study = load_study(file)
    assert study.base == tmp_path / "base.yml"
    assert study.arms["low"].overrides == {"train.optim_g.lr": 1e-5}
    assert study.arms["none"].overrides == {}
    assert study.test["set"].dataroot_gt == "bundled"


def test_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    assert "did you mean 'contrasts'?" in refused(tmp_path, contrast=[["low", "none"]])
    assert "did you mean 'metric'?" in refused(tmp_path, primary={"metrik": "psnr_y"})
    assert "did you mean 'steps'?" in refused(tmp_path, budget={"step": 5})
    file = tmp_path / "study.yml"
    file.write_text("name: s\nbase: base.yml\nseedz: [1]\narms: {a: {}, b: {}}\ntest: {t: {gt: bundled}}\n")
    with pytest.raises(UserError, match=r"study.yml:3: seedz: unknown key.*did you mean 'seeds'"):
        load_study(file)


def test_a_runs_file_is_told_from_a_study_in_one_message(tmp_path: Path) -> None:
    file = tmp_path / "run.yml"
    file.write_text("name: x\nscale: 2\nnetwork_g: {type: SwinIR}\n")
    with pytest.raises(UserError) as caught:
        load_study(file)
    assert str(caught.value).startswith(f"{file}: one run's options, not a study")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "lwo"}, "did you mean 'low'"),
        ({"contrasts": [["low", "nnoe"]]}, "did you mean 'none'"),
        ({"contrasts": [["low", "low"]]}, "with itself"),
        ({"seeds": [1, 1]}, "seeds given twice: 1"),
        ({"arms": {"none": {}}}, "at least two arms"),
        ({"arms": {"none": {}, "a/b": {}}}, "given 'a/b'"),
        ({"arms": {"none": {}, "study": {}}}, "keeps its own files"),
        ({"primary": {"metric": "psnr_x"}}, "did you mean 'psnr_"),
        ({"budget": {"wall_time": "4 hours"}}, "4h"),
        ({"budget": {"wall_time": "4h", "steps": 3}}, "stands alone"),
        ({"min_effect": -1}, "min_effect"),
        ({"test": {}}, "test"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, **changes)


def test_wall_time_in_seconds() -> None:
    times = {"90s": 90.0, "30m": 1800.0, "1.5h": 5400.0, "2d": 172800.0}
    assert {text: BudgetOptions(wall_time=text).seconds for text in times} == times
    assert BudgetOptions(steps=5).seconds is None


def test_seeds_of_its_own_make_an_arm_unpaired(tmp_path: Path) -> None:
    study = load_study(
        study_of(tmp_path, arms={"none": {}, "again": {"seeds": [7, 8]}, "same": {"seeds": [0, 1]}})
    )
    assert not study.is_paired("again", "none")
    assert study.is_paired("same", "none")
    assert study.seeds_of("again") == [7, 8]
