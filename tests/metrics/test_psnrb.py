"""PSNR-B against the paper's definition pixel by pixel and against numbers of the field's program."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atelier.errors import UserError
from atelier.images import rgb_to_y
from atelier.metrics import METRICS, psnr, psnrb


def blocky_and_clean(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    y, x, k = np.mgrid[0:height, 0:width, 0:channels]
    smooth = (3 * x + 5 * y + 7 * k) // 2 % 180 + 30
    blocky = smooth + ((x // 8 + y // 8 + k) % 3 - 1) * 9
    return blocky.clip(0, 255).astype(np.uint8), smooth.astype(np.uint8)


def by_definition(restored: np.ndarray, gt: np.ndarray, peak: float) -> float:
    """Written out pair by pair from the paper, for planes whose sides are multiples of 8."""
    height, width = restored.shape
    edge: list[float] = []
    inside: list[float] = []
    for row in range(height):
        for column in range(width - 1):
            step = (restored[row, column] - restored[row, column + 1]) ** 2
            (edge if column % 8 == 7 else inside).append(step)
    for column in range(width):
        for row in range(height - 1):
            step = (restored[row, column] - restored[row + 1, column]) ** 2
            (edge if row % 8 == 7 else inside).append(step)
    weight = math.log2(8) / math.log2(min(height, width)) if np.mean(edge) > np.mean(inside) else 0.0
    error = np.mean((restored - gt) ** 2) + weight * (np.mean(edge) - np.mean(inside))
    return 10 * math.log10(peak**2 / error)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.integers(2, 4), st.integers(2, 4))
def test_agrees_with_the_definition(seed, rows, columns):
    rng = np.random.default_rng(seed)
    gt = rng.integers(0, 256, (8 * rows, 8 * columns, 1), dtype=np.uint8)
    steps = np.kron(rng.integers(-20, 21, (rows, columns)), np.ones((8, 8), int))[:, :, None]
    restored = (gt // 4 + 90 + steps).clip(0, 255).astype(np.uint8)
    planes = restored[:, :, 0].astype(float), gt[:, :, 0].astype(float)
    assert psnrb(restored, gt) == pytest.approx(by_definition(*planes, 255), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "forwards", "backwards"),
    # Computed with the formula of the field's programs (KAIR, SwinIR), float64.
    [
        ((64, 48, 1), 26.13876996768502, 28.58334226246365),
        ((64, 48, 3), 27.186341946055084, 30.0656914277875),
        ((45, 53, 1), 27.2831811459644, 30.82054458811623),
        ((45, 53, 3), 25.675847943202758, 29.166986418417764),
    ],
)
def test_numbers_of_the_field(shape, forwards, backwards):
    blocky, clean = blocky_and_clean(*shape)
    assert psnrb(blocky, clean) == pytest.approx(forwards, abs=1e-6)
    assert psnrb(clean, blocky) == pytest.approx(backwards, abs=1e-6)


def test_equals_psnr_where_there_are_no_block_edges_and_is_lower_where_there_are():
    y, x, _ = np.mgrid[0:40, 0:48, 0:1]
    ramp = (x + y).astype(np.uint8)  # equal steps everywhere
    assert psnrb(ramp, ramp + np.uint8(5)) == pytest.approx(psnr(ramp, ramp + np.uint8(5)), rel=1e-12)
    assert psnrb(ramp, ramp) == math.inf
    blocky, clean = blocky_and_clean(48, 48, 1)
    assert psnrb(blocky, clean) < psnr(blocky, clean) - 0.5
    moved = np.roll(blocky, 4, axis=(0, 1)), np.roll(clean, 4, axis=(0, 1))
    assert psnrb(*moved) > psnrb(blocky, clean)  # teeth: elsewhere than on the grid steps are no blocks


def test_types_y_and_crop():
    blocky, clean = blocky_and_clean(64, 64, 3)
    floats = [picture.astype(np.float32) / np.float32(255) for picture in (blocky, clean)]
    wide = [picture.astype(np.uint16) * 257 for picture in (blocky, clean)]
    assert psnrb(*floats) == pytest.approx(psnrb(blocky, clean), rel=1e-5)
    assert psnrb(*wide) == pytest.approx(psnrb(blocky, clean), rel=1e-12)
    luma = [rgb_to_y(picture.astype(np.float64) / 255).astype(np.float64) for picture in (blocky, clean)]
    assert psnrb(blocky, clean, y=True) == pytest.approx(psnrb(*luma), rel=1e-9)
    inner = psnrb(np.ascontiguousarray(blocky[8:-8, 8:-8]), np.ascontiguousarray(clean[8:-8, 8:-8]))
    assert psnrb(blocky, clean, crop_border=8) == inner
    with pytest.raises(UserError, match="at least 16×16"):
        psnrb(blocky[:15], clean[:15])


def test_options_and_label():
    metric = METRICS.options_class("calculate_psnrb")(type="calculate_psnrb").build(1)
    assert metric.protocol == "PSNR-B-RGB (crop 0)" and metric.higher_is_better
    grey = METRICS.options_class("psnrb")(type="psnrb", test_y_channel=True).build(1)
    assert grey.protocol == "PSNR-B-Y (BT.601, crop 0)"
    for border in (4, None):
        with pytest.raises(ValidationError, match="multiple of 8"):
            METRICS.options_class("psnrb")(type="psnrb", crop_border=border)
