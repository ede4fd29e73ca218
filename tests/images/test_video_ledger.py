"""The folder of a film's run: one run at a time, and nothing in it is touched that is not a run's own."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from atelier import locks
from atelier.errors import UserError
from atelier.images.video_ledger import Ledger, is_unfinished

OPTIONS: dict[str, Any] = {"crf": "18"}


def work(folder: Path, source: str | None, segments: int = 2) -> Ledger:
    """A run that was stopped in its last segment."""
    ledger = Ledger(folder, source, OPTIONS)
    ledger.begin()
    for number in range(segments):
        ledger.media(number, "nut").write_bytes(b"pictures")
        ledger.add({"frames": 3}, b"state")
    ledger.media(segments, "nut").write_bytes(b"pict")
    (folder / f".{segments:06d}.abcd_123.nut").write_bytes(b"pi")
    return ledger


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FINISHED = [f"{n:06d}.{kind}" for n in (0, 1) for kind in ("json", "nut", "state")] + ["plan.json"]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "b.mp4.parts"
    first = work(folder, "film")
    before = names(folder)
    for overwrite in (False, True):
        with pytest.raises(
            UserError, match=rf"is being worked on by process {os.getpid()} on .*; wait for it"
        ):
            Ledger(folder, "film", OPTIONS, overwrite=overwrite)
    assert names(folder) == before, "neither looks for debris nor begins anew in the other's folder"
    first.release()
    second = Ledger(folder, "film", OPTIONS)
    first.release()  # again: the right is no longer its own to give
    with pytest.raises(UserError, match="is being worked on"):
        Ledger(folder, "film", OPTIONS)
    assert second.frames == 6
    second.remove()
    assert not folder.exists()


def test_the_right_is_there_before_the_first_segment(tmp_path: Path) -> None:
    folder = tmp_path / "b.mp4.parts"
    first = Ledger(folder, "film", OPTIONS)
    with pytest.raises(UserError, match="is being worked on"):
        Ledger(folder, "film", OPTIONS)
    first.release()
    assert not folder.exists(), "nothing was done in it"


def test_a_killed_run_leaves_no_right_behind(tmp_path: Path) -> None:
    folder = tmp_path / "b.mp4.parts"
    work(folder, "film").release()
    (folder / ".lock").write_text('{"pid": 1, "host": "elsewhere"}')
    assert Ledger(folder, "film", OPTIONS).frames == 6


@pytest.mark.parametrize("missing", ["locks", "the module"])
def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if missing == "locks":
        monkeypatch.setattr(fcntl, "flock", none)
    else:
        monkeypatch.setattr(locks, "fcntl", None)
    folder = tmp_path / "b.mp4.parts"
    work(folder, "film").release()
    assert names(folder) == [".000002.abcd_123.nut", *FINISHED[:6], "000002.nut", "plan.json"]
    again = Ledger(folder, "film", OPTIONS)
    assert again.frames == 6
    again.remove()
    assert not folder.exists()


def test_a_pipe_leaves_the_work_of_a_film_alone(tmp_path: Path) -> None:
    folder = tmp_path / "b.mp4.parts"
    work(folder, "film").release()
    before = names(folder)
    with pytest.raises(UserError, match=r"is of another source; --overwrite begins anew \(and removes"):
        Ledger(folder, None, OPTIONS)
    assert names(folder) == before
    pipe = Ledger(folder, None, OPTIONS, overwrite=True)
    assert pipe.frames == 0 and names(folder) == [".lock"]
    pipe.release()
    # What a pipe left can be of no use to anybody, not even to a pipe: it need not be asked about.
    work(folder, None).release()
    assert Ledger(folder, None, OPTIONS).frames == 0


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    folder = tmp_path / "b.mp4.parts"
    work(folder, "film").release()
    (folder / "@eaDir").mkdir()  # as Synology makes
    (folder / "@eaDir" / "000000.nut").write_text("theirs")
    (folder / "000009.nut").mkdir()
    (folder / "notes.txt").write_text("theirs")
    theirs = ["000009.nut", "@eaDir", "notes.txt"]
    again = Ledger(folder, "film", OPTIONS)
    assert names(folder) == sorted([".lock", *FINISHED, *theirs]), "debris alone is gone"
    again.remove()
    assert names(folder) == theirs and (folder / "@eaDir" / "000000.nut").exists()
    assert not is_unfinished(folder)
    work(folder, "film").remove()
    work(folder, "film").release()
    Ledger(folder, "film", OPTIONS, overwrite=True).release()
    assert names(folder) == theirs


def test_segments_that_nobody_planned_are_not_ours(tmp_path: Path) -> None:
    folder = tmp_path / "b.mp4.parts"
    folder.mkdir()
    (folder / "000000.mov").write_text("holiday")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds no work of this program; move it"):
            Ledger(folder, "film", OPTIONS, overwrite=overwrite)
    assert names(folder) == ["000000.mov"]
