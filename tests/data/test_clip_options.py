"""Option files of clips: what fits together, and what each key that does nothing is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from atelier.data.clip_options import TrainClipsOptions, ValClipsOptions
from atelier.data.options import DATASETS, VAL_DATASETS


def test_clips_are_a_type_of_both_registries() -> None:
    assert DATASETS.options_class("clips") is TrainClipsOptions
    assert VAL_DATASETS.options_class("clips") is ValClipsOptions


def test_the_options_load_neither_torch_nor_opencv() -> None:
    code = (
        "import sys, atelier.data.clip_options\n"
        "sys.exit(', '.join(set(sys.modules) & {'torch', 'cv2', 'av', 'skimage'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layout": "synthetic", "clip_length": 1}, "a clip of 1 frame has no motion"),
        ({"layout": "folders"}, "layout folders needs roots"),
        ({"layout": "synthetic", "roots": "films"}, "roots: does nothing with layout synthetic"),
        ({"layout": "folders", "roots": "films", "csv": "a.csv"}, "csv: does nothing with layout folders"),
        ({"layout": "csv", "roots": ["a", "b"], "csv": "a.csv"}, "csv lists 1, roots 2"),
        ({"layout": "folders", "roots": "films", "pictures": ["coffee"]}, "pictures: does nothing"),
        ({"layout": "synthetic", "pictures": ["lena"]}, "lena"),
        ({"layout": "synthetic", "pictures": []}, "the list is empty"),
        ({"layout": "synthetic", "crop": (32, 48)}, "square frames, not 32x48"),
        ({"layout": "synthetic", "clip_length": 48}, "at most 50 frames"),
        (
            {"layout": "synthetic", "reference": {"external": 0.2}},
            "external does nothing with layout synthetic",
        ),
        (
            {"layout": "pairs", "roots": "p", "reference": {"min_gap": 2}},
            "min_gap does nothing with layout pairs",
        ),
        ({"layout": "synthetic", "reference": {"count": 2}}, "one reference a clip"),
        ({"layout": "folders", "roots": "f", "reference": {"count": 0}}, "without any reference"),
        ({"layout": "tapes"}, "layout"),
    ],
)
def test_keys_that_contradict_each_other_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainClipsOptions(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layout": "synthetic", "middle": 32}, "middle does nothing for clips"),
        ({"layout": "pairs", "roots": "p"}, "for training"),
        ({"layout": "synthetic", "clip_length": None}, "set clip_length"),
        ({"layout": "folders", "roots": "f", "clips": 2}, "clips: for layout synthetic"),
        ({"layout": "synthetic", "reference": {"source": "listed"}}, "list no references"),
        (
            {"layout": "folders", "roots": "f", "reference": {"source": "listed", "role": "anchor"}},
            "own first frame",
        ),
        ({"layout": "folders", "roots": "f", "reference": {"count": 2}}, "count does nothing"),
    ],
)
def test_keys_of_validation_that_contradict_each_other_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ValClipsOptions(**given)


def test_crops_must_suit_the_network() -> None:
    options = TrainClipsOptions(layout="folders", roots="f", crop=(64, 100))
    options.check_fit(1, 4)
    assert options.crop_size == (64, 100)
    assert TrainClipsOptions(layout="folders", roots="f", crop=64).crop_size == (64, 64)
    assert TrainClipsOptions(layout="folders", roots="f", short_side=96).crop_size == (96, 96)
    with pytest.raises(ValueError, match="multiples of 8; the nearest side is 96"):
        options.check_fit(1, 8)
    with pytest.raises(ValueError, match="not for scale 2"):
        options.check_fit(2, 1)


def test_one_path_stands_for_a_list_and_all_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILMS", "/films")
    options = TrainClipsOptions(layout="csv", roots="$FILMS", reference_roots=["a", "b"])
    assert options.roots == [Path("/films")]
    assert options.paths() == {"roots": [Path("/films")], "reference_roots": [Path("a"), Path("b")]}
    assert options.summary() == "csv /films"
