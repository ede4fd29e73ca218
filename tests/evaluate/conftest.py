"""Small validation pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from atelier.images import imresize


@dataclass(frozen=True)
class SmallPair:
    name: str
    lq: np.ndarray[Any, Any]
    gt: np.ndarray[Any, Any]


def make_pairs(count: int, *, scale: int = 2, dtype: Any = np.uint8) -> list[SmallPair]:
    pairs = []
    for index in range(count):
        generator = np.random.default_rng(index)
        coarse = generator.random((3 + index, 4, 3))
        smooth = np.clip(imresize(coarse.astype(np.float32), scale=6), 0, 1)
        gt = np.rint(smooth * np.iinfo(dtype).max).astype(dtype)
        lq = imresize(gt, scale=1 / scale) if scale > 1 else gt // 2
        pairs.append(SmallPair(f"picture{index}", np.ascontiguousarray(lq), np.ascontiguousarray(gt)))
    return pairs


@pytest.fixture
def pairs() -> Callable[..., list[SmallPair]]:
    return make_pairs
