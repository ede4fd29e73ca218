"""Pictures and films shared out over processes: one report, nothing twice, a dead process named, restarts go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.errors import RunStopped, UserError
from atelier.images import write_image
from atelier.ranks import Crew, Place
from atelier.restore import memory
from atelier.restore.folder import FolderReport, plan_jobs
from atelier.restore.memory import free_memory
from atelier.restore.sharing import device_of_process, restore_shared
from atelier.restore.video import FilmJob, plan_films
from support import free_port, start_command

Pixels = np.ndarray[Any, Any]


def pictures(root: Path, count: int) -> Path:
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        write_image(root / "in" / f"{index}.png", noise)
    return root / "in"


def crews(world: int) -> list[Crew]:
    from torch.distributed import HashStore

    store = HashStore()
    return [Crew(Place(rank, world, rank), store) for rank in range(world)]


def together(work: Callable[[Crew], Any], world: int = 2) -> list[Any]:
    """What ``work`` gives, or raises, in each of some processes (threads here, which share nothing but the store)."""
    results: list[Any] = [None] * world

    def one(crew: Crew) -> None:
        try:
            results[crew.place.rank] = work(crew)
        except UserError as error:
            results[crew.place.rank] = error

    threads = [threading.Thread(target=one, args=(crew,)) for crew in crews(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_each_picture_and_film_is_restored_once_and_reported_once(tmp_path: Path) -> None:
    source = pictures(tmp_path, 7)
    (source / "broken.png").write_bytes(b"no picture")
    jobs = plan_jobs(source, tmp_path / "out")
    write_image(jobs[2].target, np.zeros((4, 4, 3), np.uint8))  # done already
    films = [FilmJob(str(tmp_path / f"{name}.mp4"), str(tmp_path / f"{name}_out.mp4")) for name in "ab"]
    seen: list[int] = []
    filmed: list[str] = []
    begun = threading.Barrier(2, timeout=30)

    def restore(pixels: Pixels, on_tile: Any) -> Pixels:
        seen.append(int(pixels.sum()))
        if len(seen) <= 2:
            begun.wait()  # both have one: neither is idle
        return pixels

    def film(job: FilmJob) -> None:
        filmed.append(job.source)
        begun.wait()
        if job.source.endswith("b.mp4"):
            raise UserError("no frames in it")

    reports = together(lambda crew: restore_shared(restore, jobs, films, film, crew, quiet=True))
    assert reports[1] is None
    report = reports[0]
    assert isinstance(report, FolderReport), report
    assert (report.done, report.skipped) == (6 + 1, 1)
    assert [path.name for path, _ in report.failed] == ["b.mp4", "broken.png"]
    assert sorted(filmed) == [film.source for film in films]
    assert len(seen) == len(set(seen)) == 6
    assert len(list((tmp_path / "out").iterdir())) == 7


def test_processes_that_plan_other_work_stop(tmp_path: Path) -> None:
    jobs = plan_jobs(pictures(tmp_path, 2), tmp_path / "out")

    def work(crew: Crew) -> Any:
        mine = jobs[: 2 - crew.place.rank]
        return restore_shared(lambda p, t: p, mine, [], lambda job: None, crew, quiet=True)

    crew = crews(2)
    crew[0].require_same("2 pictures, 0 films, digest other", "what is to be restored")
    with pytest.raises(UserError, match=r"1 pictures, .* elsewhere: 2 pictures.*must be the same files"):
        work(crew[1])


def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of_process("auto", local) for local in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of_process("cpu", 1) == "cpu"
    with pytest.raises(UserError, match="cuda:0 would be shared by all processes"):
        device_of_process("cuda:0", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of_process("auto", 1) == "auto"
    with pytest.raises(UserError, match="cuda was asked for"):
        device_of_process("cuda", 0)


def test_memory_is_shared_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: 1200)
    # What this process has kept is its own, and is not shared out.
    monkeypatch.setattr(memory, "idle_memory", lambda: 50)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert free_memory(torch.device("cpu")) == 1250
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(torch.device("cpu")) == 350


def test_films_below_a_folder(tmp_path: Path) -> None:
    for name in (
        "a.mp4",
        "b/a.avi",
        "b/a.mkv",
        "b/c.TS",
        "out/x.mp4",
        "a_out.mp4",
        "e.mp4.parts/0.nut",
        "p.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def names(output: Path) -> list[tuple[str, str]]:
        jobs = plan_films(tmp_path, output)
        return [(Path(job.source).name, Path(job.target).relative_to(output).as_posix()) for job in jobs]

    expected = [("a.avi", "b/a_avi_out.mkv"), ("a.mkv", "b/a_mkv_out.mkv"), ("c.TS", "b/c_out.mkv")]
    elsewhere = names(tmp_path / "out")
    assert elsewhere == [("a.mp4", "a_out.mp4"), ("a_out.mp4", "a_out_out.mp4"), *expected]
    # Results beside their sources are no sources.
    assert [each for each in names(tmp_path) if each[0] == "a_out.mp4"] == []
    with pytest.raises(UserError, match="overwritten by its own result"):
        plan_films(tmp_path, tmp_path, suffix="")


DYING = """
import os, signal
from atelier import ranks
from atelier.restore.model import RestorationModel
ranks.BEAT_S, ranks.SILENT_S = 0.1, 1.5
real, count = RestorationModel.restore, 0
def restore(self, image, **options):
    global count
    count += 1
    with open("calls", "a") as file:
        file.write(os.environ["RANK"] + "\\n")
    if os.environ["RANK"] == "1" and count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, image, **options)
RestorationModel.restore = restore
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = SRVGGNetCompactOptions(type="SRVGGNetCompact", num_feat=8, num_conv=2, upscale=2).build()
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    return tmp_path


def words(home: Path, *more: str) -> list[str]:
    paths = ["-m", str(home / "net.pth"), "-i", str(home / "in"), "-o", str(home / "out"), "--device", "cpu"]
    return ["restore", *paths, *more]


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_same_command_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(home, 40)
    plugin = DYING.replace('"calls"', repr(str(home / "calls")))
    (home / "dying.py").write_text(plugin)
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(home)}
    processes = [
        start_command(
            words(home, "--launcher", "pytorch", "--plugin", "dying"),
            home / f"output_{rank}",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **shared,
        )
        for rank in range(2)
    ]
    for process in processes:
        process.join(120)
    output = (home / "output_0").read_text()
    assert processes[1].exitcode == -signal.SIGKILL
    assert processes[0].exitcode == 2, output
    assert "process 1 on" in output and "is dead: nothing heard of it for 1.5 s" in output
    done = sorted((home / "out").glob("*_out.png"))
    assert f"{len(done)} of 40 are done\nnot done: " in output
    assert 36 <= len(done) < 40, "what the dead one had not claimed was done by the other"
    before = {path: path.stat().st_mtime_ns for path in done}
    again = start_command(words(home), home / "again")
    again.join(120)
    assert again.exitcode == 0
    assert f"{40 - len(done)} restored, {len(done)} skipped" in (home / "again").read_text()
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert len(list((home / "out").glob("*_out.png"))) == len(list(source.iterdir())) == 40


@pytest.mark.slow
def test_torchrun_restores_a_folder_of_pictures_and_films(home: Path) -> None:
    import subprocess
    import sys

    from films import flat_film, moments

    source = pictures(home, 5)
    for index in range(3):
        flat_film(source / f"film{index}.mp4", frames=4 + index, size=(24, 16))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += [f"--master_port={free_port()}", "-m", "atelier", *words(home)]
    without = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "one of 2 processes that torchrun has started; add --launcher pytorch" in without.stderr
    result = subprocess.run(
        [*command, "--launcher", "pytorch"], capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("8 restored") == 1
    for index in range(3):
        assert len(moments(home / "out" / f"film{index}_out.mp4")) == 4 + index
    assert len(list((home / "out").glob("*.png"))) == 5


def test_a_process_alone_is_told_of_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atelier import ranks

    monkeypatch.setattr(ranks, "SILENT_S", 0.2)
    jobs = plan_jobs(pictures(tmp_path, 3), tmp_path / "out")
    crew = crews(2)
    assert next(crew[1].claims(0), None) is None  # the other one's films
    assert next(crew[1].claims(3)) == 0  # and its first picture, which it never finishes
    with pytest.raises(RunStopped) as stopped:
        restore_shared(lambda p, t: p, jobs, [], lambda job: None, crew[0], quiet=True)
    message = str(stopped.value)
    assert message.startswith("process 1 has not come within 0.2 s\n2 of 3 are done\nnot done: ")
    assert jobs[0].source.name in message and "the same command goes on" in message
