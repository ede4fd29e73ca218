"""Studies that are run: results, verdicts, resuming, edited arms, failing arms, crashes."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from atelier.errors import UserError
from atelier.experiment import run
from atelier.experiment.manifest import Manifest
from atelier.experiment.options import load_study
from atelier.experiment.plan import make_plan
from atelier.experiment.runner import Runner
from atelier.experiment.study import StudyResult
from atelier.locks import RunLock
from studies import study_of, write_base

ARMS: dict[str, Any] = {"none": {}, "same": None, "low": {"train.optim_g.lr": 1e-6}}
FILES = ("results.csv", "summary.csv", "study.json", "report.md")


def said(root: Path, **changes: Any) -> tuple[StudyResult, list[str]]:
    lines: list[str] = []
    keys = ("report_only", "only", "restart", "jobs", "dry_run")
    flags = {key: changes.pop(key) for key in keys if key in changes}
    return run(study_of(root, **changes), say=lines.append, **flags), lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three arms and two seeds, done."""
    root = tmp_path_factory.mktemp("study")
    write_base(root, train={"total_iter": 8, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0.9})
    result, _ = said(root, arms=ARMS)
    assert result.complete and result.exit_code == 0
    return root


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study to go on with."""
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    base = yaml.safe_load((root / "base.yml").read_text())
    base["path"]["experiments_root"] = str(root / "experiments")
    (root / "base.yml").write_text(yaml.safe_dump(base))
    return root


def told(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "experiments" / "lr" / "study.json").read_text()))


def files(root: Path) -> dict[str, bytes]:
    return {name: (root / "experiments" / "lr" / name).read_bytes() for name in FILES}


def states(root: Path) -> dict[str, str]:
    runs = json.loads((root / "experiments" / "lr" / "study" / "manifest.json").read_text())["runs"]
    return {key: entry["state"] for key, entry in runs.items()}


def test_the_same_arm_twice_is_identical_and_the_crippled_one_is_not(finished: Path) -> None:
    arms = {arm["name"]: arm for arm in told(finished)["arms"]}
    assert arms["none"]["verdict"] is None
    assert arms["same"]["verdict"] == "identical"
    assert arms["low"]["verdict"] in {"worse", "not distinguishable"}
    compared = arms["low"]["comparison"]["all"]["psnr_y"]
    scores = {name: arms[name]["scores"]["all"]["psnr_y"] for name in ("none", "low")}
    differences = [scores["low"][seed] - scores["none"][seed] for seed in ("0", "1")]
    assert compared["mean"] == pytest.approx(sum(differences) / 2)
    assert compared["n"] == 2 and compared["paired"]


def test_every_picture_of_every_run_is_in_the_table(finished: Path) -> None:
    with (finished / "experiments" / "lr" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["arm", "seed", "step", "set", "image", "metric", "value"]
    tests = [row for row in rows if row["set"] in {"cat", "grey"}]
    assert len(tests) == 3 * 2 * 3 * 4  # arms, seeds, pictures, metrics
    assert {row["step"] for row in tests} == {"8"}
    steps = {row["step"] for row in rows if row["set"] == "val"}
    assert steps == {"4", "8"}
    # The mean over pictures, then over sets, is what the study reports.
    values = {
        name: [
            float(r["value"])
            for r in tests
            if (r["arm"], r["seed"], r["set"], r["metric"]) == ("low", "1", name, "psnr_y")
        ]
        for name in ("cat", "grey")
    }
    expected = (values["cat"][0] + sum(values["grey"]) / 2) / 2
    low = next(arm for arm in told(finished)["arms"] if arm["name"] == "low")
    assert low["scores"]["all"]["psnr_y"]["1"] == pytest.approx(expected, abs=1e-12)


def test_the_tests_measure_the_averaged_network_of_the_last_step(finished: Path) -> None:
    from atelier.archs.load import load_network
    from atelier.data.validation import ValidationSet
    from atelier.metrics import psnr
    from atelier.restore import load_model

    plan = make_plan(load_study(study_of(finished, arms=ARMS)))
    file = plan.run_of("low", 0).folder / "models" / "net_g_8.pth"
    assert load_network(file).report.param_key == "params_ema"
    pair = ValidationSet(
        plan.study.test["cat"],
        scale=2,
        degradation=plan.reference.options.effective_degradation.build(2),
        seed=0,
        in_channels=3,
    )[0]
    restored = load_model(file, device="cpu").restore(pair.lq)
    low = next(arm for arm in told(finished)["arms"] if arm["name"] == "low")
    expected = psnr(restored, pair.gt, crop_border=2, y=True)
    assert low["scores"]["cat"]["psnr_y"]["0"] == pytest.approx(expected, abs=1e-9)


def test_curves_and_costs_are_there_for_a_report(finished: Path) -> None:
    low = next(arm for arm in told(finished)["arms"] if arm["name"] == "low")
    curves = low["curves"]["1"]
    assert [step for step, _ in curves["validation"]["val"]["psnr"]] == [4, 8]
    assert curves["train"]["step"] == [3, 6, 8]
    assert len(curves["train"]["losses"]["l_g_pix"]) == 3
    assert low["cost"]["parameters"] == 9 * (3 * 8 + 2 * 64 + 8 * 12) + 8 + 2 * 8 + 12 + 3 * 8
    assert low["cost"]["macs"]["64x64"] == 64 * 64 * 9 * (3 * 8 + 2 * 64 + 8 * 12)
    assert low["cost"]["step_seconds"] > 0


def test_the_report_begins_with_the_verdicts(finished: Path) -> None:
    text = (finished / "experiments" / "lr" / "report.md").read_text()
    assert "| **identical** | +0.000 dB |" in text
    assert text.index("## Verdicts") < text.index("## Test sets")
    assert "about these images, not about another training" in text
    assert "Incomplete" not in text


@pytest.mark.parametrize("flag", ["only", "restart"])
def test_a_report_alone_trains_no_arm(study: Path, flag: str) -> None:
    with pytest.raises(UserError, match=f"--{flag} low: --report-only trains nothing"):
        said(study, arms=ARMS, report_only=True, **{flag: ["low"]})


def test_a_report_alone_is_the_same_report(study: Path) -> None:
    said(study, arms=ARMS, report_only=True)
    before = files(study)
    for name in FILES:
        (study / "experiments" / "lr" / name).unlink()
    said(study, arms=ARMS, report_only=True)
    assert files(study) == before


def test_starting_again_does_nothing_twice(study: Path) -> None:
    _, lines = said(study, arms=ARMS)
    assert not any("started" in line for line in lines)


def test_a_lost_result_is_measured_again_and_not_trained(study: Path) -> None:
    path = study / "experiments" / "lr" / "low" / "seed_1" / "result.json"
    before = path.read_bytes()
    path.unlink()
    _, lines = said(study, arms=ARMS)
    assert path.read_bytes() == before
    assert not any("started" in line for line in lines)


def test_an_edited_arm_is_refused_by_name_and_trained_anew_on_request(study: Path) -> None:
    edited = {**ARMS, "low": {"train.optim_g.lr": 2e-6}}
    with pytest.raises(UserError, match=r"arm 'low'.*\n.*lr: 1\.?0?e-06 -> 2e-06\n.*--restart low"):
        said(study, arms=edited)
    result, lines = said(study, arms=edited, restart=["low"])
    assert result.complete
    assert {line.split(":")[0] for line in lines if line.endswith("started")} == {"low/seed_0", "low/seed_1"}
    assert list((study / "experiments" / "lr" / "low").glob("seed_0_archived_*"))


def under_an_older_version(root: Path) -> None:
    """As if the study had been run when one option that stands at its default did not exist yet."""
    own = root / "experiments" / "lr"
    manifest = own / "study" / "manifest.json"
    data = json.loads(manifest.read_text())
    for key, entry in data["runs"].items():
        entry["digest"] = "0" * 32
        result = own / key / "result.json"
        result.write_text(json.dumps(json.loads(result.read_text()) | {"digest": "0" * 32}))
    manifest.write_text(json.dumps(data))


def test_a_study_of_an_older_version_is_recognised(study: Path) -> None:
    said(study, arms=ARMS, report_only=True)
    before = files(study)["results.csv"]
    under_an_older_version(study)
    said(study, arms=ARMS, report_only=True)
    assert files(study)["results.csv"] == before
    _, lines = said(study, arms=ARMS)
    assert not any("started" in line for line in lines)


def test_a_report_alone_never_writes_over_results_of_other_options(study: Path) -> None:
    before = files(study)
    with pytest.raises(UserError, match=r"arm 'low' is not what it was"):
        said(study, arms={**ARMS, "low": {"train.optim_g.lr": 2e-6}}, report_only=True)
    assert files(study) == before


def test_what_judges_is_fixed_beforehand(study: Path) -> None:
    changed = {"cat": {"gt": "bundled", "pictures": ["chelsea"], "middle": 40}}
    with pytest.raises(UserError, match="what judges is fixed"):
        said(study, arms=ARMS, test=changed)


def test_weights_and_pictures_stay_what_they_were(study: Path) -> None:
    manifest = Manifest(study / "experiments" / "lr" / "study")
    with manifest.edit() as data:
        data["data"]["datasets.train"] = "another"
    with pytest.raises(UserError, match=r"datasets\.train: not what it was"):
        said(study, arms=ARMS)


def test_another_teacher_under_the_same_name_is_refused(study: Path) -> None:
    start = study / "start.pth"
    runs = study / "experiments" / "lr" / "none"
    shutil.copy(runs / "seed_0" / "models" / "net_g_8.pth", start)
    changes: dict[str, Any] = {"arms": {**ARMS, "warm": {"path.pretrain_network_g": str(start)}}}
    assert said(study, **changes)[0].complete
    shutil.copy(runs / "seed_1" / "models" / "net_g_8.pth", start)
    with pytest.raises(UserError, match=r"weights .*start\.pth: not what it was"):
        said(study, **changes)


def test_what_changed_after_results_is_in_the_report(study: Path) -> None:
    said(study, arms=ARMS, min_effect=0.5)
    assert any("min_effect: 0.01 -> 0.5" in note for note in told(study)["notes"])


def test_contrasts_added_later_are_told_also_by_a_report_alone(study: Path) -> None:
    """Once results could be seen, a comparison is no planned one, however the report is made."""
    pairs = [["low", "none"]]
    run(study_of(study, arms=ARMS, contrasts=pairs), report_only=True, say=lambda line: None)
    written = told(study)
    assert [each["planned"] for each in written["contrasts"]] == [False]
    notes = [note for note in written["notes"] if "contrasts" in note]
    assert len(notes) == 1 and notes[0].startswith("changed after")
    folder = study / "experiments" / "lr"
    assert "low against none (added later)" in (folder / "report.md").read_text()
    assert "added after results could be seen" in (folder / "report.html").read_text()
    # Told once, and still told by the next report.
    run(study_of(study, arms=ARMS, contrasts=pairs), report_only=True, say=lambda line: None)
    assert [note for note in told(study)["notes"] if "contrasts" in note] == notes
    assert not told(study)["contrasts"][0]["planned"]


def test_a_failing_arm_is_tried_twice_and_stops_nobody(study: Path) -> None:
    arms = {
        "bad": {"path.pretrain_network_g": str(study / "missing.pth")},
        **ARMS,
        "late": {"train.optim_g.lr": 2e-3},
    }
    changes = {"arms": arms, "seeds": [0, 1], "reference": "none"}
    result, lines = said(study, **changes)
    assert result.exit_code == 1 and not result.complete
    assert sum(line.startswith("bad/seed_0: started") for line in lines) == 2
    assert states(study)["bad/seed_1"] == "failed"
    assert states(study)["late/seed_1"] == "done"
    missing = told(study)["missing"]
    assert [each["run"] for each in missing] == ["bad/seed_0", "bad/seed_1"]
    assert "missing.pth" in missing[0]["error"]
    assert "**Incomplete.**" in (study / "experiments" / "lr" / "report.md").read_text()
    assert next(arm for arm in told(study)["arms"] if arm["name"] == "bad")["verdict"] == "no claim"
    # Another start gives what had failed one more try.
    _, lines = said(study, **changes)
    assert [line for line in lines if line.endswith("started")] == [
        "bad/seed_0: started",
        "bad/seed_1: started",
    ]


def test_one_seed_makes_no_claim(study: Path) -> None:
    result, _ = said(study, arms=ARMS, seeds=[0], report_only=True)
    assert {arm: result.verdict(arm) for arm in ARMS} == {"none": None, "same": "no claim", "low": "no claim"}
    assert "**No claim**" in (study / "experiments" / "lr" / "report.md").read_text()


def test_results_of_different_protocols_are_refused(study: Path) -> None:
    path = study / "experiments" / "lr" / "low" / "seed_1" / "result.json"
    path.write_text(path.read_text().replace("crop 2", "crop 4"))
    with pytest.raises(UserError, match=r"cannot be compared"):
        said(study, arms=ARMS, report_only=True)


def test_the_gap_to_a_teacher_in_the_same_protocol(study: Path) -> None:
    teacher = study / "experiments" / "lr" / "none" / "seed_0" / "models" / "net_g_8.pth"
    result, _ = said(study, arms=ARMS, teacher=str(teacher), report_only=True)
    assert result.study is not None
    low = next(arm for arm in result.study["arms"] if arm["name"] == "low")
    means = result.study["teachers"][str(teacher)]["means"]
    reference = result.study["arms"][0]
    assert means["all"]["psnr_y"] == pytest.approx(reference["scores"]["all"]["psnr_y"]["0"])
    base = reference["summary"]["all"]["psnr_y"]["mean"]
    gap = means["all"]["psnr_y"] - base
    expected = 100 * low["comparison"]["all"]["psnr_y"]["mean"] / gap if gap > 0 else None
    assert low["gap_closed"]["all"]["psnr_y"] == (pytest.approx(expected) if expected is not None else None)


def test_a_run_in_other_hands_is_left_alone_until_they_let_go(study: Path) -> None:
    plan = make_plan(load_study(study_of(study, arms=ARMS)))
    manifest = Manifest(plan.own)
    manifest.set_run("low/seed_1", state="running")
    (plan.run_of("low", 1).folder / "result.json").unlink()
    lock = RunLock.take(manifest.lock_path("low/seed_1"))
    assert lock is not None
    assert RunLock.take(manifest.lock_path("low/seed_1")) is None
    lines: list[str] = []
    runner = Runner(plan, manifest, [None], 1, say=lines.append)
    assert runner._round() and runner._round()
    assert lines == [f"low/seed_1: in the hands of process {os.getpid()} on {os.uname().nodename}"]
    lock.release()
    runner.go()
    assert states(study)["low/seed_1"] == "done"


def test_a_lock_is_held_by_the_process_that_inherited_it(tmp_path: Path) -> None:
    lock = RunLock.take(tmp_path / "lock")
    assert lock is not None
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor]
    )
    lock.release()
    assert RunLock.take(tmp_path / "lock") is None
    sleeper.kill()
    sleeper.wait()
    again = RunLock.take(tmp_path / "lock")
    assert again is not None
    again.release()


def test_a_torn_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"runs": ')
    with pytest.raises(UserError, match=r"manifest\.json is no manifest"):
        Manifest(tmp_path).read()


def test_an_unknown_arm_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'low'"):
        said(tmp_path, only=["lwo"])


def test_a_dry_run_trains_nothing_and_tells_the_cost(tmp_path: Path) -> None:
    result, lines = said(tmp_path, dry_run=True)
    text = "\n".join(lines)
    assert "4 runs, reference 'none'" in text
    assert "train.optim_g.lr: 0.001 -> 1e-05" in text
    assert "none/seed_0 (pending), low/seed_0 (pending), none/seed_1" in text
    assert "s of training in turn, starts, validation and saving not counted" in text
    assert not (tmp_path / "experiments" / "lr").exists()
    assert result.exit_code == 0


def runner_process(root: Path, file: Path) -> subprocess.Popen[bytes]:
    log = (root / "runner.log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "atelier", "experiment", str(file)],
        stdout=log,
        stderr=log,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def trained_by(root: Path) -> list[int]:
    """Process ids that the locks of running runs name."""
    locks = (root / "experiments" / "lr" / "study" / "locks").glob("*.lock")
    return [json.loads(lock.read_text())["pid"] for lock in locks if RunLock.take(lock) is None]


def progress(root: Path) -> int:
    """Bytes that the runs have recorded."""
    return sum(path.stat().st_size for path in (root / "experiments" / "lr").glob("*/seed_*/metrics.jsonl"))


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """kill -9 of the runner, of its children, of both; two runners at once; the same table byte for byte."""
    train = {"total_iter": 3000, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0.9}
    logger = {"print_freq": 20, "save_checkpoint_freq": 20, "use_tb_logger": False}
    roots = [tmp_path / "whole", tmp_path / "killed"]
    for root in roots:
        root.mkdir()
        write_base(root, train=train, logger=logger, val={"val_freq": 500})
        (root / "study.yml").write_text(yaml.safe_dump(study_of(root)))
    assert runner_process(roots[0], roots[0] / "study.yml").wait() == 0
    chance = random.Random(5)
    killed = roots[1]
    for turn in range(7):
        before = progress(killed)
        runner = runner_process(killed, killed / "study.yml")
        deadline = time.monotonic() + 120
        # Except for the first turn, which strikes while everything begins, a run is under way.
        while turn and progress(killed) == before and runner.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(chance.uniform(0.0, 2.0))
        if turn % 3 != 1:  # else the training process goes on without its runner
            for pid in trained_by(killed):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if turn % 3 == 2:  # the runner sees its process die and begins it again
            time.sleep(chance.uniform(0.5, 3))
        runner.kill()
        runner.wait()
    both = [runner_process(killed, killed / "study.yml") for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    log = (killed / "runner.log").read_text()
    assert "from step" in log and "in the hands of" in log
    results = [(root / "experiments" / "lr" / "results.csv").read_bytes() for root in roots]
    assert results[0] == results[1]
    summaries = [(root / "experiments" / "lr" / "summary.csv").read_bytes() for root in roots]
    assert summaries[0] == summaries[1]
