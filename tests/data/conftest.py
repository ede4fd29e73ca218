from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.data.loader import TrainingData
from atelier.data.options import CacheOptions, TrainImagesOptions
from atelier.degrade.base import DEGRADATIONS
from atelier.images import write_image

Make = Callable[..., list[Path]]


def textured(height: int, width: int, channels: int, seed: int, dtype: Any = np.uint8) -> np.ndarray:
    """A picture in which every place differs from every other."""
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top + 1, (height, width, channels)).astype(dtype)


@pytest.fixture
def make_folder() -> Make:
    """Write textured PNGs: ``make(folder, [(h, w, c), ...])`` -> their paths ``p0.png``, ``p1.png``, ..."""

    def make(
        folder: Path, shapes: list[tuple[int, int, int]], *, dtype: Any = np.uint8, seed: int = 0
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"p{number}.png" for number in range(len(shapes))]
        for number, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
            write_image(path, textured(*shape, seed=100 * seed + number, dtype=dtype))
        return paths

    return make


@pytest.fixture
def open_data(tmp_path: Path) -> Iterator[Callable[..., TrainingData]]:
    """A small TrainingData; keyword arguments go to the option or the constructor they belong to."""
    opened: list[TrainingData] = []

    def open_(root: Any, **given: Any) -> TrainingData:
        own = {"scale": 2, "seed": 7, "global_batch": 4, "in_channels": 3, "rank": 0, "world": 1}
        own |= {key: given.pop(key) for key in own if key in given}
        degradation = given.pop("degradation", {"type": "bicubic"})
        cache = given.pop("cache", CacheOptions(folder=tmp_path / "cache"))
        options = TrainImagesOptions(
            **{"dataroot_gt": root, "gt_size": 16, "batch_size_per_gpu": 4, "num_worker_per_gpu": 0} | given
        )
        spoil = None
        if degradation is not None:
            spoil = DEGRADATIONS.options_class(degradation["type"])(**degradation).build(own["scale"])
        data = TrainingData(options, degradation=spoil, cache=cache, quiet=True, **own)
        opened.append(data)
        return data

    yield open_
    for data in opened:
        data.close()
