"""Caches of teachers that are filled ahead of a run: the run then asks no teacher, and is the same bit for bit."""

from __future__ import annotations

import html
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from atelier.archs import SRVGGNetCompact, save_weights
from atelier.cli.main import app
from atelier.errors import UserError
from atelier.evaluate.run_record import read_run
from atelier.objectives.distill.objective import DistillObjective
from atelier.objectives.distill.teacher import Teacher
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.train.building_caches import build_caches
from atelier.train.run import train
from support import small_run

TERMS: dict[str, Any] = {"response": {"weight": 0.5}, "upcycle": {"weight": 0.2}}


def run_of(root: Path, name: str, *overrides: str, source: str = "plan_cache", **distill: Any) -> RunOptions:
    file = root / "teacher.pth"
    if not file.exists():
        torch.manual_seed(5)
        net = SRVGGNetCompact(num_feat=6, num_conv=2, upscale=2)
        options = net.options.model_dump(mode="json", exclude={"type"})
        save_weights(file, {"params": net.state_dict()}, {"arch": net.options.type, "options": options})
    section = {
        "teacher": [{"weights": str(file), "source": source, "quality_check": "off"}],
        "cache": {"dir": str(root / "cache"), "format": "fp32"},
        "terms": TERMS,
        **distill,
    }
    run = small_run(root / "runs", objective="distill", distill=section, name=name)
    run["datasets"]["train"]["gt_size"] = 48
    del run["val"], run["datasets"]["val"]
    return load_run_options(run, overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(folder / "models/net_g_8.pth", weights_only=True)["params"]
    return content


def equal(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return all(torch.equal(left[name], right[name]) for name in left)


def shards(root: Path) -> list[Path]:
    return sorted((root / "cache").glob("*/*.bin"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples every forward pass of a teacher had."""
    counted: list[int] = []
    real = Teacher._run

    def counting(self: Teacher, lq: torch.Tensor) -> torch.Tensor:
        counted.append(len(lq))
        return real(self, lq)

    monkeypatch.setattr(Teacher, "_run", counting)
    return counted


@pytest.mark.parametrize("overrides", [(), ("train.accumulate=2", "train.precision=bf16")])
def test_after_building_no_teacher_is_called_and_the_run_is_the_same(
    overrides: tuple[str, ...], tmp_path: Path, calls: list[int]
) -> None:
    online = train(run_of(tmp_path, "online", *overrides, source="online"), quiet=True).folder
    said: list[str] = []
    assert build_caches(run_of(tmp_path, "built", *overrides), quiet=True, say=said.append) == 0
    assert not (tmp_path / "runs/built").exists()
    assert any("64 computed and stored" in line for line in said), said
    calls.clear()
    cached = train(run_of(tmp_path, "built", *overrides), quiet=True).folder
    assert "64 answers read, 0 computed" in (cached / "train.log").read_text()
    assert calls == []
    records = read_run(cached)
    folders = {each.parent for each in shards(tmp_path)}
    assert records.caches == {str(each): sum(f.stat().st_size for f in each.iterdir()) for each in folders}
    shares = [line["teacher_share"] for line in records.train]
    assert len(shares) == 3 and all(0 < share < 1 for share in shares)
    assert "Teacher's answers on disk" in html.unescape((cached / "report.html").read_text())
    assert equal(online, cached)


def test_what_no_step_needs_is_not_asked(tmp_path: Path) -> None:
    """Tiles of steps 1 to 3 are no part of any step where the term begins at 4; afterwards nothing is missing."""
    terms = {"response": {"weight": 0.5}, "upcycle": {"weight": {"value": 0.2, "start": 4}}}
    said: list[str] = []
    build_caches(run_of(tmp_path, "built", terms=terms), quiet=True, say=said.append)
    assert any("52 computed and stored" in line for line in said), said
    del said[:]
    build_caches(run_of(tmp_path, "built", terms=terms), quiet=True, say=said.append)
    assert not any("computed" in line for line in said), said
    log = train(run_of(tmp_path, "built", terms=terms), quiet=True).folder / "train.log"
    assert "52 answers read, 0 computed" in log.read_text()


def test_features_are_asked_for_anew_beside_stored_outputs(tmp_path: Path, calls: list[int]) -> None:
    feature = {"recipe": "feature@1", "terms": {}, "taps": {"student": ["body.0"], "teacher": ["body.0"]}}
    online = train(run_of(tmp_path, "online", source="online", **feature), quiet=True).folder
    calls.clear()
    build_caches(run_of(tmp_path, "built", **feature), quiet=True, say=lambda line: None)
    built = train(run_of(tmp_path, "built", **feature), quiet=True).folder
    assert "32 answers read, 0 computed" in (built / "train.log").read_text()
    assert equal(online, built)


def test_a_stopped_build_goes_on_where_it_stood(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = run_of(tmp_path, "built", recipe="classic-response@1", terms={})
    real, asked = DistillObjective.store, []

    def interrupted(self: DistillObjective, batch: Any, step: int) -> None:
        asked.append(step)
        real(self, batch, step)
        if step == 3 and len(asked) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(DistillObjective, "store", interrupted)
    said: list[str] = []
    assert build_caches(options, quiet=True, say=said.append) == 130
    assert said[-1] == "plan cache: 38% of 8 steps is there; Ctrl-C: stopped, the same command goes on"
    assert build_caches(options, quiet=True, say=said.append) == 0
    assert asked == [1, 2, 3, 4, 5, 6, 7, 8]
    assert said[-1] == "plan cache: 100% of 8 steps is there"
    whole = [path.read_bytes() for path in shards(tmp_path)]
    # A third time there is nothing to do; a damaged file is named and made anew.
    assert build_caches(options, quiet=True, say=said.append) == 0 and len(asked) == 8
    path = shards(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert build_caches(options, quiet=True, say=said.append) == 0 and len(asked) == 16
    assert any(f"{path} is damaged" in line for line in said)
    assert [each.read_bytes() for each in shards(tmp_path)] == whole


def test_what_cannot_be_built_is_one_message_before_anything_is_computed(
    tmp_path: Path, calls: list[int]
) -> None:
    with pytest.raises(UserError, match=r"no teacher with source: plan_cache; distill\.teacher\.0\.source"):
        build_caches(run_of(tmp_path, "a", source="online"), quiet=True)
    with pytest.raises(UserError, match="no teacher with source: plan_cache"):
        build_caches(load_run_options(small_run(tmp_path)), quiet=True)
    features = {"feature": {"projector": {"type": "linear"}}}
    taps = {"student": ["body.0"], "teacher": ["body.0"]}
    with pytest.raises(UserError, match="asks its teacher for anything that is stored"):
        build_caches(run_of(tmp_path, "a", terms=features, taps=taps), quiet=True)
    cache = {"dir": str(tmp_path / "cache"), "max_gb": 1e-6}
    with pytest.raises(UserError, match=r"more than distill\.cache\.max_gb"):
        build_caches(run_of(tmp_path, "a", cache=cache), quiet=True)
    assert calls == [] and not (tmp_path / "cache").exists()


def test_the_command(tmp_path: Path) -> None:
    options = run_of(tmp_path, "built", recipe="classic-response@1", terms={})
    file = tmp_path / "run.yml"
    file.write_text(json.dumps(options.model_dump(mode="json")))
    result = CliRunner().invoke(app, ["train", "-opt", str(file), "--build-cache"])
    assert result.exit_code == 0, result.output
    assert "plan cache: 100% of 8 steps is there" in result.stdout
    assert shards(tmp_path) and not (tmp_path / "runs").exists()
    both = CliRunner().invoke(app, ["train", "-opt", str(file), "--build-cache", "--preflight"])
    assert isinstance(both.exception, UserError) and "give one" in str(both.exception)
