from __future__ import annotations

import sys

import numpy as np
import pytest

from atelier.data.options import ValImagesOptions
from atelier.data.pairs import open_pictures
from atelier.errors import UserError
from atelier.images import read_image

lmdb = pytest.importorskip("lmdb", reason="needs the extra atelier[lmdb]")


def write_lmdb(folder, paths, lines=None):
    """BasicSR's layout."""
    with (
        lmdb.open(str(folder), map_size=1 << 24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for path in paths:
            transaction.put(path.stem.encode(), path.read_bytes())
    shapes = [read_image(path).pixels.shape for path in paths]
    text = [f"{path.stem}.png ({h},{w},{c}) 1" for path, (h, w, c) in zip(paths, shapes, strict=True)]
    (folder / "meta_info.txt").write_text("\n".join(text if lines is None else lines) + "\n")


def opened(folder, **given):
    return open_pictures(ValImagesOptions(dataroot_gt=folder, **given), scale=2, in_channels=3)


def test_pictures_equal_the_files_they_were_made_of(tmp_path, make_folder):
    paths = make_folder(tmp_path / "files", [(8, 9, 3), (10, 7, 3)])
    write_lmdb(tmp_path / "gt.lmdb", paths)
    pictures = opened(tmp_path / "gt.lmdb")
    assert pictures.gt_shapes == [(8, 9, 3), (10, 7, 3)]
    for number, path in enumerate(paths):
        assert np.array_equal(pictures.gt.read(number), read_image(path).pixels)


def test_pairs_of_two_lmdbs_train_like_the_folders(tmp_path, make_folder, open_data):
    gt = make_folder(tmp_path / "gt", [(40, 40, 3)] * 3)
    lq = make_folder(tmp_path / "lq", [(20, 20, 3)] * 3, seed=5)
    write_lmdb(tmp_path / "gt.lmdb", gt)
    write_lmdb(tmp_path / "lq.lmdb", lq)
    (a,) = open_data(tmp_path / "gt", dataroot_lq=tmp_path / "lq", degradation=None).batches(2, 2)
    data = open_data(
        tmp_path / "gt.lmdb", dataroot_lq=tmp_path / "lq.lmdb", degradation=None, num_worker_per_gpu=1
    )
    (b,) = data.batches(2, 2)
    assert np.array_equal(a.gt, b.gt) and np.array_equal(a.lq, b.lq)


def test_mistakes_are_named(tmp_path, make_folder, monkeypatch):
    paths = make_folder(tmp_path / "files", [(8, 8, 3)])
    with pytest.raises(UserError, match=r"none\.lmdb is no LMDB folder: data\.mdb is missing"):
        opened(tmp_path / "none.lmdb")
    write_lmdb(tmp_path / "a.lmdb", paths, ["p0.png (8,8,3) 1", "p0.png (8,8,3) 1"])
    with pytest.raises(UserError, match="keys named twice: p0"):
        opened(tmp_path / "a.lmdb")
    write_lmdb(tmp_path / "b.lmdb", paths, ["gone.png (8,8,3) 1"])
    with pytest.raises(UserError, match="the LMDB has no key 'gone'"):
        opened(tmp_path / "b.lmdb").gt.read(0)
    paths[0].write_bytes(b"no picture")
    write_lmdb(tmp_path / "c.lmdb", [], ["p0.png (8,8,3) 1"])
    with lmdb.open(str(tmp_path / "c.lmdb"), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.put(b"p0", b"no picture")
    with pytest.raises(UserError, match=r"c\.lmdb: p0\.png: cannot be decoded"):
        opened(tmp_path / "c.lmdb").gt.read(0)
    with pytest.raises(UserError, match="an LMDB stands alone"):
        opened([tmp_path / "a.lmdb", tmp_path / "b.lmdb"])
    (tmp_path / "list.txt").write_text("p0.png\n")
    with pytest.raises(UserError, match="read by its own meta_info"):
        opened(tmp_path / "b.lmdb", meta_info=tmp_path / "list.txt")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(
        UserError, match=r"needs the package lmdb; install it with: pip install 'atelier\[lmdb\]'"
    ):
        opened(tmp_path / "b.lmdb").gt.read(0)
