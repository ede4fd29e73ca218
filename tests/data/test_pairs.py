from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atelier.data.channels import channel_problem, fit_channels
from atelier.data.options import TrainImagesOptions, ValImagesOptions
from atelier.data.pairs import match, open_pictures
from atelier.data.sources import Item, listed
from atelier.errors import UserError
from atelier.images import write_image


def pictures(root, *, scale=2, in_channels=3, smallest_gt=0, **given):
    options = ValImagesOptions(dataroot_gt=root, **given)
    return open_pictures(options, scale=scale, in_channels=in_channels, smallest_gt=smallest_gt)


def names(opened):
    return [item.name for item in opened.gt.items]


# folders


def test_folders_are_read_with_their_subfolders_in_a_fixed_order(tmp_path, make_folder):
    make_folder(tmp_path / "gt" / "b", [(8, 8, 3)])
    make_folder(tmp_path / "gt" / "a", [(8, 8, 3)])
    make_folder(tmp_path / "gt", [(8, 8, 3)])
    (tmp_path / "gt" / "notes.txt").write_text("no picture")
    assert sorted(names(pictures(tmp_path / "gt"))) == ["a/p0.png", "b/p0.png", "p0.png"]
    assert names(pictures(tmp_path / "gt")) == names(pictures(tmp_path / "gt"))


def test_several_folders_and_single_files(tmp_path, make_folder):
    make_folder(tmp_path / "a", [(8, 8, 3), (9, 9, 3)])
    (single,) = make_folder(tmp_path / "b", [(10, 10, 3)])
    opened = pictures([tmp_path / "a", single])
    assert names(opened) == ["p0.png", "p1.png", "p0.png"]
    assert [item.group for item in opened.gt.items] == [0, 0, 1]
    assert [shape[0] for shape in opened.gt_shapes] == [8, 9, 10]


def test_non_ascii_names(tmp_path, make_folder):
    make_folder(tmp_path / "Überblick 写真", [(8, 8, 3)])
    assert names(pictures(tmp_path / "Überblick 写真")) == ["p0.png"]


def test_bundled_photographs_are_there_and_disjoint():
    train = open_pictures(TrainImagesOptions(dataroot_gt="bundled"), scale=2, in_channels=3)
    val = pictures("bundled")
    assert len(train.gt) >= 5 and len(val.gt) >= 2
    assert not set(names(train)) & set(names(val))
    assert names(pictures("bundled", pictures=["camera", "coins"], in_channels=1)) == [
        "camera.png",
        "coins.png",
    ]


# bad input


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "dataroot_gt: .*gt does not exist"),
        (lambda root: root.mkdir(), "no pictures in .*gt or its subfolders"),
        (lambda root: (root.mkdir(), (root / "a.txt").write_text("x")), "no pictures in"),
        (lambda root: root.write_text("x"), "is no picture file"),
    ],
)
def test_missing_and_empty_folders(tmp_path, prepare, message):
    prepare(tmp_path / "gt")
    with pytest.raises(UserError, match=message):
        pictures(tmp_path / "gt")


def test_a_folder_without_permission(tmp_path, make_folder, monkeypatch):
    make_folder(tmp_path / "gt", [(8, 8, 3)])
    monkeypatch.setattr("atelier.data.sources.os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="no permission to read the folder"):
        pictures(tmp_path / "gt")


def test_unreadable_pictures_are_listed_together(tmp_path, make_folder):
    paths = make_folder(tmp_path / "gt", [(8, 8, 3)] * 4)
    paths[1].write_bytes(b"this is no picture")
    paths[3].write_bytes(b"")
    with pytest.raises(UserError) as caught:
        pictures(tmp_path / "gt")
    lines = str(caught.value).splitlines()
    assert lines[0] == "data set 'val' cannot be used, 2 problems:"
    assert [any(f"p{k}.png" in line for line in lines) for k in range(4)] == [False, True, False, True]


def test_long_lists_are_cut_and_counted(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 1)] * 27)
    with pytest.raises(UserError) as caught:
        pictures(tmp_path / "gt")
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[-1] == "  ... and 7 more"
    assert str(listed("x", ["a"])) == "x\n  a"


def test_mixed_channel_counts_are_listed_by_file(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 3), (8, 8, 1), (8, 8, 4), (8, 8, 2)])
    with pytest.raises(UserError) as caught:
        pictures(tmp_path / "gt")
    text = str(caught.value)
    assert "p1.png: grey, but the network takes 3 channels; convert_channels: true accepts it" in text
    assert "p2.png: RGB with alpha" in text and "p3.png: grey with alpha" in text and "p0.png" not in text
    assert len(pictures(tmp_path / "gt", convert_channels=True).gt) == 4


def test_rgb_feeds_a_grey_network(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 3), (8, 8, 1)])
    assert len(pictures(tmp_path / "gt", in_channels=1).gt) == 2


def test_pictures_smaller_than_one_lq_pixel(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(3, 9, 3), (4, 9, 3)])
    with pytest.raises(UserError, match=r"1 problem:\n.*p0\.png: 3x9 pixels, smaller than scale 4$"):
        pictures(tmp_path / "gt", scale=4)


# pairs


def pair_folders(tmp_path, make_folder, gt, lq, mark="x2"):
    make_folder(tmp_path / "gt", gt)
    for path in make_folder(tmp_path / "lq", lq):
        path.rename(path.with_name(f"{path.stem}{mark}.png"))
    return {"dataroot_lq": tmp_path / "lq", "filename_tmpl": "{}" + mark}


def test_pairs_match_by_name_and_template(tmp_path, make_folder):
    lq = pair_folders(tmp_path, make_folder, [(8, 10, 3), (12, 6, 3)], [(4, 5, 3), (6, 3, 3)])
    opened = pictures(tmp_path / "gt", **lq)
    assert [item.name for item in opened.lq.items] == ["p0x2.png", "p1x2.png"]
    assert [shape[:2] for shape in opened.lq_shapes] == [(4, 5), (6, 3)]


def test_pairs_match_inside_subfolders_and_across_formats(tmp_path, make_folder):
    make_folder(tmp_path / "gt" / "one", [(8, 8, 3)])
    make_folder(tmp_path / "gt" / "two", [(8, 8, 3)])
    for folder, value in (("one", 10), ("two", 200)):
        write_image(tmp_path / "lq" / folder / "p0.bmp", np.full((4, 4, 3), value, np.uint8))
    opened = pictures(tmp_path / "gt", dataroot_lq=tmp_path / "lq")
    assert [item.stem for item in opened.lq.items] == [item.stem for item in opened.gt.items]
    assert [int(opened.lq.read(k)[0, 0, 0]) for k in range(2)] == [10, 200]


def test_the_rest_of_a_division_may_be_left_over(tmp_path, make_folder):
    lq = pair_folders(tmp_path, make_folder, [(9, 11, 3)], [(4, 5, 3)])
    assert pictures(tmp_path / "gt", **lq).lq_shapes == [(4, 5, 3)]


def test_every_mismatch_is_listed_at_once(tmp_path, make_folder):
    lq = pair_folders(
        tmp_path, make_folder, [(8, 8, 3)] * 5, [(4, 4, 3), (2, 2, 3), (4, 4, 1), (4, 4, 3), (4, 4, 3)]
    )
    (tmp_path / "lq" / "p3x2.png").rename(tmp_path / "lq" / "p7x2.png")
    (tmp_path / "lq" / "p4x2.png").write_bytes(b"torn")
    with pytest.raises(UserError) as caught:
        pictures(tmp_path / "gt", **lq)
    text = str(caught.value)
    assert "p1x2.png: 2x2, but its gt is 8x8: at scale 2 it must be 4x4" in text
    assert "p2x2.png: grey, but the network takes 3" in text
    assert "p3.png: no lq picture named 'p3x2.*'" in text
    assert "p7x2.png: no gt picture for it" in text
    assert "p4x2.png" in text
    assert "5 problems" in text and "p0" not in text


def test_folder_counts_must_agree(tmp_path, make_folder):
    for name in "abc":
        make_folder(tmp_path / name, [(8, 8, 3)])
    with pytest.raises(UserError, match="2 folders in dataroot_gt but 1 in dataroot_lq"):
        pictures([tmp_path / "a", tmp_path / "b"], dataroot_lq=tmp_path / "c")


def test_ambiguous_partners():
    gt = [Item("a.png", "gt/a.png", ""), Item("b.png", "gt/b.png", "")]
    lq = [Item(name, f"lq/{name}", "") for name in ("a.jpg", "a.png", "b.jpg", "b.bmp")]
    partners, problems = match(gt, lq, "{}")
    assert partners == [1, None]
    assert problems[0] == "gt/b.png: several lq pictures: b.jpg, b.bmp"


# channels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_luma_is_rounded_half_up_exactly(dtype):
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top + 1, (50, 60, 3)).astype(dtype)
    weights = np.array([299, 587, 114], dtype=np.int64)
    exact = (2 * (pixels.astype(np.int64) @ weights) + 1000) // 2000
    assert np.array_equal(fit_channels(pixels, 1)[:, :, 0], exact)
    assert fit_channels(np.full((1, 1, 3), top, dtype), 1)[0, 0, 0] == top


def test_conversions_keep_the_rest():
    four = np.arange(16, dtype=np.uint8).reshape(2, 2, 4)
    assert np.array_equal(fit_channels(four, 3), four[:, :, :3])
    two = four[:, :, :2].copy()
    assert np.array_equal(fit_channels(two, 3), np.repeat(two[:, :, :1], 3, axis=2))
    assert np.array_equal(fit_channels(two, 1), two[:, :, :1])
    assert fit_channels(four, 4) is four
    floats = np.full((2, 2, 3), 0.25, np.float32)
    assert fit_channels(floats, 1) == pytest.approx(0.25)
    assert channel_problem(3, 4, True) is not None
    assert channel_problem(4, 4, False) is None


# meta-info files


def write_list(tmp_path, text, name="list.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_meta_info_formats(tmp_path, make_folder):
    paths = make_folder(tmp_path / "gt" / "sub", [(8, 9, 3)] * 4)
    paths[1].rename(tmp_path / "gt" / "sub" / "with blank.png")
    paths[2].rename(tmp_path / "gt" / "sub" / "x (1).png")
    meta = write_list(
        tmp_path,
        "\ufeffsub/p3.png (8,9,3)\r\n\r\n  sub/with blank.png (8, 9, 3)  \r\nsub/x (1).png\r\nsub/p0.png more\r\n",
    )
    opened = pictures(tmp_path / "gt", meta_info=meta)
    assert names(opened) == ["sub/p3.png", "sub/with blank.png", "sub/x (1).png", "sub/p0.png"]


def test_meta_info_with_a_template_chooses_pairs(tmp_path, make_folder):
    lq = pair_folders(tmp_path, make_folder, [(8, 8, 3)] * 3, [(4, 4, 3)] * 3)
    meta = write_list(tmp_path, "p2.png (8,8,3)\np0.png (8,8,3)\n")
    opened = pictures(tmp_path / "gt", meta_info=meta, **lq)
    assert names(opened) == ["p2.png", "p0.png"]
    assert [item.name for item in opened.lq.items] == ["p2x2.png", "p0x2.png"]
    assert np.array_equal(opened.lq.read(0), pictures(tmp_path / "gt", **lq).lq.read(2))


def test_meta_info_with_pairs_in_its_lines(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 3)] * 2)
    make_folder(tmp_path / "lq", [(4, 4, 3)] * 2)
    meta = write_list(tmp_path, "p0.png, p1.png\np1.png (8,8,3), p0.png\n")
    opened = pictures(tmp_path / "gt", dataroot_lq=tmp_path / "lq", meta_info=meta)
    assert [item.name for item in opened.lq.items] == ["p1.png", "p0.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p0.png\n../secret.png\n", r"list\.txt, line 2: '\.\./secret\.png' leaves the data set's folder"),
        ("/etc/picture.png\n", "line 1: '/etc/picture.png' leaves"),
        ("a\\..\\..\\b.png\n", "leaves the data set's folder"),
        ("p0.png\nmissing.png\n", r"list\.txt, line 2: 'missing\.png' is not in .*gt"),
        ("p0.png (8,9,3)\n", r"p0\.png: the meta_info file says \(8, 9, 3\), the picture is \(8, 8, 3\)"),
        ("\n\n", "names no pictures"),
    ],
)
def test_bad_meta_info(tmp_path, make_folder, text, message):
    make_folder(tmp_path / "gt", [(8, 8, 3)])
    with pytest.raises(UserError, match=message):
        pictures(tmp_path / "gt", meta_info=write_list(tmp_path, text))


def test_half_paired_missing_and_binary_meta_info(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 3)] * 2)
    make_folder(tmp_path / "lq", [(4, 4, 3)] * 2)
    both = {"dataroot_lq": tmp_path / "lq"}
    with pytest.raises(UserError, match=r"line 2: 'p1\.png' has no ', lq name'"):
        pictures(tmp_path / "gt", meta_info=write_list(tmp_path, "p0.png, p0.png\np1.png\n"), **both)
    with pytest.raises(UserError, match=r"line 1: 'p9\.png' is not in .*lq"):
        pictures(tmp_path / "gt", meta_info=write_list(tmp_path, "p0.png, p9.png\n"), **both)
    with pytest.raises(UserError, match="cannot read meta_info file"):
        pictures(tmp_path / "gt", meta_info=tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no UTF-8 text"):
        pictures(tmp_path / "gt", meta_info=tmp_path / "binary.txt")


def test_set5_pairs_with_released_lq(tmp_path):
    root = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "Set5"
    if not root.is_dir():
        pytest.skip("needs ../shared/data/Set5")
    opened = pictures(root / "HR", scale=4, dataroot_lq=root / "LR_bicubic" / "X4", filename_tmpl="{}x4")
    assert len(opened.gt) == 5
    with pytest.raises(
        UserError, match=r"babyx2\.png: 256x256, but its gt is 512x512: at scale 4 it must be 128x128"
    ):
        pictures(root / "HR", scale=4, dataroot_lq=root / "LR_bicubic" / "X2", filename_tmpl="{}x2")
