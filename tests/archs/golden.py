"""Formula-filled weights and the numbers that the official colorization networks gave for them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from support import SHARED

KEYS = SHARED / "spec" / "keys"


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    path = KEYS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"the key list {name}.json is not in the shared folder")
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


def golden(name: str) -> dict[str, Any]:
    path = KEYS / "colorize_golden.json"
    if not path.is_file():
        pytest.skip("colorize_golden.json is not in the shared folder")
    numbers: dict[str, Any] = json.loads(path.read_text())[name]
    return numbers


def _rule(key: str, shape: tuple[int, ...], z: np.ndarray) -> np.ndarray:
    if key.endswith("running_mean"):
        return 0.1 * z
    if key.endswith("running_var"):
        return 1 + 0.2 * np.abs(z)
    if key.endswith("gamma"):
        return np.full(shape, 0.5)
    if len(shape) >= 2:
        return z / math.sqrt(math.prod(shape[1:]))
    if key.endswith("weight"):
        return 0.25 + 0.05 * z if shape == (1,) else 1 + 0.1 * z
    return 0.1 * z


def formula_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights drawn in sorted order of the keys; buffers of counts and indices are left out."""
    draw = np.random.RandomState(seed)
    state: dict[str, Tensor] = {}
    for key in sorted(shapes):
        if key.endswith(("num_batches_tracked", "rel_ind")) or ".norm3." in key:
            continue
        shape = shapes[key]
        value = _rule(key, shape, np.asarray(draw.standard_normal(shape)))
        if key.startswith("update_block.flow_head.ffn2.2."):
            value = value * 0.01
        state[key] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    for key in shapes:
        if ".norm3." in key and (twin := key.replace(".norm3.", ".downsample.1.")) in state:
            state[key] = state[twin]
    return state


def agrees(result: Tensor, expected: dict[str, Any], tolerance: float) -> None:
    """Shape, mean, deviation and the points of batch item 0."""
    assert list(result.shape) == expected["shape"]
    assert result.mean().item() == pytest.approx(expected["mean"], abs=tolerance)
    assert result.std(correction=0).item() == pytest.approx(expected["std"], abs=tolerance)
    for place, values in expected["points"].items():
        y, x = map(int, place.split(","))
        assert result[0, :, y, x].tolist() == pytest.approx(values, abs=tolerance), place
