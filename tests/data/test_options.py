from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from atelier.data import options as module
from atelier.data.bundled import COLOUR, GREY, TRAIN_DEFAULT, VAL_DEFAULT, bundled_names, bundled_path
from atelier.data.options import DATASETS, VAL_DATASETS, CacheOptions, TrainImagesOptions, ValImagesOptions
from atelier.errors import UserError
from atelier.images import image_shape


def test_the_smallest_useful_options():
    options = TrainImagesOptions(dataroot_gt="folder")
    assert options.type == "images" and options.dataroot_gt == Path("folder")
    assert options.use_hflip and options.use_rot and options.small_pictures == "pad"


def test_options_survive_their_own_yaml():
    for given in (
        {"dataroot_gt": "bundled", "pictures": ["camera"]},
        {
            "dataroot_gt": ["a", "b"],
            "dataroot_lq": ["c", "d"],
            "filename_tmpl": "{}x4",
            "meta_info_file": "m.txt",
        },
    ):
        options = ValImagesOptions(**given)
        assert ValImagesOptions(**options.model_dump(mode="json")) == options


def test_home_and_variables_are_written_out(monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    options = ValImagesOptions(dataroot_gt="$DATA/gt", dataroot_lq="~/lq")
    assert options.dataroot_gt == Path("/data/gt") and options.dataroot_lq == Path("/home/me/lq")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"dataroot_gt": "bundled", "pictures": ["astronat"]},
            "unknown bundled picture 'astronat'; did you mean 'as",
        ),
        ({"dataroot_gt": "bundled", "pictures": ["coffee", "coffee"]}, "named twice: coffee"),
        ({"dataroot_gt": "bundled", "pictures": []}, "the list is empty"),
        ({"dataroot_gt": "x", "pictures": ["coffee"]}, "pictures does nothing unless dataroot_gt is bundled"),
        (
            {"dataroot_gt": "bundled", "dataroot_lq": "x"},
            "dataroot_lq does nothing with dataroot_gt: bundled",
        ),
        ({"dataroot_gt": "bundled", "meta_info": "x"}, "meta_info does nothing with dataroot_gt: bundled"),
        ({"dataroot_gt": "x", "filename_tmpl": "{}x2"}, "filename_tmpl does nothing without dataroot_lq"),
        ({"dataroot_gt": "x", "dataroot_lq": "y", "filename_tmpl": "x2"}, "must contain {} exactly once"),
        ({"dataroot_gt": []}, "the list of paths is empty"),
        ({"dataroot_gt": "x", "gtsize": 3}, "gtsize"),
        ({"dataroot_gt": "x", "num_worker_per_gpu": -1}, "between 0 and 256"),
        ({"dataroot_gt": "x", "small_pictures": "skip"}, "'pad' or 'error'"),
        ({"dataroot_gt": "x", "gt_size": 0}, "greater than or equal to 1"),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(ValidationError) as caught:
        TrainImagesOptions(**given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("cores", "ranks", "workers"), [(1, 1, 0), (2, 1, 0), (4, 1, 2), (16, 1, 8), (16, 4, 2)]
)
def test_the_number_of_workers_follows_the_cores(monkeypatch, cores, ranks, workers):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert TrainImagesOptions(dataroot_gt="x").workers == workers
    assert TrainImagesOptions(dataroot_gt="x", num_worker_per_gpu=3).workers == 3


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("ATELIER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert CacheOptions().root == Path("/home/me/.cache/atelier")
    monkeypatch.setenv("ATELIER_CACHE", "~/fast")
    assert CacheOptions().root == Path("/home/me/fast")
    assert CacheOptions(folder="/here").root == Path("/here")


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_pictures_are_what_their_list_says(name):
    channels = image_shape(bundled_path(name))[2]
    assert channels == (3 if name in COLOUR else 1)


def test_bundled_defaults_share_no_scene():
    scene = {name.removesuffix("_left").removesuffix("_right") for name in TRAIN_DEFAULT}
    assert not scene & set(VAL_DEFAULT)
    assert not set(COLOUR) & set(GREY)


def test_a_missing_installation_is_one_message(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package scikit-image"):
        bundled_path("coffee")


def test_registries_know_their_types():
    assert DATASETS.options_class("images") is TrainImagesOptions
    assert VAL_DATASETS.options_class("images") is ValImagesOptions
