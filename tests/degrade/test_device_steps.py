"""The second-order degradation on the device against the loader processes' form of it, step by step and whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from atelier.data.bundled import bundled_path
from atelier.degrade import device_steps, jpeg_torch, ragged
from atelier.degrade.base import DEGRADATIONS
from atelier.degrade.device_numbers import numbers_of
from atelier.degrade.device_steps import carry_out_on_device, mirror_before
from atelier.degrade.noises import level_poisson_noise
from atelier.degrade.poisson_torch import MOST, poisson_counts
from atelier.degrade.realesrgan import RealESRGAN
from atelier.degrade.realesrgan_options import RealESRGANOptions
from atelier.degrade.steps import carry_out, one_by_one
from atelier.images import read_image
from atelier.randomness import Streams

TOLERANCES = {
    "sharpen": 0.001,
    "filter": 0.002,
    "interpolate": 0.01,
    "gaussian": 1e-4,
    "jpeg_reference": 1e-4,
}
"""Largest difference to the loader processes' step on the same picture, in units of 0..255."""
JPEG_MEAN, PIPELINE_MEAN = 0.6, 2.0


def photograph(channels: int = 3, side: int = 120) -> np.ndarray:
    pixels = read_image(bundled_path("coffee")).pixels[100 : 100 + side, 100 : 100 + side, :channels]
    return np.ascontiguousarray(pixels)


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32))[None]


def array(picture: torch.Tensor) -> np.ndarray:
    return picture[0].permute(1, 2, 0).numpy()


def numbers(operator: RealESRGAN, parameters: dict, shape: Any, streams: Streams) -> list[torch.Tensor]:
    return [torch.from_numpy(each) for each in operator.device_numbers(parameters, shape, streams)]


def on_device(operator: RealESRGAN, gt: np.ndarray, streams: Streams) -> tuple[np.ndarray, np.ndarray]:
    parameters = operator.draw(streams, gt.shape)
    own = numbers(operator, parameters, gt.shape, streams)
    ((lq, target),) = operator.apply_on_device([tensor(gt / np.float32(255))], [parameters], [own], [255])
    return array(lq), array(target)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("jpeg", ["libjpeg", "reference"])
def test_each_step_agrees_with_the_workers(channels: int, jpeg: str) -> None:
    """Both forms get the same picture; what Poisson noise gives is another test's."""
    operator = RealESRGANOptions(jpeg=jpeg, blur_kernel_size=51).build(2)
    gt = photograph(channels)
    largest: dict[str, float] = defaultdict(float)
    means: list[float] = []
    for k in range(24):
        streams = Streams(2, 1, k)
        parameters = operator.draw(streams, gt.shape)
        before = operator.start(gt, parameters)
        for step, after in one_by_one(before, parameters["steps"], streams):
            own = [torch.from_numpy(each) for each in numbers_of([step], before.shape, streams)]
            found = array(carry_out_on_device([tensor(before)], [[step]], [own])[0])
            assert found.shape == after.shape
            difference = np.abs(found - after) * 255
            if step["op"] == "jpeg":
                means.append(float(difference.mean()))
            else:
                largest[step["op"]] = max(largest[step["op"]], float(difference.max()))
            before = after
    poisson = largest.pop("level_poisson")
    assert poisson > 1  # it is drawn otherwise
    assert set(largest) == {op for op in TOLERANCES if jpeg == "reference" or op != "jpeg_reference"}
    for op, value in largest.items():
        assert value <= TOLERANCES[op], (op, value)
    if jpeg == "libjpeg":
        assert np.mean(means) < JPEG_MEAN


@pytest.mark.parametrize("shape", ["iso", "sinc"])
def test_kernels_larger_than_the_picture(shape: str) -> None:
    step: dict[str, Any] = {"op": "filter", "shape": shape, "size": 21, "sigma": [3.0, 3.0], "theta": 0.0}
    step |= {"cutoff": 1.5}
    picture = photograph(side=6) / np.float32(255)
    own = [torch.from_numpy(each) for each in numbers_of([step], (6, 6, 3), Streams(0, 0, 0))]
    found = array(carry_out_on_device([tensor(picture)], [[step]], [own])[0])
    assert np.abs(found - carry_out(picture, [step], Streams(0, 0, 0))).max() < 1e-5


def test_the_whole_pipeline_agrees_where_no_poisson_noise_is_drawn() -> None:
    """The mean difference of lq; what is beyond rounding is JPEG's, whose errors the next steps carry on."""
    operator = RealESRGANOptions(gaussian_noise_prob=1, gaussian_noise_prob2=1, target_usm=True).build(2)
    gt = photograph()
    differences = []
    for k in range(12):
        streams = Streams(4, 1, k)
        lq, target = on_device(operator, gt, streams)
        parameters = operator.draw(streams, gt.shape)
        workers = operator.apply(gt, parameters, streams)
        assert lq.shape == workers.shape == (60, 60, 3)
        assert np.array_equal(lq, np.rint(lq * 255).astype(np.float32) / np.float32(255))
        differences.append(np.abs(lq * 255 - workers).mean())
        sharp = operator.target(gt, parameters, streams)
        assert np.abs(target * 255 - sharp).max() <= 1.01 and np.mean(np.rint(target * 255) == sharp) > 0.999
    assert np.mean(differences) < PIPELINE_MEAN


def test_a_step_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance of the whole pipeline is below what one missing step makes."""
    monkeypatch.setitem(device_steps._OPERATORS, "gaussian", lambda pictures, steps, numbers: list(pictures))
    with pytest.raises(AssertionError):
        test_the_whole_pipeline_agrees_where_no_poisson_noise_is_drawn()


@pytest.mark.parametrize("different", [1, 2, 5, 64, 256])
def test_poisson_counts_are_the_inverse_of_the_distribution(different: int) -> None:
    from scipy.stats import poisson

    levels = torch.linspace(0, 255, different).round().long().repeat(400)
    even = torch.from_numpy(np.random.default_rng(0).random(len(levels), dtype=np.float32))
    even[:different] = 0
    even[-different:] = float(np.nextafter(np.float32(1), np.float32(0)))
    (counts,), white = poisson_counts(levels[None], even[None])
    power = 2 ** int(np.ceil(np.log2(different)))
    assert white.tolist() == [[power]]
    expected = poisson.ppf(even.double().numpy(), levels.numpy() / 255 * power)
    inner = (
        even > 0
    )  # at 0 the inverse is 0 or -1 by convention; here a count that float64 cannot tell from it
    assert torch.equal(counts[inner], torch.from_numpy(expected)[inner].long())
    assert int(counts.min()) >= 0 and int(counts.max()) < MOST - 1


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_has_the_workers_distribution(grey: bool) -> None:
    """Mean and variance over many fields, a level at a time: within five standard errors of the workers' own."""
    picture = np.repeat(np.linspace(0.2, 0.8, 16, dtype=np.float32), 4000)[None, :, None].repeat(3, axis=2)
    step = {"op": "level_poisson", "field": "f", "scale": 0.5, "grey": grey}
    own = [torch.from_numpy(each) for each in numbers_of([step], picture.shape, Streams(1, 1, 1))]
    found = array(carry_out_on_device([tensor(picture)], [[step]], [own])[0]) - picture
    theirs = level_poisson_noise(picture, 0.5, np.random.default_rng(3), grey=grey).clip(0, 1) - picture
    assert np.array_equal(found[..., 0], found[..., 1]) == grey
    for level in range(16):
        a, b = (
            noise[0, 4000 * level : 4000 * (level + 1), 0].astype(np.float64) for noise in (found, theirs)
        )
        error = (a.var() / len(a) + b.var() / len(b)) ** 0.5
        assert abs(a.mean() - b.mean()) < 5 * error
        assert abs(a.var() / b.var() - 1) < 0.2


def mixed_batch(
    operator: RealESRGAN, channels: int, first: int = 0
) -> tuple[list[Any], list[Any], list[Any]]:
    """Eight samples: crops of five sizes (two equal, sides of whole and of broken blocks, one below the filters'
    reach), their parameters and numbers."""
    sizes = [(64, 64), (64, 64), (80, 48), (50, 70), (96, 64), (34, 34), (12, 40), (64, 80)]
    gts, parameters, own = [], [], []
    for k, (height, width) in enumerate(sizes):
        gt = photograph(channels)[:height, :width]
        streams = Streams(6, 1, first + k)
        parameters.append(operator.draw(streams, gt.shape))
        own.append(numbers(operator, parameters[-1], gt.shape, streams))
        gts.append(tensor(gt / np.float32(255)))
    return gts, parameters, own


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("jpeg", ["libjpeg", "reference"])
def test_a_batch_of_eight_equals_each_sample_alone_bit_for_bit(channels: int, jpeg: str) -> None:
    """However many share a canvas, and whoever they are; before the last rounding, too, which hides small changes."""
    operator = RealESRGANOptions(jpeg=jpeg, target_usm=True, blur_kernel_size=51).build(2)
    seen: set[str] = set()
    for first in (0, 8):
        gts, parameters, own = mixed_batch(operator, channels, first)
        seen |= {step["op"] for each in parameters for step in each["steps"]}
        before = [gt.clone() for gt in gts]
        alone = [
            operator.apply_on_device([gt], [drawn], [mine], [255], together=1)[0]
            for gt, drawn, mine in zip(gts, parameters, own, strict=True)
        ]
        steps = [drawn["steps"] for drawn in parameters]
        starts = [
            mirror_before(gt, *(2 * offset for offset in drawn["grid"]))
            for gt, drawn in zip(gts, parameters, strict=True)
        ]
        unrounded = [carry_out_on_device([starts[k]], [steps[k]], [own[k]], 1)[0] for k in range(8)]
        for together in (2, 8):
            shared = carry_out_on_device(starts, steps, own, together)
            assert all(torch.equal(*pair) for pair in zip(shared, unrounded, strict=True))
        for members in (range(8), range(7, -1, -1), (5, 2, 6), (3, 1)):
            chosen = [[each[k] for k in members] for each in (gts, parameters, own)]
            for most in (None, 8):
                found = operator.apply_on_device(
                    chosen[0], chosen[1], chosen[2], [255] * len(members), together=most
                )
                for k, (lq, target) in zip(members, found, strict=True):
                    assert torch.equal(lq, alone[k][0]) and torch.equal(target, alone[k][1]), (k, most)
        assert all(torch.equal(*pair) for pair in zip(gts, before, strict=True))
    assert seen == set(device_steps._OPERATORS) - {"jpeg" if jpeg == "reference" else "jpeg_reference"}


@pytest.mark.parametrize("side", [16, 24, 31, 32, 33, 48])
def test_jpeg_beside_a_larger_picture_ends_at_its_own_border(side: int) -> None:
    """Chroma is restored from its neighbours: at the border from itself, not from what lies there on the canvas."""
    small, large = (
        tensor(photograph(side=side) / np.float32(255)),
        tensor(photograph(side=64) / np.float32(255)),
    )
    step, quality = {"op": "jpeg", "quality": 20.0}, torch.tensor([20.0])
    alone = carry_out_on_device([small], [[step]], [[quality]], together=1)[0]
    beside = carry_out_on_device([large, small], [[step]] * 2, [[quality]] * 2, together=2)[1]
    assert torch.equal(alone, beside)


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (jpeg_torch, "_repeat_edge", lambda chroma, size: None),
        (ragged, "bordered", lambda picture, margin: F.pad(picture, (margin[1],) * 2 + (margin[0],) * 2)),
    ],
)
def test_a_canvas_that_leaks_is_noticed(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, broken: Any
) -> None:
    """Without the care at the borders either a sample depends on its neighbours or it is no longer the workers'."""
    monkeypatch.setattr(module, name, broken)
    monkeypatch.setattr(device_steps, name, broken, raising=False)
    with pytest.raises(AssertionError):
        if module is jpeg_torch:
            test_jpeg_beside_a_larger_picture_ends_at_its_own_border(32)
        else:
            test_each_step_agrees_with_the_workers(3, "libjpeg")


def test_groups_are_bounded_by_count_and_by_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(10, 10), (100, 100), (90, 100), (20, 10), (100, 10)]
    assert list(ragged.groups(sizes, None)) == [[1, 2, 4, 3, 0]]
    assert list(ragged.groups(sizes, 2)) == [[1, 2], [4, 3], [0]]
    monkeypatch.setattr(ragged, "MOST_PIXELS", 20_000)
    assert list(ragged.groups(sizes, None)) == [[1, 2], [4, 3, 0]]
    monkeypatch.setattr(ragged, "MOST_PIXELS", 50)
    assert list(ragged.groups(sizes, None)) == [[1], [2], [4], [3], [0]]
    assert list(ragged.groups([], None)) == []


def test_samples_that_wait_for_the_same_step_take_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight plans of different length and order: each JPEG once for all, and far fewer calls than steps."""
    operator = RealESRGANOptions().build(2)
    gts, parameters, own = mixed_batch(operator, 3)
    calls: Counter[str] = Counter()
    for op, operator_ in list(device_steps._OPERATORS.items()):

        def counted(pictures: Any, steps: Any, mine: Any, op: str = op, operator_: Any = operator_) -> Any:
            calls[op] += 1
            return operator_(pictures, steps, mine)

        monkeypatch.setitem(device_steps._OPERATORS, op, counted)
    operator.apply_on_device(gts, parameters, own, [255] * 8, together=8)
    drawn = Counter(step["op"] for each in parameters for step in each["steps"])
    assert calls["sharpen"] == 1 and drawn["sharpen"] == 8
    assert calls["jpeg"] == 2 and drawn["jpeg"] == 16
    assert sum(calls.values()) < sum(drawn.values()) / 2


def test_mirroring_before_the_picture_is_numpys() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    for top, left in ((0, 0), (2, 3), (7, 9)):
        expected = np.pad(picture, ((top, 0), (left, 0), (0, 0)), mode="symmetric")
        assert np.array_equal(array(mirror_before(tensor(picture), top, left)), expected)


def test_a_sample_is_a_function_of_its_own_streams() -> None:
    operator = RealESRGANOptions().build(2)
    gt = photograph()
    first, again, other = (on_device(operator, gt, Streams(4, 1, k))[0] for k in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("kind", ["bicubic", "bsrgan", "infrared", "jpeg", "gaussian_noise"])
def test_degradations_without_a_device_form_refuse_it(kind: str) -> None:
    with pytest.raises(ValidationError, match=f"run_on: device is not possible with type {kind}"):
        DEGRADATIONS.options_class(kind)(type=kind, run_on="device")
    assert not DEGRADATIONS.options_class(kind)(type=kind).build(2).on_device
    with pytest.raises(NotImplementedError):
        DEGRADATIONS.options_class(kind)(type=kind).build(2).device_numbers({}, (8, 8, 3), Streams(0, 0, 0))


def test_the_option_switches_training_alone() -> None:
    operator = RealESRGANOptions(run_on="device").build(2)
    assert operator.on_device and not RealESRGANOptions().build(2).on_device
    gt, streams = photograph(), Streams(0, 0, 0)
    whole, plain = operator.for_whole_pictures(), RealESRGANOptions().build(2).for_whole_pictures()
    parameters = whole.draw(streams, gt.shape)
    assert parameters == plain.draw(streams, gt.shape)
    assert np.array_equal(whole.apply(gt, parameters, streams), plain.apply(gt, parameters, streams))
