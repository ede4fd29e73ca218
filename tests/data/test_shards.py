from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import atelier.data.shards as shards_module
from atelier.data.options import CacheOptions
from atelier.data.shards import FileReader, ShardCache, ShardReader
from atelier.data.sources import open_folders
from atelier.errors import UserError
from atelier.images import read_image

SHAPES = [(20, 30, 3), (17, 11, 1), (8, 9, 4), (5, 5, 3)]


@pytest.fixture
def cache(tmp_path):
    return ShardCache(CacheOptions(folder=tmp_path / "cache"), quiet=True)


def shapes_of(source):
    return [source.shape(index) for index in range(len(source))]


def open_all(cache, folder):
    source = open_folders([folder], "gt")
    return cache.open(source, shapes_of(source))


def shard_folders(cache):
    return sorted(path for path in cache.root.iterdir() if path.is_dir())


def test_a_shard_holds_the_decoded_pictures(tmp_path, make_folder, cache):
    paths = make_folder(tmp_path / "gt", SHAPES)
    paths += make_folder(tmp_path / "gt" / "sub", [(9, 7, 3), (6, 6, 1)], dtype=np.uint16)
    reader = open_all(cache, tmp_path / "gt")
    assert isinstance(reader, ShardReader)
    for number, place in enumerate(reader.places):
        picture = reader.picture(number)
        expected = read_image(Path(place)).pixels
        assert picture.dtype == expected.dtype and np.array_equal(picture, expected)
        assert reader.shapes[number] == expected.shape
        assert not picture.flags.writeable
    assert {Path(place) for place in reader.places} == set(paths)


def test_it_is_built_once(tmp_path, make_folder, cache, monkeypatch):
    make_folder(tmp_path / "gt", SHAPES)
    open_all(cache, tmp_path / "gt").close()
    monkeypatch.setattr("atelier.data.sources.FileSource.read", None)
    again = open_all(cache, tmp_path / "gt")
    assert again.picture(0).shape == SHAPES[0]


def test_readers_travel_to_other_processes_without_pixels(tmp_path, make_folder, cache):
    make_folder(tmp_path / "gt", [(200, 200, 3)])
    reader = open_all(cache, tmp_path / "gt")
    reader.picture(0)
    packed = pickle.dumps(reader)
    assert len(packed) < 5000
    assert np.array_equal(pickle.loads(packed).picture(0), reader.picture(0))


@pytest.mark.parametrize("change", ["pixels", "added", "removed"])
def test_a_changed_folder_is_cached_anew(tmp_path, make_folder, cache, change):
    paths = make_folder(tmp_path / "gt", SHAPES)
    open_all(cache, tmp_path / "gt").close()
    (before,) = shard_folders(cache)
    if change == "pixels":
        facts = paths[0].stat()
        make_folder(tmp_path / "other", SHAPES[:1], seed=9)
        paths[0].write_bytes((tmp_path / "other" / "p0.png").read_bytes())
        os.utime(paths[0], ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    elif change == "added":
        make_folder(tmp_path / "gt" / "more", SHAPES[:1], seed=9)
    else:
        paths[-1].unlink()
    reader = open_all(cache, tmp_path / "gt")
    for number, place in enumerate(reader.places):
        assert np.array_equal(reader.picture(number), read_image(Path(place)).pixels)
    (after,) = shard_folders(cache)  # the old one is gone
    assert after != before


def test_an_old_shard_stays_while_someone_reads_it(tmp_path, make_folder, cache):
    paths = make_folder(tmp_path / "gt", SHAPES)
    old = open_all(cache, tmp_path / "gt")
    paths[0].unlink()
    open_all(cache, tmp_path / "gt").close()
    assert len(shard_folders(cache)) == 2
    assert old.picture(0).shape == SHAPES[0]
    old.close()
    paths[1].unlink()
    open_all(cache, tmp_path / "gt")
    assert len(shard_folders(cache)) == 1


@pytest.mark.parametrize("damage", ["short pixels", "no pixels", "short index", "no index", "other count"])
def test_a_torn_shard_is_never_used(tmp_path, make_folder, cache, damage):
    make_folder(tmp_path / "gt", SHAPES)
    open_all(cache, tmp_path / "gt").close()
    (folder,) = shard_folders(cache)
    pixels, index = folder / "pixels.bin", folder / "index.json"
    if damage == "short pixels":
        os.truncate(pixels, pixels.stat().st_size - 1)
    elif damage == "no pixels":
        pixels.unlink()
    elif damage == "short index":
        os.truncate(index, 20)
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text(index.read_text().replace('"offsets": [0, ', '"offsets": ['))
    reader = open_all(cache, tmp_path / "gt")
    for number, place in enumerate(reader.places):
        assert np.array_equal(reader.picture(number), read_image(Path(place)).pixels)


def test_unreadable_pictures_are_all_named_and_nothing_is_left(tmp_path, make_folder, cache):
    paths = make_folder(tmp_path / "gt", SHAPES)
    source = open_folders([tmp_path / "gt"], "gt")
    shapes = shapes_of(source)
    for path in paths[1:3]:
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError) as caught:
        cache.open(source, shapes)
    assert (
        "p1.png" in str(caught.value) and "p2.png" in str(caught.value) and "p0.png" not in str(caught.value)
    )
    assert shard_folders(cache) == []


def test_the_cap_is_told_before_any_work(tmp_path, make_folder, monkeypatch):
    make_folder(tmp_path / "gt", [(100, 100, 3)])
    make_folder(tmp_path / "more", [(100, 100, 3)])
    monkeypatch.setattr("atelier.data.sources.FileSource.read", None)
    small = ShardCache(CacheOptions(folder=tmp_path / "cache", max_gb=2e-5), quiet=True)
    with pytest.raises(
        UserError, match=r"would need 3\.01e-05 GB .* cache\.max_gb: 2e-05 allows; raise cache\.max_gb"
    ):
        open_all(small, tmp_path / "gt")
    monkeypatch.undo()
    fits_one = ShardCache(CacheOptions(folder=tmp_path / "cache", max_gb=5e-5), quiet=True)
    open_all(fits_one, tmp_path / "gt")
    with pytest.raises(UserError, match=r"(?s)beside the 3\.\S+ GB already in .*\n .*gt-"):
        open_all(fits_one, tmp_path / "more")


def test_16_bit_pictures_are_held_to_the_cap_too(tmp_path, make_folder):
    """Headers do not tell the depth, so the estimate is too low by half; the build itself must stop."""
    make_folder(tmp_path / "gt", [(100, 100, 3)], dtype=np.uint16)
    cache = ShardCache(CacheOptions(folder=tmp_path / "cache", max_gb=5e-5), quiet=True)
    with pytest.raises(UserError, match=r"grows beyond cache\.max_gb"):
        open_all(cache, tmp_path / "gt")
    assert shard_folders(cache) == []


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path, make_folder, cache, monkeypatch):
    make_folder(tmp_path / "gt", SHAPES)
    monkeypatch.setattr(shards_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"the disk of .* has 1e-07 GB free"):
        open_all(cache, tmp_path / "gt")
    monkeypatch.undo()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards_module.os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full; raise"):
        open_all(cache, tmp_path / "gt")
    assert shard_folders(cache) == []


def test_no_permission_is_one_message(tmp_path, make_folder, cache, monkeypatch):
    def refused(**kwargs):
        raise PermissionError(13, "Permission denied")

    make_folder(tmp_path / "gt", SHAPES)
    monkeypatch.setattr(shards_module.tempfile, "mkdtemp", refused)
    with pytest.raises(UserError, match=r"shard cache: cannot write .*cache: no permission; raise"):
        open_all(cache, tmp_path / "gt")


def test_a_file_in_the_place_of_the_folder_is_one_message(tmp_path, make_folder):
    make_folder(tmp_path / "gt", SHAPES)
    (tmp_path / "taken").write_text("")
    cache = ShardCache(CacheOptions(folder=tmp_path / "taken"), quiet=True)
    with pytest.raises(UserError, match=r"shard cache: cannot write .*taken"):
        open_all(cache, tmp_path / "gt")


def test_leftovers_of_a_killed_builder_are_removed(tmp_path, make_folder, cache):
    make_folder(tmp_path / "gt", SHAPES)
    source = open_folders([tmp_path / "gt"], "gt")
    leftover = cache.root / f".building-{source.identity[:12]}-x1"
    leftover.mkdir(parents=True)
    (leftover / "pixels.bin").write_bytes(b"half")
    open_all(cache, tmp_path / "gt")
    assert not leftover.exists()


def test_switched_off_it_decodes_each_time(tmp_path, make_folder):
    (path,) = make_folder(tmp_path / "gt", [(20, 30, 3)])
    cache = ShardCache(CacheOptions(enabled=False, folder=tmp_path / "cache"), quiet=True)
    reader = open_all(cache, tmp_path / "gt")
    assert isinstance(reader, FileReader)
    assert np.array_equal(reader.picture(0), read_image(path).pixels)
    make_folder(tmp_path / "gt", [(20, 31, 3)])
    with pytest.raises(UserError, match="written anew while the run"):
        reader.picture(0)
    assert not cache.root.exists()


BUILDER = """
import sys
import atelier.data.shards as shards
from atelier.data.options import CacheOptions
from atelier.data.sources import open_folders

source = open_folders([__import__("pathlib").Path(sys.argv[1])], "gt")
cache = shards.ShardCache(CacheOptions(folder=sys.argv[2]), quiet=True)
decoded = []
real = type(source).read
type(source).read = lambda self, number: (decoded.append(number), real(self, number))[1]
shapes = [source.shape(k) for k in range(len(source))]
print("ready", flush=True)
sys.stdin.readline()
reader = cache.open(source, shapes)
print(len(decoded), sum(int(reader.picture(k).sum()) for k in range(len(source))), flush=True)
"""


def test_two_processes_build_one_shard(tmp_path, make_folder):
    """Started together; one decodes, the other waits for it; both read the same pixels."""
    paths = make_folder(tmp_path / "gt", [(150, 150, 3)] * 30)
    source = str(Path(__file__).resolve().parents[2] / "src")
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(tmp_path / "gt"), str(tmp_path / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": source},
        )
        for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    answers = [builder.communicate(timeout=60)[0].split() for builder in builders]
    expected = sum(int(read_image(path).pixels.sum()) for path in paths)
    assert {int(total) for _, total in answers} == {expected}
    assert sorted(int(count) for count, _ in answers) == [0, 30]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_without_locks_a_race_is_still_harmless(tmp_path, make_folder, monkeypatch):
    """Some file systems have no locks: then both build, and whoever comes second must not break anything."""
    monkeypatch.setattr(shards_module, "_lock", lambda *args, **kwargs: None)
    make_folder(tmp_path / "gt", [(60, 60, 3)] * 10)
    failures = []

    def build():
        cache = ShardCache(CacheOptions(folder=tmp_path / "cache"), quiet=True)
        try:
            reader = open_all(cache, tmp_path / "gt")
            for number, place in enumerate(reader.places):
                assert np.array_equal(reader.picture(number), read_image(Path(place)).pixels)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
