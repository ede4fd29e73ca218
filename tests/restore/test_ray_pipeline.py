"""Archives through Ray Data: a local Ray with two workers, one of which is killed in the middle."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.errors import RunStopped, UserError
from atelier.images import read_image, write_image
from atelier.restore import ray_pipeline
from atelier.restore.folder import Job, plan_jobs
from atelier.restore.ray_pipeline import MANIFEST, Worker, restore_with_ray
from atelier.restore.recipe import Recipe

COUNT = 48


@pytest.fixture
def home(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = SRVGGNetCompactOptions(type="SRVGGNetCompact", num_feat=8, num_conv=2, upscale=2).build()
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    return tmp_path


def jobs_of(home: Path, count: int) -> list[Job]:
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        write_image(home / "in" / f"{index:02}.png", noise)
    return plan_jobs(home / "in", home / "out")


def batch(jobs: list[Job]) -> dict[str, Any]:
    return {
        "index": np.arange(len(jobs)),
        "source": np.array([str(job.source) for job in jobs]),
        "target": np.array([str(job.target) for job in jobs]),
    }


def test_a_batch_that_comes_again_repeats_nothing(home: Path) -> None:
    jobs = jobs_of(home, 3)
    jobs[1].source.write_bytes(b"torn")
    worker = Worker(Recipe(home / "net.pth", device="cpu"), 0.0)
    first = worker(batch(jobs))
    assert list(first["state"]) == ["done", "failed", "done"]
    assert "cannot" in first["reason"][1] or "read" in first["reason"][1]
    before = jobs[0].target.stat().st_mtime_ns
    assert list(worker(batch(jobs))["state"]) == ["skipped", "failed", "skipped"]
    assert jobs[0].target.stat().st_mtime_ns == before
    # --overwrite: older than the run counts as not done.
    later = Worker(Recipe(home / "net.pth", device="cpu"), jobs[0].target.stat().st_mtime + 0.001)
    assert list(later(batch(jobs[:1]))["state"]) == ["done"]


def test_what_stops_everything_is_a_row(home: Path) -> None:
    jobs = jobs_of(home, 2)
    rows = Worker(Recipe(home / "missing.pth", device="cpu"), 0.0)(batch(jobs))
    assert list(rows["state"]) == ["stop", "stop"] and "missing.pth" in rows["reason"][0]


def test_without_ray_or_with_one_gpu_for_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    jobs = jobs_of(home, 1)
    recipe = Recipe(home / "net.pth", device="cpu")
    with pytest.raises(UserError, match=r"--engine ray needs Ray: pip install 'atelier\[ray\]'"):
        restore_with_ray(recipe, jobs, home / "out")
    with pytest.raises(UserError, match="cuda:1 would be shared by all workers"):
        restore_with_ray(replace(recipe, device="cuda:1"), jobs, home / "out")


def test_the_manifest_keeps_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    done = {"source": "a", "target": "A", "state": "done"}
    failed = {"source": "b", "target": "B", "state": "failed", "reason": "torn"}
    path.write_text(f'{json.dumps(done)}\n{json.dumps(failed)}\n{{"source": "c", "tar')
    with ray_pipeline._ledger(path, False) as (file, noted):
        assert noted == {"A"}
        ray_pipeline._note(file, Job(tmp_path / "d", tmp_path / "D"), "done", "")
    assert [json.loads(line)["target"] for line in path.read_text().splitlines()] == [
        "A",
        str(tmp_path / "D"),
    ]
    path.write_text("no manifest\n" + json.dumps(done) + "\n")
    with (
        pytest.raises(UserError, match=r"restored.jsonl, line 1: no line of a manifest"),
        ray_pipeline._ledger(path, False),
    ):
        pass
    with ray_pipeline._ledger(path, True) as (_, noted):
        assert noted == set()


KILLED = """
import os, signal, time
from pathlib import Path
from atelier.restore import folder
from atelier.restore.model import RestorationModel
home, real, write, count = Path({home!r}), RestorationModel.restore, folder.write_image, 0
def restore(self, image, **options):
    global count
    count += 1
    time.sleep(0.1)
    if count == 7 and not (home / "killed").exists():
        (home / "killed").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, image, **options)
def written(path, pixels, **options):
    write(path, pixels, **options)
    with (home / "written").open("a") as file:
        file.write(f"{{path.name}} {{os.getpid()}}\\n")
RestorationModel.restore, folder.write_image = restore, written
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'atelier[ray]')")
def test_a_killed_worker_loses_nothing_and_repeats_nothing(home: Path) -> None:
    jobs = jobs_of(home, COUNT)
    (home / "deadly.py").write_text(KILLED.format(home=str(home)))
    recipe = Recipe(home / "net.pth", device="cpu", plugins=("deadly",), places=(str(home),))
    from atelier.restore import folder
    from atelier.restore.model import RestorationModel

    before = RestorationModel.restore, folder.write_image
    try:
        report = restore_with_ray(recipe, jobs, home / "out", workers=2, quiet=True)
    finally:
        # The driver has opened the model too, and with it the plugin.
        RestorationModel.restore, folder.write_image = before  # type: ignore[method-assign]
        sys.modules.pop("deadly", None)
        sys.path.remove(str(home))
    assert (home / "killed").exists(), "nobody was killed"
    # What the killed worker had finished of its block is found done when the block runs again.
    assert report.done + report.skipped == COUNT and not report.failed
    rows = [line.split() for line in (home / "written").read_text().splitlines()]
    names = [name for name, _ in rows]
    assert len(set(names)) == COUNT
    # A worker can die between a file's rename and its line in this test's list, never the other way round.
    assert len(names) == COUNT
    assert len({pid for _, pid in rows}) == 3, "two workers and the one in place of the killed one"
    assert sorted(path.name for path in (home / "out").glob("*.png")) == sorted(
        job.target.name for job in jobs
    )
    lines = [json.loads(line) for line in (home / "out" / MANIFEST).read_text().splitlines()]
    assert sorted(line["target"] for line in lines) == sorted(str(job.target) for job in jobs)
    assert {line["state"] for line in lines} == {"done"}
    plain = Recipe(home / "net.pth", device="cpu")
    alone = plain.bind(plain.load())(read_image(jobs[5].source).pixels, lambda done, total: None)
    assert np.array_equal(read_image(jobs[5].target).pixels, alone)
    # A model that cannot be used is told before Ray starts.
    with pytest.raises(UserError, match=r"missing\.pth"):
        restore_with_ray(replace(plain, weights=home / "missing.pth"), jobs, home / "out")
    # The same command again has nothing to do, and adds no line.
    again = restore_with_ray(plain, jobs, home / "out", workers=2, quiet=True)
    assert (again.done, again.skipped) == (0, COUNT)
    assert len((home / "out" / MANIFEST).read_text().splitlines()) == COUNT


def test_the_result_may_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is beside it; a folder of the result's name would count as the result."""
    from contextlib import nullcontext

    jobs_of(home, 1)
    output = home / "named" / "one.png"
    jobs = plan_jobs(home / "in" / "00.png", output)
    recipe = Recipe(home / "net.pth", device="cpu")
    monkeypatch.setattr(ray_pipeline, "_ray", lambda: None)
    monkeypatch.setattr(ray_pipeline, "_session", lambda ray, workers: nullcontext())
    monkeypatch.setattr(ray_pipeline, "_pipeline", lambda ray, recipe, jobs, workers, since: jobs)

    def rows(ray: None, jobs: list[Job]) -> Any:
        made = Worker(recipe, 0.0)(batch(jobs))
        return zip(made["index"], made["state"], made["reason"], strict=True)

    monkeypatch.setattr(ray_pipeline, "_rows", rows)
    report = restore_with_ray(recipe, jobs, output, quiet=True)
    assert (report.done, report.skipped, report.failed) == (1, 0, [])
    assert read_image(output).pixels.shape == (40, 48, 3)
    assert sorted(path.name for path in output.parent.iterdir()) == ["one.png", MANIFEST]
    assert restore_with_ray(recipe, jobs, output, quiet=True).skipped == 1


def test_rows_that_ray_loses_or_brings_twice_are_noticed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    jobs = jobs_of(home, 3)
    recipe = Recipe(home / "net.pth", device="cpu")
    monkeypatch.setattr(ray_pipeline, "_ray", lambda: None)
    monkeypatch.setattr(ray_pipeline, "_session", lambda ray, workers: nullcontext())
    monkeypatch.setattr(ray_pipeline, "_pipeline", lambda *given: None)
    for rows, message in (
        ([(0, "done", ""), (2, "done", "")], "brought nothing of 1 pictures, such as .*01.png"),
        ([(0, "done", ""), (0, "done", "")], "brought .*00.png twice"),
        ([(0, "done", ""), (1, "stop", "the disk is full")], "the disk is full; 1 of 3 are complete"),
    ):
        monkeypatch.setattr(ray_pipeline, "_rows", lambda ray, results, rows=rows: iter(rows))
        with pytest.raises(RunStopped, match=message):
            restore_with_ray(recipe, jobs, home / "out", quiet=True)
