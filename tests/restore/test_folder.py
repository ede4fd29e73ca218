from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.errors import RunStopped, UserError
from atelier.images import Picture, read_image, write_image
from atelier.restore import folder
from atelier.restore.folder import FolderReport, first_gap, plan_jobs, restore_folder

Pixels = np.ndarray[Any, Any]


def put(
    path: Path, channels: int = 3, dtype: str = "uint8", value: int = 90, like: Picture | None = None
) -> Path:
    write_image(path, np.full((6, 5, channels), value, dtype), like=like)
    return path


class Doubler:
    """Stands for a model; counts what it is given and can fail."""

    def __init__(self, fail: Callable[[Pixels], None] | None = None) -> None:
        self.calls = 0
        self.fail = fail

    def __call__(self, pixels: Pixels, on_tile: Callable[[int, int], None]) -> Pixels:
        self.calls += 1
        if self.fail is not None:
            self.fail(pixels)
        on_tile(1, 2)
        on_tile(2, 2)
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


def run(source: Path, output: Path, model: Doubler | None = None, **options: Any) -> FolderReport:
    overwrite = options.pop("overwrite", False)
    jobs = plan_jobs(source, output, **options)
    return restore_folder(model or Doubler(), jobs, overwrite=overwrite, quiet=True)


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_folder_keeps_its_structure_and_the_pictures_their_kind(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    put(source / "a.png", 4)
    put(source / "deep" / "er" / "b.png", 1, "uint16", 300)
    put(source / "deep" / "ü ñ.JPG")
    report = run(source, output)
    assert (report.done, report.skipped, report.failed) == (3, 0, [])
    assert names(output) == ["a_out.png", "deep/er/b_out.png", "deep/ü ñ_out.jpg"]
    assert read_image(output / "a_out.png").pixels.shape == (12, 10, 4)
    sixteen = read_image(output / "deep/er/b_out.png").pixels
    assert sixteen.dtype == np.uint16
    assert (sixteen == 300).all()


def test_profile_and_resolution_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    like = Picture(np.zeros((1, 1, 3), np.uint8), source, icc_profile=None, dpi=(300.0, 300.0))
    put(source, like=like)
    run(source, tmp_path / "out")
    dpi = read_image(tmp_path / "out" / "a_out.png").dpi
    assert dpi == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize(
    ("ext", "suffix", "expected"),
    [("auto", "out", "a_out.png"), ("webp", "", "a.webp"), ("tif", "x2", "a_x2.tif")],
)
def test_names(tmp_path: Path, ext: str, suffix: str, expected: str) -> None:
    put(tmp_path / "in" / "a.png")
    run(tmp_path / "in", tmp_path / "out", ext=ext, suffix=suffix)
    assert names(tmp_path / "out") == [expected]


def test_one_picture_may_name_its_result(tmp_path: Path) -> None:
    source = put(tmp_path / "a.png")
    run(source, tmp_path / "new" / "b.webp")
    assert names(tmp_path / "new") == ["b.webp"]


def test_names_that_collide(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "a.jpg", "a_jpg.png", "b.png"):
        put(source / name, value=50 + len(name))
    assert [job.target.name for job in plan_jobs(source, output)] == [
        "a_out.jpg",
        "a_out.png",
        "a_jpg_out.png",
        "b_out.png",
    ]
    jobs = plan_jobs(source, output, ext="png")
    assert {job.source.name: job.target.name for job in jobs} == {
        "a.jpg": "a_jpg_2_out.png",
        "a.png": "a_png_out.png",
        "a_jpg.png": "a_jpg_out.png",
        "b.png": "b_out.png",
    }
    assert run(source, output, ext="png").done == 4
    assert len(names(output)) == 4


def test_a_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "c.png", "e.png"):
        put(source / name)
    (source / "b.png").write_bytes(b"this is no picture")
    whole = (source / "a.png").read_bytes()
    (source / "d.png").write_bytes(whole[: len(whole) // 2])
    report = run(source, output)
    assert report.done == 3
    assert [path.name for path, _ in report.failed] == ["b.png", "d.png"]
    assert names(output) == ["a_out.png", "c_out.png", "e_out.png"]
    assert "2 failed" in str(report)
    assert "b.png" in str(report)


def test_failures_of_the_model_and_of_writing_are_reported(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    put(source / "a.png", value=1)
    put(source / "b.png", value=2)
    put(source / "c.png", dtype="uint16", value=3)
    put(source / "d.png", value=4)

    def fail(pixels: Pixels) -> None:
        if pixels.flat[0] == 1:
            raise UserError("out of memory even so")
        if pixels.flat[0] == 2:
            raise ValueError("a fault")

    # JPEG holds no 16 bits, and nothing is converted silently.
    report = run(source, output, Doubler(fail), ext="jpg")
    assert report.done == 1
    assert names(output) == ["d_out.jpg"]
    reasons = {path.name: reason for path, reason in report.failed}
    assert reasons["a.png"] == "out of memory even so"
    assert reasons["b.png"] == "ValueError: a fault"
    assert "16" in reasons["c.png"]


def test_what_is_done_is_skipped(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "b.png", "c.png"):
        put(source / name)
    model = Doubler(lambda pixels: None)
    assert run(source, output, model).done == 3
    (output / "b_out.png").unlink()
    again = run(source, output, model)
    assert (again.done, again.skipped, model.calls) == (1, 2, 4)
    assert "--overwrite" in str(again)
    # A picture that was changed since is done again.
    later = (output / "c_out.png").stat().st_mtime + 5
    os.utime(source / "c.png", (later, later))
    assert run(source, output, model).done == 1
    assert run(source, output, model, overwrite=True).done == 3


def test_a_folder_is_no_result(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "a_out.png").mkdir(parents=True)
    report = run(tmp_path / "in", tmp_path / "out")
    assert (report.done, report.skipped) == (0, 0)
    ((source, reason),) = report.failed
    assert source == tmp_path / "in" / "a.png" and "a_out.png" in reason


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_may_be_called_like_a_picture(tmp_path: Path, made: bool) -> None:
    put(tmp_path / "a.png")
    if made:
        (tmp_path / "new.png").mkdir()
    output = f"{tmp_path}/new.png" + ("" if made else "/")
    assert [job.target for job in plan_jobs(tmp_path / "a.png", output)] == [tmp_path / "new.png/a_out.png"]


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for index in range(5):
        put(source / f"{index}.png", value=index)

    def interrupt(pixels: Pixels) -> None:
        if pixels.flat[0] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, output, Doubler(interrupt))
    # What the model had finished is written, whole; nothing else is there.
    assert names(output) == ["0_out.png", "1_out.png", "2_out.png"]
    again = run(source, output)
    assert (again.done, again.skipped) == (2, 3)


@pytest.mark.parametrize("inside", [True, False])
def test_results_are_not_restored_again(tmp_path: Path, inside: bool) -> None:
    source = tmp_path / "in"
    put(source / "a.png")
    output = source / "results" if inside else source
    assert run(source, output).done == 1
    again = run(source, output)
    assert (again.done, again.skipped) == (0, 1)
    assert names(source) == ["a.png", "results/a_out.png" if inside else "a_out.png"]


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    source = put(tmp_path / "a.png")
    before = source.read_bytes()
    for given, output in ((tmp_path, tmp_path), (source, tmp_path), (source, source)):
        with pytest.raises(UserError, match="overwritten"):
            run(given, output, suffix="")
    assert source.read_bytes() == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for index in range(6):
        put(source / f"{index}.png")
    model = Doubler()

    def write(path: Path, pixels: Pixels, *, like: Picture) -> None:
        if path.name.startswith("1"):
            raise UserError(f"cannot write {path}") from OSError(number, os.strerror(number))
        write_image(path, pixels, like=like)

    monkeypatch.setattr(folder, "write_image", write)
    with pytest.raises(RunStopped, match=r"1_out.png; stopped after 1 of 6"):
        run(source, output, model)
    assert model.calls < 6


def test_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="no pictures in"):
        plan_jobs(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="missing does not exist"):
        plan_jobs(tmp_path / "missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_names_and_formats(tmp_path: Path) -> None:
    source = put(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"gif.*allowed: auto, png"):
        plan_jobs(source, tmp_path / "out", ext="gif")
    for suffix in ("../x", "a/b", ".."):
        with pytest.raises(UserError, match="--suffix"):
            plan_jobs(source, tmp_path / "out", suffix=suffix)


def test_the_output_is_a_file(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.png")
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(UserError, match="output folder"):
        run(tmp_path / "in", tmp_path / "out")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in" / "a.png")
    monkeypatch.setattr(folder.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="no permission"):
        run(tmp_path / "in", tmp_path / "out")


def test_pictures_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    for index in range(12):
        put(source / f"{index:02}.png")
    read: list[Path] = []
    ahead: list[int] = []

    def reading(path: Path) -> Picture:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(folder, "read_image", reading)
    model = Doubler()
    model.fail = lambda pixels: ahead.append(len(read) - model.calls)
    assert run(source, tmp_path / "out", model).done == 12
    assert max(ahead) <= folder._AHEAD


def test_a_failed_file_is_named_once() -> None:
    told = [(Path("a.mp4"), "a.mp4 has no frames"), (Path("b.png"), "it is damaged")]
    assert str(FolderReport(failed=told)).splitlines()[1:] == [
        "  a.mp4 has no frames",
        "  b.png: it is damaged",
    ]


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["000001.png", "000004.png", "000002.png"], "000003.png"),
        (["a/f_8.png", "a/f_11.png", "a/f_10.png", "b/x.png"], "a/f_9.png"),
        (["a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/4.png"], "b/3.png"),
        (["000001.png", "000002.png", "000003.png"], None),
        (["7.png"], None),
        (["101085.png", "101087.png", "102061.png"], None),  # numbers that count nothing
        (["1.png", "2.png", "4.jpg"], None),
        (["1.png", "2.png", "4.png", "cover.png"], None),
        (["old_1.png", "old_2.png", "new_4.png"], None),
        ([], None),
    ],
)
def test_the_first_number_that_is_missing(given: list[str], missing: str | None) -> None:
    assert first_gap(map(Path, given)) == (None if missing is None else Path(missing))
