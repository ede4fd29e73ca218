"""The formulas of distillation against numpy written from the text of the formula alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from atelier.errors import UserError
from atelier.losses.affinity import Affinity, affinity_loss
from atelier.losses.attention import attention_loss
from atelier.losses.distances import distances
from atelier.losses.feature import feature_loss, same_places
from atelier.losses.frequency import haar_bands, haar_loss, spectrum_loss
from atelier.losses.response import better_mask, hard_mask, response_loss

LOSSES = ["l1", "l2", "charbonnier", "smooth_l1"]
PRECISIONS = [(torch.float32, 1e-6), (torch.float64, 1e-12)]


def arrays(*shapes: tuple[int, ...], seed: int = 0, features: bool = False) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=s) * 2 if features else generator.random(s) for s in shapes]


def agree(function: Any, given: list[np.ndarray], expected: float) -> None:
    """The torch function on ``given`` is ``expected`` in both precisions; a float32 answer stays float32."""
    for dtype, tolerance in PRECISIONS:
        value = function(*(torch.from_numpy(each).to(dtype) for each in given))
        assert value.shape == () and value.dtype == dtype
        assert value.item() == pytest.approx(expected, rel=tolerance, abs=tolerance)


def rho(d: np.ndarray, kind: str) -> np.ndarray:
    return {
        "l1": np.abs(d),
        "l2": d**2,
        "charbonnier": np.sqrt(d**2 + 1e-12),
        "smooth_l1": np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 0.5),
    }[kind]


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("mask", ["none", "better", "hard"])
def test_response(kind: str, mask: str) -> None:
    given = arrays((3, 3, 8, 9), (3, 3, 8, 9), (3, 3, 8, 9))
    s, t, g = given
    if mask == "better":
        m = (np.abs(t - g).mean(1) < np.abs(s - g).mean(1)).astype(float)[:, None]
        assert 0.2 < m.mean() < 0.8
    elif mask == "hard":
        m = np.stack([np.minimum(np.abs(a - b) / np.abs(a - b).mean(), 4) for a, b in zip(s, g, strict=True)])
    else:
        m = np.ones_like(s)
    expected = float((m * rho(s - t, kind)).mean())
    agree(lambda a, b, c: response_loss(a, b, c, kind, mask), given, expected)


def test_masks_at_their_edges() -> None:
    gt = torch.zeros(1, 3, 4, 4)
    assert not hard_mask(gt, gt).any()  # a perfect student, no division by zero
    assert not better_mask(gt, gt, gt).any()  # a teacher as good is not better
    one_wrong = gt.clone()
    one_wrong[0, 0, 0, 0] = 1.0
    assert hard_mask(one_wrong, gt).max() == 4  # 48 times the mean, clipped


def test_a_batch_is_the_mean_of_its_samples() -> None:
    """So ranks and micro-batches that share a batch compute the same."""
    student, teacher, gt = (torch.from_numpy(each) for each in arrays(*[(4, 3, 6, 6)] * 3))
    student[0] = gt[0] * 0.99
    for mask in ("none", "better", "hard"):
        whole = response_loss(student, teacher, gt, "l1", mask)
        rows = zip(student, teacher, gt, strict=True)
        single = [response_loss(a[None], b[None], c[None], "l1", mask) for a, b, c in rows]
        torch.testing.assert_close(whole, torch.stack(single).mean(), rtol=1e-12, atol=0)


def test_unequal_shapes_are_refused() -> None:
    for kind in LOSSES:
        with pytest.raises(ValueError, match="equal shapes"):
            distances(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), kind)
    with pytest.raises(ValueError, match="differ"):
        feature_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), "cosine")


@pytest.mark.parametrize("kind", ["smooth_l1", "l1", "l2", "cosine"])
def test_feature(kind: str) -> None:
    given = arrays((2, 5, 6, 7), (2, 5, 6, 7), features=True)
    s, t = given
    if kind == "cosine":
        cosine = (s * t).sum(1) / np.sqrt((s**2).sum(1)) / np.sqrt((t**2).sum(1))
        expected = 1 - cosine.mean()
    else:
        expected = rho(s - t, kind).mean()
    agree(lambda a, b: feature_loss(a, b, kind), given, float(expected))


def test_same_places_averages_the_larger_map() -> None:
    (large,) = arrays((2, 3, 8, 12), features=True)
    small = torch.zeros(2, 5, 4, 6, dtype=torch.float64)
    expected = torch.from_numpy(large.reshape(2, 3, 4, 2, 6, 2).mean((3, 5)))
    for pair in ((torch.from_numpy(large), small), (small, torch.from_numpy(large))):
        fitted = same_places(*pair)
        assert [tuple(each.shape[-2:]) for each in fitted] == [(4, 6), (4, 6)]
        (averaged,) = (each for each in fitted if each.shape[1] == 3)
        torch.testing.assert_close(averaged, expected)


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=0, keepdims=True)


def places(feature: np.ndarray) -> np.ndarray:
    """F̂ᵀF̂ of one C×h×w map."""
    columns = unit(feature.reshape(feature.shape[0], -1))
    return columns.T @ columns


def numpy_affinity(s: np.ndarray, t: np.ndarray, mode: str, side: int) -> float:
    differences = []
    if mode == "batch":
        rows = [unit(each.reshape(len(each), -1).T) for each in (s, t)]
        return float(np.abs(rows[0].T @ rows[0] - rows[1].T @ rows[1]).mean())
    for a, b in zip(s, t, strict=True):
        if mode == "channel":
            rows = [unit(each.reshape(len(each), -1).T) for each in (a, b)]
            differences.append(np.abs(rows[0].T @ rows[0] - rows[1].T @ rows[1]).ravel())
            continue
        if mode == "full":
            differences.append(np.abs(places(a) - places(b)).ravel())
            continue
        starts = [(y, x) for y in range(0, a.shape[1], side) for x in range(0, a.shape[2], side)]
        pieces = [[f[:, y : y + side, x : x + side] for y, x in starts] for f in (a, b)]
        if mode == "window":
            differences += [np.abs(places(p) - places(q)).ravel() for p, q in zip(*pieces, strict=True)]
        else:
            pooled = [np.stack([p.mean((1, 2)) for p in each], axis=1)[:, :, None] for each in pieces]
            differences.append(np.abs(places(pooled[0]) - places(pooled[1])).ravel())
    return float(np.concatenate(differences).mean())


@pytest.mark.parametrize("mode", ["window", "pooled", "full", "channel", "batch"])
@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (7, 10, 4), (6, 5, 8)])
def test_affinity(mode: Any, height: int, width: int, side: int) -> None:
    teacher_channels = 3 if mode == "channel" else 5
    given = arrays((3, 3, height, width), (3, teacher_channels, height, width), features=True)
    side = min(side, 4) if mode == "pooled" else side  # a map of one place is refused
    affinity = Affinity(mode, window=side, pooled=side)
    agree(lambda a, b: affinity_loss(a, b, affinity), given, numpy_affinity(given[0], given[1], mode, side))


def test_one_window_over_the_whole_map_is_full() -> None:
    student, teacher = (torch.from_numpy(each) for each in arrays((2, 3, 8, 8), (2, 6, 8, 8), features=True))
    window = affinity_loss(student, teacher, Affinity("window", window=8))
    torch.testing.assert_close(window, affinity_loss(student, teacher, Affinity("full")), rtol=1e-12, atol=0)
    larger = Affinity("window", window=1000)  # as large as the map, not 1000^4 products
    assert larger.elements((2, 3, 8, 8)) == 2 * 8**4
    assert torch.equal(affinity_loss(student, teacher, larger), window)
    parts = affinity_loss(student, teacher, Affinity("window", window=4))
    assert parts.item() != pytest.approx(window.item(), rel=1e-3)


def test_affinity_that_would_not_fit_is_refused_before_it_is_allocated() -> None:
    """65,536² products at batch 1 for a 256×256 map; the second one would be 16 million TiB."""
    for side, elements in ((256, 65536**2), (2**20, (2**40) ** 2)):
        feature = torch.zeros(1, 1, 1, 1).expand(1, 1, side, side)
        full = Affinity("full")
        assert full.elements(tuple(feature.shape)) == elements
        with pytest.raises(
            UserError, match=rf"mode full on features 1×1×{side}×{side} needs {elements:,} products"
        ):
            affinity_loss(feature, feature, full)
    assert Affinity("window").elements((1, 9, 256, 256)) == 256 * 256 * 64
    assert Affinity("pooled", pooled=4).elements((2, 9, 64, 62)) == 2 * (16 * 16) ** 2
    exact = Affinity("full", max_elements=16**2)
    exact.check((1, 2, 4, 4))
    with pytest.raises(UserError, match="window"):
        exact.check((1, 2, 4, 5))


def test_affinity_that_says_nothing_is_refused() -> None:
    one, other = torch.ones(1, 3, 4, 4), torch.ones(1, 4, 4, 4)
    with pytest.raises(UserError, match="the batch has one"):
        affinity_loss(one, one, Affinity("batch"))
    with pytest.raises(UserError, match="student has 3 and the teacher 4"):
        affinity_loss(one, other, Affinity("channel"))
    with pytest.raises(UserError, match=r"pooled: 4 leaves one place of a map of 4×4"):
        affinity_loss(one, one, Affinity("pooled", pooled=4))


def test_attention() -> None:
    given = arrays((3, 4, 6, 5), (3, 7, 6, 5), features=True)
    maps = [(each**2).sum(1).reshape(3, -1) for each in given]
    first, second = (each / np.sqrt((each**2).sum(1, keepdims=True)) for each in maps)
    agree(attention_loss, given, float(((first - second) ** 2).sum(1).mean()))


@pytest.mark.parametrize("size", [(8, 8), (7, 6), (6, 9), (5, 5)])
@pytest.mark.parametrize("highpass", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_spectrum(size: tuple[int, int], highpass: float, kind: Any) -> None:
    given = arrays((2, 3, *size), (2, 3, *size))
    spectrum = np.abs(np.fft.fft2(given[0] - given[1], norm="ortho"))
    down, across = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij")
    weight = 1 - highpass * (1 - np.sqrt(down**2 + across**2) / np.sqrt(0.5))
    expected = (weight * (spectrum if kind == "l1" else spectrum**2)).mean()
    agree(lambda a, b: spectrum_loss(a, b, kind, highpass), given, float(expected))


@pytest.mark.parametrize("size", [(8, 8), (7, 6), (6, 9)])
def test_spectrum_with_l2_is_pixel_l2(size: tuple[int, int]) -> None:
    given = arrays((2, 3, *size), (2, 3, *size))
    agree(lambda a, b: spectrum_loss(a, b, "l2"), given, float(((given[0] - given[1]) ** 2).mean()))


def numpy_haar(picture: np.ndarray) -> list[np.ndarray]:
    """LL, LH, HL, HH by filtering rows, then columns."""

    def halves(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        if x.shape[axis] % 2:
            x = np.concatenate([x, x.take([-1], axis)], axis)
        even, odd = x.take(range(0, x.shape[axis], 2), axis), x.take(range(1, x.shape[axis], 2), axis)
        return (even + odd) / np.sqrt(2), (even - odd) / np.sqrt(2)

    return [band for part in halves(picture, 2) for band in halves(part, 3)]


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (6, 9), (5, 5)])
def test_haar(size: tuple[int, int]) -> None:
    given = arrays((2, 3, *size), (2, 3, *size))
    weights = (0.5, 1.0, 2.0, 3.0)
    bands = zip(*(numpy_haar(each) for each in given), strict=True)
    expected = sum(w * np.abs(a - b).mean() for w, (a, b) in zip(weights, bands, strict=True))
    agree(lambda a, b: haar_loss(a, b, weights), given, float(expected))


def test_haar_bands_restore_the_picture() -> None:
    picture = torch.from_numpy(arrays((2, 3, 8, 6))[0])
    bands = haar_bands(picture)
    assert bands.shape == (2, 4, 3, 4, 3)
    ll, lh, hl, hh = bands.unbind(1)
    restored = torch.empty_like(picture)
    for row, down in ((0, 1), (1, -1)):
        for column, across in ((0, 1), (1, -1)):
            restored[:, :, row::2, column::2] = (ll + across * lh + down * hl + down * across * hh) / 2
    torch.testing.assert_close(restored, picture, rtol=0, atol=1e-15)
    torch.testing.assert_close(bands.square().sum(), picture.square().sum())  # orthonormal
    stripes = torch.zeros(1, 1, 4, 4)
    stripes[..., 0::2, :] = 1  # changes along the height only
    assert [bool(each.any()) for each in haar_bands(stripes).unbind(1)] == [True, False, True, False]


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: response_loss(a, b, b, "l2"),
        lambda a, b: feature_loss(a, b, "cosine"),
        attention_loss,
        lambda a, b: affinity_loss(a, b, Affinity("window", window=4)),
        spectrum_loss,
        haar_loss,
    ],
)
def test_half_precision_is_computed_in_float32(function: Any) -> None:
    first, second = (torch.from_numpy(each).bfloat16() for each in arrays((2, 3, 8, 8), (2, 3, 8, 8)))
    expected = function(first.float(), second.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = function(first, second)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
