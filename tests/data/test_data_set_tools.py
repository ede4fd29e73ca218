"""Subset, meta-info, multiscale, lmdb, the benchmark layout, and the processes they run in."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.cli import main as command_line
from atelier.data.cropping import crop_subimages
from atelier.data.lmdb_source import LmdbSource
from atelier.data.lmdb_writer import write_lmdb
from atelier.data.meta_info import read_meta_info
from atelier.data.meta_info_writer import write_meta_info
from atelier.data.multiscale import lanczos, make_versions, version_sizes
from atelier.data.options import ValImagesOptions
from atelier.data.pairs import open_pictures
from atelier.data.set5 import prepare_benchmark
from atelier.data.subset import choose, make_subset, parse_share
from atelier.data.workers import work_through
from atelier.errors import UserError
from atelier.files import sha256_of
from atelier.images import imresize, read_image, write_image
from support import SHARED


def run(*arguments: str) -> int:
    """The command line in this process; its exit code."""
    with pytest.raises(SystemExit) as stopped:
        command_line.main(list(arguments))
    return int(stopped.value.code or 0)


# processes


def test_workers_load_no_torch_and_keep_the_order(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import pool_jobs

    results = list(work_through(pool_jobs.loaded, [1, 2], "x", workers=2, quiet=True))
    assert [(torch, cv2) for torch, cv2, _ in results] == [(False, False)] * 2
    assert all(pid != os.getpid() for *_, pid in results)
    with pytest.raises(UserError, match="a worker process was killed"):
        list(work_through(pool_jobs.die, [0, 1, 2], "x", workers=2, quiet=True))


def test_processes_and_one_process_make_the_same_files(tmp_path, make_folder):
    make_folder(tmp_path / "in", [(40, 40, 3)] * 2)
    for workers in (1, 2):
        crop_subimages(
            tmp_path / "in", tmp_path / f"w{workers}", crop=20, step=20, workers=workers, quiet=True
        )
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f"w{n}").glob("*.png")} for n in (1, 2))
    assert one == two and len(one) == 8


# subset


def test_the_choice_is_a_function_of_the_seed_and_never_changes():
    assert choose(4, 10, 0) == [1, 4, 5, 9]
    assert choose(4, 10, 1) != choose(4, 10, 0)
    assert set(choose(4, 10, 0)) < set(choose(7, 10, 0))
    assert choose(10, 10, 3) == list(range(10))


def test_every_picture_is_as_likely():
    counts = np.bincount([index for seed in range(2000) for index in choose(5, 20, seed)], minlength=20)
    assert counts.sum() == 10000 and abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize("link", ["hard", "sym", "copy"])
def test_subset_links_or_copies_and_lists_them(tmp_path, make_folder, link):
    make_folder(tmp_path / "a", [(8, 8, 3)] * 6)
    make_folder(tmp_path / "b", [(8, 8, 3)] * 2, seed=3)
    mode = (tmp_path / "b" / "p0.png").stat().st_mode
    shares = [(tmp_path / "a", 5), (tmp_path / "b", None)]
    report = make_subset(shares, tmp_path / "out", seed=2, link=link, quiet=True)
    assert report.written == 7 and report.shares[0].endswith("5 of 6")
    manifest = json.loads((tmp_path / "out" / "subset.json").read_text())
    assert manifest["seed"] == 2 and len(manifest["pictures"]) == 7
    for entry in manifest["pictures"]:
        file, place = tmp_path / "out" / entry["name"], Path(entry["source"]) / entry["path"]
        assert file.read_bytes() == place.read_bytes()
        assert (entry["size"], entry["sha256"]) == (file.stat().st_size, sha256_of(place))
        assert file.samefile(place) == (link != "copy") and file.is_symlink() == (link == "sym")
    assert {"a_p0.png", "b_p0.png"} & {entry["name"] for entry in manifest["pictures"]}
    assert (tmp_path / "b" / "p0.png").stat().st_mode == mode
    again = make_subset(shares, tmp_path / "out", seed=2, link=link, quiet=True)
    assert (again.written, again.present) == (0, 7)


def test_where_links_do_not_work_files_are_copied(tmp_path, make_folder, monkeypatch):
    make_folder(tmp_path / "a", [(8, 8, 3)] * 2)

    def other_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    report = make_subset([(tmp_path / "a", None)], tmp_path / "out", quiet=True)
    assert report.copied == 2 and "links do not work" in "\n".join(report.lines())
    assert not (tmp_path / "out" / "p0.png").samefile(tmp_path / "a" / "p0.png")


def test_subset_mistakes(tmp_path, make_folder):
    make_folder(tmp_path / "a", [(8, 8, 3)] * 3)
    with pytest.raises(UserError, match="has 3 pictures, 4 are asked for"):
        make_subset([(tmp_path / "a", 4)], tmp_path / "out", quiet=True)
    with pytest.raises(UserError, match="named twice"):
        make_subset([(tmp_path / "a", 1), (tmp_path / "a", 2)], tmp_path / "out", quiet=True)
    with pytest.raises(UserError, match="lies in one"):
        make_subset([(tmp_path / "a", 1)], tmp_path / "a" / "out", quiet=True)
    make_subset([(tmp_path / "a", 2)], tmp_path / "out", quiet=True)
    with pytest.raises(UserError, match="holds the subset of seed 0"):
        make_subset([(tmp_path / "a", 2)], tmp_path / "out", seed=1, quiet=True)
    make_folder(tmp_path / "full", [(9, 9, 3)])
    with pytest.raises(UserError, match="other content"):
        make_subset([(tmp_path / "a", None)], tmp_path / "full", quiet=True)
    (tmp_path / "full" / "z.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 pictures that do not belong .*z\.png"):
        make_subset([(tmp_path / "a", None)], tmp_path / "full", quiet=True)
    for text in ("a", "a=", "=3", "a=0", "a=-1", "a=half"):
        with pytest.raises(UserError, match="FOLDER=NUMBER"):
            parse_share(text)
    assert parse_share("x=y=7") == (Path("x=y"), 7)


# meta-info


def test_meta_info_as_the_original_flags_ask_for_it(tmp_path, make_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = make_folder(Path("d/HR"), [(8, 8, 3)] * 3)
    make_folder(Path("d/ms/sub dir"), [(8, 8, 3)])
    Path("d/HR/notes.txt").write_text("no picture")
    assert (
        run("data", "meta-info", "--input", "d/HR", "d/ms", "--root", "d", "d", "--meta_info", "m.txt") == 0
    )
    names = ["HR/p0.png", "HR/p1.png", "HR/p2.png", "ms/sub dir/p0.png"]
    assert Path("m.txt").read_text() == "\n".join(names) + "\n"
    assert [line.name for line in read_meta_info(Path("m.txt"))] == names
    paths[1].write_bytes(paths[1].read_bytes()[:-60])
    assert run("data", "meta-info", "--input", "d/HR", "--meta_info", "c.txt", "--check") == 1
    assert Path("c.txt").read_text() == "HR/p0.png\nHR/p2.png\n"
    assert run("data", "meta-info", "--input=d/HR", "--meta-info=n.txt", "--dry-run") == 0
    assert not Path("n.txt").exists()


def test_meta_info_of_pairs_opens_as_a_data_set(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 3)] * 2)
    for number in range(3):
        write_image(tmp_path / "lq" / f"p{number}x2.png", np.zeros((4, 4, 3), np.uint8))
    meta = tmp_path / "m.txt"
    report = write_meta_info([tmp_path / "gt"], meta, lq=[tmp_path / "lq"], filename_tmpl="{}x2", quiet=True)
    assert meta.read_text() == "gt/p0.png, lq/p0x2.png\ngt/p1.png, lq/p1x2.png\n"
    assert len(report.unmatched) == 1 and not report.ok
    options = ValImagesOptions(dataroot_gt=tmp_path, dataroot_lq=tmp_path, meta_info=meta)
    pictures = open_pictures(options, scale=2, in_channels=3)
    assert pictures.lq is not None and [item.name for item in pictures.lq.items] == [
        "lq/p0x2.png",
        "lq/p1x2.png",
    ]


def test_meta_info_mistakes(tmp_path, make_folder):
    for folder in ("a", "b"):
        make_folder(tmp_path / folder, [(8, 8, 3)])
    a, b, meta = tmp_path / "a", tmp_path / "b", tmp_path / "m.txt"
    with pytest.raises(UserError, match=r"would both be listed as 'p0\.png'"):
        write_meta_info([a, b], meta, roots=[a, b], quiet=True)
    with pytest.raises(UserError, match="does not lie below"):
        write_meta_info([a], meta, roots=[b], quiet=True)
    with pytest.raises(UserError, match="--root names 2 folders for 1"):
        write_meta_info([a], meta, roots=[a, b], quiet=True)
    with pytest.raises(UserError, match="give one for each"):
        write_meta_info([a], meta, lq=[a, b], quiet=True)
    (a / "p0.png").rename(a / "new\nline.png")
    with pytest.raises(UserError, match="cannot stand in a meta_info file"):
        write_meta_info([a], meta, quiet=True)
    (b / "p0.png").write_bytes(b"x")
    with pytest.raises(UserError, match="nothing is left"):
        write_meta_info([b], meta, check=True, quiet=True)
    assert not meta.exists()


# multiscale


def test_sizes_of_the_versions():
    assert version_sizes(1404, 2040) == [(1053, 1530), (702, 1020), (468, 680), (400, 581)]
    assert version_sizes(2040, 1404)[3] == (581, 400)
    assert version_sizes(300, 900)[3] is None
    assert version_sizes(300, 900, enlarge=True)[3] == (400, 1200)
    assert version_sizes(1, 1, enlarge=True)[0] == (1, 1)


def test_versions_equal_pillow_and_are_made_once(tmp_path, make_folder):
    (path,) = make_folder(tmp_path / "in", [(60, 90, 3)])
    time.sleep(0.02)
    report = make_versions(tmp_path / "in", tmp_path / "out", shortest=20, quiet=True)
    assert (report.pictures, report.written) == (1, 4)
    image = Image.open(path)
    for number, size in enumerate([(67, 45), (45, 30), (30, 20), (30, 20)]):
        expected = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
        assert np.array_equal(read_image(tmp_path / "out" / f"p0T{number}.png").pixels, expected)
    (tmp_path / "out" / "p0T2.png").unlink()
    again = make_versions(tmp_path / "in", tmp_path / "out", shortest=20, quiet=True)
    assert (again.written, again.present) == (1, 3)
    with pytest.raises(UserError, match=r"'shortest': 20.*choose another"):
        make_versions(tmp_path / "in", tmp_path / "out", shortest=30, quiet=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_resized_as_eight_are(channels):
    eight = np.random.default_rng(1).integers(40, 216, (40, 60, channels)).astype(np.uint8)
    deep = lanczos(eight.astype(np.uint16) * 257, (15, 20))
    assert deep.dtype == np.uint16 and deep.shape == (15, 20, channels)
    # Pillow rounds colours times alpha to 8 bits, which alpha of at least 40 magnifies by 255 / 40.
    assert np.abs(deep / 257.0 - lanczos(eight, (15, 20))).max() < (4.0 if channels in (2, 4) else 1.01)
    with pytest.raises(UserError, match="floating point"):
        lanczos(np.zeros((4, 4, 3), np.float32), (2, 2))


def test_a_small_picture_gets_no_enlarged_version(tmp_path, make_folder):
    make_folder(tmp_path / "in", [(30, 30, 3)])
    report = make_versions(tmp_path / "in", tmp_path / "out", quiet=True)
    assert report.written == 3 and "30x30" in report.not_enlarged[0]
    assert not (tmp_path / "out" / "p0T3.png").exists()


# crop


def test_crop_with_both_suffixes_and_with_nothing_to_cut(tmp_path, make_folder, capsys):
    (path,) = make_folder(tmp_path / "in", [(40, 40, 3)])
    write_image(path.with_suffix(".bmp"), np.zeros((40, 40, 3), np.uint8))
    source, out = str(tmp_path / "in"), str(tmp_path / "out")
    flags = [
        "--crop_size",
        "20",
        "--step",
        "20",
        "--thresh_size",
        "0",
        "--n_thread",
        "1",
        "--compression_level",
        "0",
    ]
    assert run("data", "crop", "--input", source, "--output", out, *flags) == 2
    assert "--keep-suffix keeps the suffix" in capsys.readouterr().err
    assert run("data", "crop", source, "-o", out, "--keep-suffix", *flags) == 0
    names = sorted(p.name for p in (tmp_path / "out").glob("*.png"))
    assert names[0] == "p0_bmp_s001.png" and names[-1] == "p0_png_s004.png" and len(names) == 8
    assert run("data", "crop", source, "-o", out, *flags) == 2
    capsys.readouterr()
    assert run("data", "crop", source, "-o", str(tmp_path / "none"), "--crop", "50", "--keep-suffix") == 1
    assert "nothing was cut" in capsys.readouterr().out
    assert run("data", "crop", source, "--input", source, "-o", out) == 2
    assert run("data", "crop", source, "-o", out, "--compression_level", "12") == 2


# lmdb


def test_lmdb_holds_the_pictures_of_the_folder(tmp_path, make_folder):
    pytest.importorskip("lmdb", reason="needs the extra atelier[lmdb]")
    make_folder(tmp_path / "in" / "sub", [(8, 9, 3), (10, 7, 1)])
    make_folder(tmp_path / "in", [(6, 5, 4)], dtype=np.uint16)
    report = write_lmdb(tmp_path / "in", tmp_path / "a.lmdb", quiet=True)
    assert report.complete and report.written == 3
    assert sorted(p.name for p in (tmp_path / "a.lmdb").iterdir()) == [
        "data.mdb",
        "lock.mdb",
        "meta_info.txt",
    ]
    lines = (tmp_path / "a.lmdb" / "meta_info.txt").read_text().splitlines()
    assert lines == ["p0.png (6,5,4) 1", "sub/p0.png (8,9,3) 1", "sub/p1.png (10,7,1) 1"]
    source = LmdbSource(tmp_path / "a.lmdb")
    for number, item in enumerate(source.items):
        assert np.array_equal(source.read(number), read_image(tmp_path / "in" / item.name).pixels)
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="is there already"):
        write_lmdb(tmp_path / "in", tmp_path / "a.lmdb", quiet=True)


def test_an_lmdb_stands_only_when_complete_and_continues(tmp_path, make_folder, monkeypatch):
    pytest.importorskip("lmdb", reason="needs the extra atelier[lmdb]")
    paths = make_folder(tmp_path / "in", [(8, 8, 3)] * 5)
    from atelier.data import lmdb_writer

    monkeypatch.setattr(lmdb_writer, "_BATCH", 2)
    encode = lmdb_writer._encode

    def stop(job: tuple[str, int]) -> object:
        if job[0].endswith("p3.png"):
            raise KeyboardInterrupt
        return encode(job)

    monkeypatch.setattr(lmdb_writer, "_encode", stop)
    with pytest.raises(KeyboardInterrupt):
        write_lmdb(tmp_path / "in", tmp_path / "a.lmdb", quiet=True)
    assert not (tmp_path / "a.lmdb").exists()
    with (tmp_path / ".a.lmdb.building" / "shapes.jsonl").open("a") as torn:
        torn.write('["p4", [8')
    monkeypatch.setattr(lmdb_writer, "_encode", encode)
    report = write_lmdb(tmp_path / "in", tmp_path / "a.lmdb", quiet=True)
    assert (report.present, report.written, report.complete) == (2, 3, True)
    assert len(LmdbSource(tmp_path / "a.lmdb")) == 5
    paths[2].write_bytes(b"x")
    bad = write_lmdb(tmp_path / "in", tmp_path / "b.lmdb", quiet=True)
    assert not bad.complete and "p2.png" in bad.failed[0] and not (tmp_path / "b.lmdb").exists()


def test_lmdb_grows_and_refuses_double_keys(tmp_path, make_folder, monkeypatch):
    lmdb = pytest.importorskip("lmdb", reason="needs the extra atelier[lmdb]")
    opened = lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda folder, map_size: opened(folder, map_size=1 << 16))
    make_folder(tmp_path / "in", [(200, 200, 3)] * 3)
    assert write_lmdb(tmp_path / "in", tmp_path / "a.lmdb", quiet=True).complete
    write_image(tmp_path / "in" / "p0.bmp", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"share a key(.|\n)*p0\.bmp"):
        write_lmdb(tmp_path / "in", tmp_path / "b.lmdb", quiet=True)
    with pytest.raises(UserError, match=r"must end in \.lmdb"):
        write_lmdb(tmp_path / "in", tmp_path / "b", quiet=True)


# the benchmark's layout


def test_benchmark_layout(tmp_path, make_folder):
    make_folder(tmp_path / "HR", [(30, 50, 3), (11, 40, 3)])
    report = prepare_benchmark(tmp_path / "HR", tmp_path / "Set5", [2, 3], quiet=True)
    assert (report.pictures, report.written) == (1, 3) and "a side below 12" in report.failed[0]
    gt = read_image(tmp_path / "Set5" / "GTmod12" / "p0.png").pixels
    assert gt.shape == (24, 48, 3) and np.array_equal(
        gt, read_image(tmp_path / "HR" / "p0.png").pixels[:24, :48]
    )
    for scale in (2, 3):
        lq = read_image(tmp_path / "Set5" / f"LRbicx{scale}" / "p0.png").pixels
        assert np.array_equal(lq, imresize(gt, 1 / scale))
    with pytest.raises(UserError, match="divide 12"):
        prepare_benchmark(tmp_path / "HR", tmp_path / "Set5", [5], quiet=True)


def test_benchmark_agrees_with_the_published_pictures(tmp_path):
    hr = SHARED / "data/Set5/HR"
    if not hr.is_dir():
        pytest.skip("needs the Set5 pictures")
    prepare_benchmark(hr, tmp_path / "Set5", [2], quiet=True)
    ours = read_image(tmp_path / "Set5" / "LRbicx2" / "bird.png").pixels.astype(
        int
    )  # 288: a multiple of 12 already
    theirs = read_image(SHARED / "data/Set5/LR_bicubic/X2/birdx2.png").pixels.astype(int)
    assert abs(ours - theirs).max() <= 1
