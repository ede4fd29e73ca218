from __future__ import annotations

import itertools
import shutil
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from atelier.cli import data as commands
from atelier.data.checking import check_folder
from atelier.data.cropping import crop_starts, crop_subimages
from atelier.data.meta_info_writer import write_meta_info
from atelier.data.multiscale import make_versions
from atelier.data.preview import preview_sheet, write_sheet
from atelier.data.set5 import prepare_benchmark
from atelier.data.templates import plain_stem
from atelier.errors import UserError
from atelier.images import read_image, write_image

# check


def test_a_good_folder_is_good(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(40, 40, 3)] * 3)
    report = check_folder(tmp_path / "gt", quiet=True)
    assert report.ok and report.lines() == ["3 pictures checked", "all good"]


def test_every_kind_of_fault_is_found(tmp_path, make_folder):
    paths = make_folder(tmp_path / "gt", [(40, 40, 3)] * 6 + [(40, 20, 3), (40, 40, 1), (40, 40, 3)])
    paths[1].write_bytes(b"no picture")
    paths[2].write_bytes(paths[2].read_bytes()[:-300])
    damaged = bytearray(paths[3].read_bytes())
    damaged[len(damaged) // 2] ^= 255
    paths[3].write_bytes(bytes(damaged))
    paths[5].write_bytes(paths[4].read_bytes())
    lq = make_folder(tmp_path / "lq", [(20, 20, 3)] * 8, seed=2)
    write_image(lq[0], np.zeros((10, 20, 3), np.uint8))
    report = check_folder(tmp_path / "gt", lq=tmp_path / "lq", scale=2, quiet=True)

    def named(entries):
        return [next(f"p{k}" for k in range(9) if f"p{k}.png" in entry) for entry in entries]

    assert not report.ok and report.pictures == 17
    assert named(report.unreadable) == ["p1"]
    assert named(report.truncated) == ["p2", "p3"]
    assert named(report.tiny) == ["p6", "p0"]
    assert named(report.mixed) == ["p7"]
    assert [named(group) for group in report.duplicates] == [["p4", "p5"]]
    assert named(report.unmatched) == ["p8"]
    assert named(report.wrong_scale) == ["p0", "p6"]
    text = "\n".join(report.lines())
    assert "wrong scale: 2" in text and "duplicates: 1 groups" in text and "all good" not in text


def test_pairs_need_a_scale(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(40, 40, 3)])
    with pytest.raises(UserError, match="needs the scale"):
        check_folder(tmp_path / "gt", lq=tmp_path / "gt", quiet=True)


# crop


@given(st.integers(1, 400), st.integers(1, 120), st.integers(1, 80), st.integers(0, 30))
def test_crops_cover_a_side_up_to_thresh(length, crop, step, thresh):
    starts = crop_starts(length, crop, step, thresh)
    assert starts == sorted(set(starts))
    assert all(0 <= start <= length - crop for start in starts)
    assert (not starts) == (length < crop)
    if starts:
        assert starts[0] == 0
        assert length - (starts[-1] + crop) <= thresh
        assert all(b - a <= step for a, b in itertools.pairwise(starts))


def test_crop_starts_as_basicsr_makes_them():
    assert crop_starts(1356, 480, 240, 0) == [0, 240, 480, 720, 876]
    assert crop_starts(960, 480, 240, 0) == [0, 240, 480]
    assert crop_starts(970, 480, 240, 10) == [0, 240, 480]


@pytest.mark.parametrize(
    ("stem", "template", "plain"),
    [
        ("0001x4", "{}", "0001"),
        ("0001", "{}", "0001"),
        ("fox2", "{}", "fox2"),
        ("2x4_house", "{}", "2x4_house"),
        ("babyx2", "{}x2", "baby"),
        ("lr_fox2", "lr_{}", "fox2"),
    ],
)
def test_scale_marks(stem, template, plain):
    assert plain_stem(stem, template) == plain


def test_a_name_that_does_not_fit_the_template():
    with pytest.raises(UserError, match=r"'babyx4' does not fit the file name template"):
        plain_stem("babyx4", "{}x2")


def test_sub_images_are_exact_and_numbered_by_rows(tmp_path, make_folder):
    (path,) = make_folder(tmp_path / "in" / "sub", [(50, 70, 3)])
    report = crop_subimages(tmp_path / "in", tmp_path / "out", crop=32, step=20, quiet=True)
    whole = read_image(path).pixels
    places = [(y, x) for y in (0, 18) for x in (0, 20, 38)]
    assert (report.pictures, report.written, report.present) == (1, 6, 0)
    for number, (y, x) in enumerate(places, start=1):
        part = read_image(tmp_path / "out" / "sub" / f"p0_s{number:03d}.png").pixels
        assert np.array_equal(part, whole[y : y + 32, x : x + 32])


def test_pairs_cut_with_half_the_sizes_stay_pairs(tmp_path):
    lq = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    write_image(tmp_path / "lq" / "0001x2.png", lq)
    write_image(tmp_path / "gt" / "0001.png", np.ascontiguousarray(lq.repeat(2, 0).repeat(2, 1)))
    crop_subimages(tmp_path / "gt", tmp_path / "gt_sub", crop=40, step=20, quiet=True)
    crop_subimages(tmp_path / "lq", tmp_path / "lq_sub", crop=20, step=10, quiet=True)
    names = sorted(path.name for path in (tmp_path / "gt_sub").glob("*.png"))
    assert names == sorted(path.name for path in (tmp_path / "lq_sub").glob("*.png")) and len(names) > 10
    for name in names:
        small, large = (read_image(tmp_path / f"{kind}_sub" / name).pixels for kind in ("lq", "gt"))
        assert np.array_equal(small.repeat(2, 0).repeat(2, 1), large)


def test_pictures_of_another_folder_are_not_taken_for_done(tmp_path, make_folder):
    """Two sources share a folder as long as no name is in both; a source that is gone holds no name."""
    made = [
        (crop_subimages, {"crop": 20, "step": 20}),
        (prepare_benchmark, {"scales": [2]}),
        (make_versions, {"shortest": 16}),
    ]
    for number, (work, options) in enumerate(made):
        one, other, out = (tmp_path / f"{name}{number}" for name in ("one", "other", "out"))
        make_folder(one, [(40, 40, 3)] * 2)
        make_folder(other, [(40, 40, 3)], seed=5)
        time.sleep(0.02)
        work(one, out, quiet=True, **options)
        before = {path: path.read_bytes() for path in out.rglob("*.png")}
        with pytest.raises(
            UserError, match=rf"what was made of 'p0' in {one}, and {other} has pictures of the"
        ):
            work(other, out, quiet=True, **options)
        assert {path: path.read_bytes() for path in out.rglob("*.png")} == before
        (other / "p0.png").rename(other / "new.png")
        assert work(other, out, quiet=True, **options).pictures == 1
        assert work(one, out, quiet=True, **options).written == 0
        shutil.move(one, tmp_path / f"moved{number}")
        assert work(tmp_path / f"moved{number}", out, quiet=True, **options).pictures == 2


def test_crops_with_and_without_a_mark_do_not_mix(tmp_path):
    write_image(tmp_path / "lq" / "babyx2.png", np.zeros((32, 32, 3), np.uint8))
    crop_subimages(tmp_path / "lq", tmp_path / "out", crop=16, step=16, filename_tmpl="{}x2", quiet=True)
    with pytest.raises(UserError, match=r"'filename_tmpl': '\{\}x2'.*choose another folder"):
        crop_subimages(tmp_path / "lq", tmp_path / "out", crop=16, step=16, quiet=True)


@pytest.mark.parametrize("template", ["x2", "{}x{}", "{0.x}", "a/{}", "{}}"])
def test_what_is_no_template_is_refused_everywhere(tmp_path, make_folder, template):
    make_folder(tmp_path / "gt", [(40, 40, 3)])
    make_folder(tmp_path / "lq", [(20, 20, 3)])
    folders = {"lq": tmp_path / "lq", "scale": 2}
    with pytest.raises(UserError, match=r"template '.*' must contain \{\} exactly once"):
        check_folder(tmp_path / "gt", **folders, filename_tmpl=template)
    with pytest.raises(UserError, match="exactly once"):
        crop_subimages(tmp_path / "gt", tmp_path / "out", filename_tmpl=template, quiet=True)
    with pytest.raises(UserError, match="exactly once"):
        write_meta_info([tmp_path / "gt"], tmp_path / "m.txt", lq=[tmp_path / "lq"], filename_tmpl=template)


def test_what_is_for_pairs_needs_the_other_folder(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(40, 40, 3)])
    with pytest.raises(UserError, match="--scale is for pairs"):
        check_folder(tmp_path / "gt", scale=2)
    with pytest.raises(UserError, match="--filename-tmpl is for pairs"):
        check_folder(tmp_path / "gt", filename_tmpl="{}x2")
    with pytest.raises(UserError, match="is for pairs: give --input-lq"):
        write_meta_info([tmp_path / "gt"], tmp_path / "m.txt", filename_tmpl="{}x2")


def test_it_continues_where_it_was_stopped(tmp_path, make_folder):
    make_folder(tmp_path / "in", [(40, 40, 3)] * 2)
    time.sleep(0.02)  # files written within one tick of the clock count as older
    first = crop_subimages(tmp_path / "in", tmp_path / "out", crop=20, step=20, quiet=True)
    assert first.written == 8
    (tmp_path / "out" / "p1_s003.png").unlink()
    second = crop_subimages(tmp_path / "in", tmp_path / "out", crop=20, step=20, quiet=True)
    assert (second.written, second.present) == (1, 7)
    time.sleep(0.02)
    (changed,) = make_folder(tmp_path / "in", [(40, 40, 3)], seed=8)
    third = crop_subimages(tmp_path / "in", tmp_path / "out", crop=20, step=20, quiet=True)
    assert (third.written, third.present) == (4, 4)
    part = read_image(tmp_path / "out" / "p0_s004.png").pixels
    assert np.array_equal(part, read_image(changed).pixels[20:, 20:])


def test_small_and_unreadable_pictures_are_reported(tmp_path, make_folder):
    paths = make_folder(tmp_path / "in", [(40, 40, 3), (10, 40, 3), (40, 40, 3)])
    paths[2].write_bytes(b"nothing")
    report = crop_subimages(tmp_path / "in", tmp_path / "out", crop=20, step=20, quiet=True)
    assert report.pictures == 1 and "p1.png: 10x40" in report.small[0] and "p2.png" in report.failed[0]


def test_a_dry_run_writes_nothing(tmp_path, make_folder):
    make_folder(tmp_path / "in", [(40, 40, 3)])
    report = crop_subimages(tmp_path / "in", tmp_path / "out", crop=20, step=20, dry_run=True, quiet=True)
    assert report.written == 4 and not (tmp_path / "out").exists()
    assert "would be written" in report.lines(dry_run=True)[0]


def test_crop_mistakes(tmp_path, make_folder):
    make_folder(tmp_path / "in", [(40, 40, 3)])
    with pytest.raises(UserError, match="lies in"):
        crop_subimages(tmp_path / "in", tmp_path / "in" / "out", quiet=True)
    with pytest.raises(UserError, match="must be at least 1"):
        crop_subimages(tmp_path / "in", tmp_path / "out", step=0, quiet=True)
    crop_subimages(tmp_path / "in", tmp_path / "out", crop=20, step=20, quiet=True)
    with pytest.raises(UserError, match=r"'step': 20.*'step': 10.*choose another"):
        crop_subimages(tmp_path / "in", tmp_path / "out", crop=20, step=10, quiet=True)
    write_image(tmp_path / "in" / "p0.bmp", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(UserError, match=r"would all be written as p0_s001\.png"):
        crop_subimages(tmp_path / "in", tmp_path / "other", crop=20, step=20, quiet=True)


# preview


def test_the_sheet_shows_what_the_network_sees(tmp_path, make_folder, open_data):
    make_folder(tmp_path / "gt", [(40, 40, 3)] * 3)
    data = open_data(tmp_path / "gt")
    assert preview_sheet(data, tmp_path / "sheet.png", steps=[2, 3]) == 8
    sheet = read_image(tmp_path / "sheet.png").pixels
    for step in (2, 3):
        (batch,) = data.batches(step, step)
        for lq, gt in zip(batch.lq, batch.gt, strict=True):
            large = lq.repeat_interleave(2, 1).repeat_interleave(2, 2)
            tile = np.concatenate([part.permute(1, 2, 0).numpy() for part in (large, gt)], axis=1)
            assert _contains(sheet, np.rint(tile * 255).astype(np.uint8))


def _contains(sheet: np.ndarray, tile: np.ndarray) -> bool:
    height, width = tile.shape[:2]
    for y, x in np.argwhere((sheet[: 1 - height, : 1 - width] == tile[0, 0]).all(axis=2)):
        if np.array_equal(sheet[y : y + height, x : x + width], tile):
            return True
    return False


def test_every_tile_has_a_label(tmp_path):
    tiles = [np.zeros((30, 200, 3), np.uint8)] * 3
    write_sheet(tmp_path / "plain.png", tiles, ["", "", ""])
    write_sheet(tmp_path / "named.png", tiles, ["a.png @ 1,2", "x" * 100, "c"])
    plain, named = (read_image(tmp_path / f"{name}.png").pixels for name in ("plain", "named"))
    assert plain.shape == named.shape and (plain != named).any()


# commands


def test_check_and_crop_commands(tmp_path, make_folder):
    paths = make_folder(tmp_path / "gt", [(40, 40, 3)] * 2)
    runner = CliRunner()
    good = runner.invoke(commands.app, ["check", str(tmp_path / "gt")])
    assert good.exit_code == 0 and "all good" in good.output
    cut = runner.invoke(
        commands.app,
        ["crop", str(tmp_path / "gt"), "-o", str(tmp_path / "sub"), "--crop", "20", "--step", "20"],
    )
    assert cut.exit_code == 0 and "2 pictures, 8 sub-images written" in cut.output
    paths[0].write_bytes(b"nothing")
    bad = runner.invoke(commands.app, ["check", str(tmp_path / "gt")])
    assert bad.exit_code == 1 and "unreadable: 1" in bad.output
    missing = runner.invoke(commands.app, ["check", str(tmp_path / "none")])
    assert isinstance(missing.exception, UserError)


RUN = """
name: preview
scale: 2
datasets:
  train:
    dataroot_gt: {root}
    gt_size: 16
    batch_size_per_gpu: 4
network_g:
  type: SRVGGNetCompact
  num_feat: 8
  num_conv: 2
cache:
  folder: {cache}
"""


def test_preview_and_shards_commands(tmp_path, make_folder):
    pytest.importorskip("atelier.options.read")
    make_folder(tmp_path / "gt", [(40, 40, 3)] * 2)
    opt = tmp_path / "run.yml"
    opt.write_text(RUN.format(root=tmp_path / "gt", cache=tmp_path / "cache"))
    runner = CliRunner()
    built = runner.invoke(commands.app, ["shards", "-opt", str(opt)], catch_exceptions=False)
    assert built.exit_code == 0 and "2 pictures, 0.000 GB, built" in built.output
    again = runner.invoke(commands.app, ["shards", "-opt", str(opt)], catch_exceptions=False)
    assert "there already" in again.output
    sheet = tmp_path / "sheet.png"
    shown = runner.invoke(
        commands.app,
        ["preview", "-opt", str(opt), "-o", str(sheet), "--steps", "2", "datasets.train.gt_size=24"],
        catch_exceptions=False,
    )
    assert shown.exit_code == 0 and "8 samples of step 1 to 2" in shown.output and sheet.is_file()
    assert f"{tmp_path / 'sheet_steps.png'} and .json" in shown.output.replace("\n", "")
    assert (tmp_path / "sheet_steps.png").is_file() and (tmp_path / "sheet_steps.json").is_file()
    off = runner.invoke(commands.app, ["shards", "-opt", str(opt), "cache.enabled=false"])
    assert isinstance(off.exception, UserError)
