from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from atelier.errors import RunStopped, UserError
from atelier.train.checkpoint import CheckpointStore, read_state
from atelier.train.folder import RunFolder


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return CheckpointStore(folder)


def writer(value: float):
    def write(path: Path) -> None:
        from atelier.files import atomic_path

        with atomic_path(path) as temporary:
            torch.save({"params": {"weight": torch.full((3,), value)}}, temporary)

    return {"g": write}


def save(store: CheckpointStore, iteration: int) -> None:
    store.save(iteration, writer(iteration), {"iter": iteration, "tensor": torch.arange(iteration)})


def test_newest_is_the_highest_complete_one(store: CheckpointStore) -> None:
    for iteration in (5, 100, 20):
        save(store, iteration)
    newest = store.newest()
    assert newest is not None
    assert newest.iteration == 100
    assert newest.load_state()["iter"] == 100
    assert (store.folder.models / "net_g_latest.pth").read_bytes() == (
        store.folder.models / "net_g_20.pth"
    ).read_bytes()


@pytest.mark.parametrize(
    "victim", ["models/net_g_20.pth", "training_states/20.state", "training_states/20.json"]
)
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_falls_back_and_says_so(store: CheckpointStore, victim: str, damage: str) -> None:
    save(store, 10)
    save(store, 20)
    path = store.folder.root / victim
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :])
    else:
        path.unlink()
    said: list[str] = []
    newest = store.newest(said.append)
    assert newest is not None
    assert newest.iteration == 10
    if (store.folder.states / "20.json").exists():
        assert any("step 20" in line for line in said)


@pytest.mark.parametrize("stage", ["weights", "state", "manifest"])
def test_full_disk_keeps_older_checkpoints_and_leaves_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    save(store, 10)
    before = sorted(path.name for path in store.folder.root.rglob("*") if path.is_file())
    count = {"weights": 1, "state": 2, "manifest": 3}[stage]
    calls = 0
    real = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        # Each atomic file syncs itself and then its folder.
        if calls == 2 * count - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunStopped, match=r"step 20 not saved.*disk is full.*step 10"):
        save(store, 20)
    monkeypatch.undo()
    assert sorted(path.name for path in store.folder.root.rglob("*") if path.is_file()) == before
    newest = store.newest()
    assert newest is not None
    assert newest.iteration == 10


def test_disk_full_inside_torch_save(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, 10)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RunStopped, match="step 20 not saved"):
        save(store, 20)
    monkeypatch.undo()
    assert store.iterations() == [10]


def test_saving_the_same_step_again_replaces_it(store: CheckpointStore) -> None:
    save(store, 10)
    store.save(10, writer(-1.0), {"iter": 10, "second": True})
    newest = store.newest()
    assert newest is not None
    assert newest.load_state()["second"] is True


def test_prune_keeps_the_newest(store: CheckpointStore) -> None:
    for iteration in (1, 2, 3, 4):
        save(store, iteration)
    store.prune(2, newest=4)
    assert store.iterations() == [3, 4]
    assert not (store.folder.models / "net_g_1.pth").exists()
    store.prune(None, newest=4)
    assert store.iterations() == [3, 4]


def test_superseded_checkpoints_no_longer_count(store: CheckpointStore) -> None:
    for iteration in (1, 2, 3):
        save(store, iteration)
    assert store.supersede_after(1) == [2, 3]
    assert store.iterations() == [1]
    assert (store.folder.states / "3.state").exists()


def test_state_that_runs_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "1.state"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"1\.state"):
        read_state(path)
    assert not (tmp_path / "ran").exists()


def test_archive_never_overwrites(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    places = []
    for content in ("first", "second"):
        folder.create()
        folder.log.write_text(content)
        places.append(folder.archive())
    assert folder.archive() is None
    assert [(place / "train.log").read_text() for place in places if place] == ["first", "second"]


def test_metrics_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"iter": 1}\n{"iter": 5}\n{"iter": 6}\n{"iter": 2, "to')
    folder.keep_metrics_until(5)
    assert folder.metrics.read_text() == '{"iter": 1}\n{"iter": 5}\n'


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="no permission"):
            RunFolder(tmp_path / "run").create()
    finally:
        tmp_path.chmod(0o700)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file"):
        RunFolder(tmp_path / "file" / "run").create()
