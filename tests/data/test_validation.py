from __future__ import annotations

import numpy as np
import pytest

from atelier.data.options import ValImagesOptions
from atelier.data.sources import Item
from atelier.data.validation import ValidationSet, unique_names
from atelier.degrade.bicubic import Bicubic
from atelier.degrade.noise import GaussianNoise
from atelier.errors import UserError
from atelier.images import imresize, read_image
from atelier.randomness import Streams


def open_set(root, *, scale=2, degradation=None, in_channels=3, seed=0, **given):
    options = ValImagesOptions(dataroot_gt=root, **given)
    return ValidationSet(options, scale=scale, degradation=degradation, seed=seed, in_channels=in_channels)


def test_gt_is_cropped_to_a_multiple_and_lq_made_of_that(tmp_path, make_folder):
    (path,) = make_folder(tmp_path / "gt", [(21, 31, 3)])
    (pair,) = open_set(tmp_path / "gt", scale=4, degradation=Bicubic(4))
    gt = np.ascontiguousarray(read_image(path).pixels[:20, :28])
    assert np.array_equal(pair.gt, gt)
    assert np.array_equal(pair.lq, imresize(gt, scale=1 / 4))
    assert pair.name == "p0" and pair.gt.flags.c_contiguous


def test_pairs_are_taken_as_they_are(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(21, 30, 3), (16, 16, 3)])
    lq = make_folder(tmp_path / "lq", [(10, 15, 3), (8, 8, 3)], seed=3)
    found = open_set(tmp_path / "gt", dataroot_lq=tmp_path / "lq", degradation=Bicubic(2))
    assert len(found) == 2
    for pair, path in zip(found, lq, strict=True):
        assert np.array_equal(pair.lq, read_image(path).pixels)
        assert pair.gt.shape[:2] == (2 * pair.lq.shape[0], 2 * pair.lq.shape[1])


def test_noise_is_the_same_at_every_validation(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(20, 20, 3)] * 2)
    noisy = open_set(tmp_path / "gt", scale=1, degradation=GaussianNoise(1, (25, 25)), seed=4)
    assert np.array_equal(noisy[1].lq, noisy[1].lq)
    field = Streams(4, 0, 1)("noise").standard_normal((20, 20, 3), dtype=np.float32) * np.float32(25 / 255)
    assert np.array_equal(noisy[1].lq, noisy[1].gt.astype(np.float32) / np.float32(255) + field)
    assert not np.array_equal(noisy[0].lq - noisy[0].gt / 255, noisy[1].lq - noisy[1].gt / 255)


def test_grey_network_and_sequence_manners(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 3)] * 3)
    grey = open_set(tmp_path / "gt", degradation=Bicubic(2), in_channels=1)
    assert grey[0].gt.shape == (8, 8, 1) and grey[0].lq.shape == (4, 4, 1)
    assert [pair.name for pair in grey[1:]] == ["p1", "p2"]
    assert grey[-1].name == "p2"
    with pytest.raises(IndexError):
        grey[3]


def test_without_lq_and_without_degradation(tmp_path, make_folder):
    make_folder(tmp_path / "gt", [(8, 8, 3)])
    with pytest.raises(UserError, match="no dataroot_lq"):
        open_set(tmp_path / "gt")


def test_a_truncated_picture_is_named(tmp_path, make_folder):
    (path,) = make_folder(tmp_path / "gt", [(40, 40, 3)])
    whole = path.read_bytes()
    found = open_set(tmp_path / "gt", degradation=Bicubic(2))
    path.write_bytes(whole[:-200])
    with pytest.raises(UserError, match=r"p0\.png"):
        found[0]
    with pytest.raises(UserError, match=r"p0\.png: it is truncated"):
        open_set(tmp_path / "gt", degradation=Bicubic(2))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("a/x.png", 0), ("a/y.png", 0)], ["x", "y"]),
        ([("a/x.png", 0), ("b/x.png", 0), ("y.png", 0)], ["a_x", "b_x", "y"]),
        ([("x.png", 0), ("x.jpg", 0)], ["x_png", "x_jpg"]),
        ([("x.png", 0), ("x.png", 1)], ["0_x_png", "1_x_png"]),
    ],
)
def test_names_are_unique_and_short(given, expected):
    assert unique_names([Item(name, name, "", group) for name, group in given]) == expected


def test_names_stay_unique_against_nasty_folders():
    items = [Item(name, name, "") for name in ("a_x.png", "a/x.png", "b/x.png", "a/x.jpg", "a_x_png.png")]
    names = unique_names(items)
    assert len(set(names)) == len(names)


def test_most_and_middle_measure_a_part() -> None:
    """The first pictures, and of each the middle; lq is made of the cut picture."""
    options = ValImagesOptions(dataroot_gt="bundled", pictures=["astronaut", "chelsea"], most=1, middle=16)
    degradation = Bicubic(2)
    pairs = ValidationSet(options, scale=2, degradation=degradation, seed=0, in_channels=3)
    assert [pair.name for pair in pairs] == ["astronaut"]
    whole = ValidationSet(
        ValImagesOptions(dataroot_gt="bundled", pictures=["astronaut"]),
        scale=2,
        degradation=degradation,
        seed=0,
        in_channels=3,
    )[0]
    assert pairs[0].lq.shape == (16, 16, 3)
    assert np.array_equal(pairs[0].gt, whole.gt[240:272, 240:272])


def test_sizes_are_those_of_what_is_measured(tmp_path, make_folder):
    paths = make_folder(tmp_path / "gt", [(70, 90, 3), (80, 30, 3), (50, 50, 3)])
    found = open_set(tmp_path / "gt", scale=4, degradation=Bicubic(4), middle=16, most=2)
    assert found.sizes() == [(str(paths[0]), 64, 64), (str(paths[1]), 64, 28)]
    assert [size[1:] for size in found.sizes()] == [pair.gt.shape[:2] for pair in found]
