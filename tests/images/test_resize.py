"""MATLAB's imresize: the published low-resolution files, a slow exact reference, and what the torch side promises."""

import math
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.images import imresize, read_image
from atelier.images import resize as module

SET5 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "Set5"


@cache
def slow_weights(n, out_length, scale, antialiasing):
    """For each output sample its {input index: weight}, in exact fractions, after MATLAB's documentation of imresize
    (positions count from 1)."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2 if x <= 2 else Fraction(0)

    shrink = scale if scale < 1 and antialiasing else Fraction(1)
    lines = []
    for x in range(1, out_length + 1):
        u = Fraction(x) / scale + Fraction(1, 2) * (1 - 1 / scale)
        reach = math.ceil(2 / shrink) + 1
        line = {}
        for tap in range(math.floor(u) - reach, math.floor(u) + reach + 1):
            place = (tap - 1) % (2 * n)
            place = place if place < n else 2 * n - 1 - place
            line[place] = line.get(place, 0) + kernel(shrink * (u - tap))
        total = sum(line.values())
        lines.append({place: weight / total for place, weight in line.items() if weight})
    return lines


def slow_line(values, out_length, scale, antialiasing=True):
    lines = slow_weights(len(values), out_length, scale, antialiasing)
    return [sum(weight * values[place] for place, weight in line.items()) for line in lines]


def slow(image, height, width, scale_y, scale_x, antialiasing=True, rounded=None):
    """A grey picture by the slow line, smaller scale first, rounded after each dimension where asked."""

    def whole(value):
        return min(max(math.floor(value + Fraction(1, 2)), 0), rounded) if rounded else value

    def down(rows):
        columns = [slow_line(column, height, scale_y, antialiasing) for column in zip(*rows, strict=True)]
        return [[whole(v) for v in row] for row in zip(*columns, strict=True)]

    def across(rows):
        return [[whole(v) for v in slow_line(row, width, scale_x, antialiasing)] for row in rows]

    rows = [[Fraction(float(v)) for v in row] for row in image]
    rows = across(down(rows)) if scale_y <= scale_x else down(across(rows))
    return np.array([[float(v) for v in row] for row in rows])


@pytest.mark.skipif(not SET5.is_dir(), reason="Set5 is not beside the project (../shared/data/Set5)")
@pytest.mark.parametrize("scale", [2, 4])
def test_every_pixel_of_set5_is_matlabs(scale):
    for path in sorted((SET5 / "HR").glob("*.png")):
        given_lr = read_image(SET5 / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png").pixels
        assert np.array_equal(imresize(read_image(path).pixels, 1 / scale), given_lr), path.stem


CASES = [  # scale or size; shapes chosen so that edges, odd sizes and both orders of work occur
    {"scale": 1 / 3},
    {"scale": 0.37},
    {"scale": 1.7},
    {"scale": 0.99},
    {"scale": 4.0},
    {"size": (5, 20)},
    {"size": (30, 4)},
    {"size": (1, 1)},
    {"size": (13, 31)},
]


def reference(image, case, antialiasing=True, rounded=None):
    height, width = image.shape
    if "scale" in case:
        scale = Fraction(case["scale"]).limit_denominator(1000)  # 17/10, not the nearest binary number to it
        size = math.ceil(height * scale), math.ceil(width * scale)
        return slow(image, *size, scale, scale, antialiasing, rounded)
    size = case["size"]
    return slow(image, *size, Fraction(size[0], height), Fraction(size[1], width), antialiasing, rounded)


@pytest.mark.parametrize("antialiasing", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_other_scales_agree_with_the_slow_reference(case, antialiasing):
    image = np.random.default_rng(3).random((13, 17))
    expected = reference(image, case, antialiasing)
    got = imresize(image, antialiasing=antialiasing, **case)
    assert got.dtype == np.float64 and got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-12
    single = imresize(image.astype(np.float32)[:, :, None], antialiasing=antialiasing, **case)
    assert single.dtype == np.float32 and np.abs(single[:, :, 0] - expected).max() < 1e-5
    tensor = imresize(torch.from_numpy(image)[None, None], antialiasing=antialiasing, **case)
    assert tensor.dtype == torch.float64 and np.abs(tensor[0, 0].numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_integers_are_rounded_after_each_dimension(case, dtype):
    full = np.iinfo(dtype).max
    image = np.random.default_rng(4).integers(0, full + 1, (13, 17, 2), dtype=dtype)
    image[:6, :6] = 0
    image[6:, 6:] = full  # overshoot that must be clipped
    before = image.copy()
    got = imresize(image, **case)
    assert got.dtype == dtype and got.flags.c_contiguous and np.array_equal(image, before)
    for k in range(2):
        assert np.array_equal(got[:, :, k], reference(image[:, :, k], case, rounded=full))


def test_exact_ties_go_up_whatever_the_order_of_summation():
    # Thirds: the weights are not exact in binary, the true value is: 0.5 everywhere but for rounding errors.
    image = np.tile(np.array([[0], [1]], np.uint8), (9, 66))
    for scale in (1 / 2, 1 / 3, 1 / 6):
        got = imresize(image, scale)
        expected = reference(image, {"scale": scale}, rounded=255)
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("length", [250, 256, 257, 700])
@pytest.mark.parametrize("scale", [0.25, 1 / 3, 2.5])
def test_blocks_join_without_seam(length, scale):
    line = np.random.default_rng(0).random((length, 3))
    whole = imresize(line, scale=None, size=(math.ceil(length * scale), 3))
    plan = module._plan(length, len(whole), len(whole) / length, True, 10**6)
    dense = np.zeros((len(whole), length))
    for block in plan:
        dense[block.first : block.last, block.start : block.stop] = block.weights
    assert np.allclose(dense.sum(axis=1), 1)
    assert np.abs(dense @ line - whole).max() < 1e-12
    tensor = imresize(torch.from_numpy(line)[None], size=(len(whole), 3))
    assert np.abs(tensor[0].numpy() - whole).max() < 1e-12
    across = imresize(torch.from_numpy(line).T[None], size=(3, len(whole)))
    assert np.abs(across[0].T.numpy() - whole).max() < 1e-12


@pytest.mark.parametrize("case", [{"scale": 0.5}, {"scale": 1.3}, {"size": (5, 9)}], ids=str)
def test_torch_gradients(case):
    # Resizing is linear: the gradient of <w, f(x)> in direction v is <w, f(v)>.
    image, direction = torch.rand(2, 2, 2, 7, 6, dtype=torch.float64).unbind(0)
    image.requires_grad_()
    got = imresize(image, **case)
    weights = torch.rand_like(got)
    (gradient,) = torch.autograd.grad((weights * got).sum(), image)
    expected = (weights * imresize(direction, **case)).sum()
    assert (gradient * direction).sum().item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_long_picture_has_gradients_too():
    image = torch.rand(1, 1, 300, 8, requires_grad=True)
    imresize(image, 0.25).sum().backward()
    assert image.grad.sum().item() == pytest.approx(75 * 2, rel=1e-4)


def test_weights_made_in_inference_mode_serve_training_later():
    module._tensor_plan.cache_clear()
    with torch.inference_mode():
        imresize(torch.rand(1, 1, 12, 12), 0.5)
    image = torch.rand(1, 1, 12, 12, requires_grad=True)
    imresize(image, 0.5).sum().backward()
    assert image.grad is not None


def test_mixed_precision_does_not_reach_it():
    image = torch.rand(1, 3, 32, 32)
    expected = imresize(image, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        got = imresize(image, 0.5)
    assert got.dtype == torch.float32 and torch.equal(got, expected)
    half = imresize(image.bfloat16(), 0.5)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, imresize(image.bfloat16().float(), 0.5).bfloat16())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_agrees_with_the_cpu():
    image = torch.rand(2, 3, 300, 401)
    for scale in (0.25, 1.7):
        got = imresize(image.cuda(), scale)
        assert got.is_cuda
        assert (got.cpu() - imresize(image, scale)).abs().max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    out_height=st.integers(1, 60),
    out_width=st.integers(1, 60),
    value=st.integers(0, 255),
)
def test_a_flat_picture_stays_flat(height, width, out_height, out_width, value):
    image = np.full((height, width, 3), value, np.uint8)
    got = imresize(image, size=(out_height, out_width))
    assert got.shape == (out_height, out_width, 3) and (got == value).all()


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 400), numerator=st.integers(1, 40), denominator=st.integers(1, 40))
def test_a_whole_product_is_not_pushed_up_by_its_last_bit(length, numerator, denominator):
    exact = Fraction(length * numerator, denominator)
    got = imresize(np.zeros((length, 1), np.uint8), numerator / denominator)
    assert got.shape[0] == math.ceil(exact)


def test_mirroring_and_flipping_commute():
    image = np.random.default_rng(1).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    for scale in (0.25, 0.5, 2):
        assert np.array_equal(imresize(image[::-1, ::-1], scale), imresize(image, scale)[::-1, ::-1])


def test_an_unchanged_size_gives_a_copy():
    image = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for case in ({"scale": 1}, {"size": (4, 5)}):
        got = imresize(image, **case)
        assert np.array_equal(got, image) and not np.shares_memory(got, image)
    tensor = torch.rand(1, 1, 4, 4)
    got = imresize(tensor, 1)
    assert torch.equal(got, tensor) and got.data_ptr() != tensor.data_ptr()


def test_the_cache_is_bounded():
    for length in range(2, 90):
        imresize(np.zeros((length, 2), np.uint8), 0.5)
        imresize(torch.zeros(1, length, 2), 0.5)
    assert module._plan.cache_info().currsize <= 64
    assert module._tensor_plan.cache_info().currsize <= 64


def test_what_it_refuses():
    image = np.zeros((4, 4, 3), np.uint8)
    for case in ({}, {"scale": 0.5, "size": (2, 2)}):
        with pytest.raises(ValueError, match="either scale or size"):
            imresize(image, **case)
    for scale in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive number"):
            imresize(image, scale)
    for size in ((0, 4), (4, 4, 3)):
        with pytest.raises(ValueError, match="height, width"):
            imresize(image, size=size)
    with pytest.raises(ValueError, match="at least one pixel"):
        imresize(image[:0], 0.5)
    for wrong in (image.astype(np.int32), image[0, 0], torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [[1]]):
        with pytest.raises(TypeError):
            imresize(wrong, 0.5)
