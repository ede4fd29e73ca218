"""Real-ESRGAN's pipeline: what is drawn, how often, and that applying it is pure."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from atelier.degrade.realesrgan import MARGIN, RealESRGAN
from atelier.degrade.realesrgan_options import KERNEL_WEIGHTS, KERNELS, RealESRGANOptions
from atelier.degrade.resizing import MODES
from atelier.degrade.sharpen import usm_sharpen
from atelier.randomness import Streams

COUNT = 10_000
SHAPE = (328, 320, 3)


def plans(operator: RealESRGAN, count: int = COUNT, shape: tuple[int, int, int] = SHAPE) -> list[dict]:
    return [operator.draw(Streams(5, 1, k), shape) for k in range(count)]


@pytest.fixture(scope="module")
def drawn() -> list[dict]:
    return plans(RealESRGANOptions().build(2))


def share(flags: list[bool], expected: float) -> None:
    """The share of true ones lies within 4 standard errors."""
    assert len(flags) > 50
    assert abs(np.mean(flags) - expected) <= 4 * (expected * (1 - expected) / len(flags)) ** 0.5


def spread_evenly(values: list[float], low: float, high: float) -> None:
    """Inside [low, high], with Kolmogorov's distance from the even distribution that chance allows once in 3000."""
    ordered = (np.sort(values) - low) / (high - low)
    assert ordered[0] >= 0 and ordered[-1] <= 1
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max())
    assert distance < 2.1 / len(ordered) ** 0.5


def parts(plan: dict) -> dict[str, dict | None]:
    """The plan's steps by their place in the published order; fails where the order is another."""
    steps = list(plan["steps"])
    found: dict[str, dict | None] = {}

    def take(name: str, *operators: str, optional: bool = False) -> None:
        if steps and steps[0]["op"] in operators:
            found[name] = steps.pop(0)
        else:
            assert optional, (name, plan)
            found[name] = None

    take("sharpen", "sharpen")
    take("blur", "filter")
    take("resize", "interpolate")
    take("noise", "gaussian", "level_poisson")
    take("jpeg", "jpeg")
    take("blur2", "filter", optional=True)
    take("resize2", "interpolate")
    take("noise2", "gaussian", "level_poisson")
    found["first"] = steps[0] if steps[0]["op"] == "interpolate" else None
    if found["first"] is None:
        take("jpeg2", "jpeg")
    take("final", "interpolate")
    take("sinc", "filter", optional=True)
    if found["first"] is not None:
        take("jpeg2", "jpeg")
    assert not steps
    return found


@pytest.fixture(scope="module")
def by_place(drawn) -> list[dict[str, dict | None]]:
    return [parts(plan) for plan in drawn]


def test_order_and_grid(drawn, by_place):
    share([part["first"] is not None for part in by_place], 0.5)
    share([part["blur2"] is not None for part in by_place], 0.8)
    share([part["sinc"] is not None for part in by_place], 0.8)
    places = [tuple(plan["grid"]) for plan in drawn]
    assert {y for y, _ in places} == {x for _, x in places} == set(range(16))
    for k in range(16):
        share([y == k for y, _ in places], 1 / 16)
    share([y == x for y, x in places], 1 / 16)


@pytest.mark.parametrize(
    ("name", "base", "weights", "low", "high"),
    [("resize", 1, (0.2, 0.7, 0.1), 0.15, 1.5), ("resize2", 2, (0.3, 0.4, 0.3), 0.3, 1.2)],
)
def test_resizes(drawn, by_place, name, base, weights, low, high):
    steps = [part[name] for part in by_place]
    for kind, weight in zip(("up", "down", "keep"), weights, strict=True):
        share([step["kind"] == kind for step in steps], weight)
    for mode in MODES:
        share([step["mode"] == mode for step in steps], 1 / 3)
    for plan, step in zip(drawn, steps, strict=True):
        sides = ((side + 2 * moved) // base for side, moved in zip(SHAPE, plan["grid"], strict=False))
        assert step["size"] == [int(side * step["drawn"]) for side in sides]
        # The first resize places its samples by the factor, the second by the sizes.
        assert step.get("factor") == (step["drawn"] if name == "resize" else None)
    factors = [step["drawn"] for step in steps]
    kinds = [step["kind"] for step in steps]
    ups = [f for f, kind in zip(factors, kinds, strict=True) if kind == "up"]
    downs = [f for f, kind in zip(factors, kinds, strict=True) if kind == "down"]
    spread_evenly(ups, 1, high)
    spread_evenly(downs, low, 1)


@pytest.mark.parametrize(
    ("name", "levels", "scales"),
    [("noise", (1, 30), (0.05, 3)), ("noise2", (1, 25), (0.05, 2.5))],
)
def test_noise(by_place, name, levels, scales):
    steps = [part[name] for part in by_place]
    gaussian = [step for step in steps if step["op"] == "gaussian"]
    poisson = [step for step in steps if step["op"] == "level_poisson"]
    share([step["op"] == "gaussian" for step in steps], 0.5)
    share([step["kind"] == "grey" for step in gaussian], 0.4)
    share([step["grey"] for step in poisson], 0.4)
    spread_evenly([step["sigma"] * 255 for step in gaussian], *levels)
    spread_evenly([step["scale"] for step in poisson], *scales)


@pytest.mark.parametrize("name", ["jpeg", "jpeg2"])
def test_qualities_are_real_numbers(by_place, name):
    qualities = [part[name]["quality"] for part in by_place]
    spread_evenly(qualities, 30, 95)
    assert len(set(qualities)) == COUNT


@pytest.mark.parametrize(("name", "largest"), [("blur", 3.0), ("blur2", 1.5)])
def test_kernels(by_place, name, largest):
    steps = [part[name] for part in by_place if part[name] is not None]
    for size in range(7, 22, 2):
        share([step["size"] == size for step in steps], 1 / 8)
    share([step["shape"] == "sinc" for step in steps], 0.1)
    others = [step for step in steps if step["shape"] != "sinc"]
    for shape, weight in zip(KERNELS, KERNEL_WEIGHTS, strict=True):
        share([step["shape"] == shape for step in others], weight)
    for small in (True, False):
        cutoffs = [s["cutoff"] for s in steps if s["shape"] == "sinc" and (s["size"] < 13) == small]
        spread_evenly(cutoffs, math.pi / 3 if small else math.pi / 5, math.pi)
    iso = [step for step in others if "aniso" not in step["shape"]]
    assert all(step["sigma"][0] == step["sigma"][1] and step["theta"] == 0 for step in iso)
    spread_evenly([step["sigma"][0] for step in iso], 0.2, largest)
    aniso = [step for step in others if "aniso" in step["shape"]]
    for axis in (0, 1):
        spread_evenly([step["sigma"][axis] for step in aniso], 0.2, largest)
    assert abs(np.corrcoef([step["sigma"] for step in aniso], rowvar=False)[0, 1]) < 4 / len(aniso) ** 0.5
    spread_evenly([step["theta"] for step in aniso], -math.pi, math.pi)
    assert all(("beta" in step) == ("_" in step["shape"]) for step in others)
    general = [step["beta"] for step in others if step["shape"].startswith("generalized")]
    share([beta < 1 for beta in general], 0.5)
    spread_evenly([beta for beta in general if beta < 1], 0.5, 1)
    spread_evenly([beta for beta in general if beta > 1], 1, 4)
    plateau = [step["beta"] for step in others if step["shape"].startswith("plateau")]
    share([beta == 1 for beta in plateau], 0.5)
    spread_evenly([beta for beta in plateau if beta > 1], 1, 2)


def test_final_filter_and_resize(drawn, by_place):
    sinc = [part["sinc"] for part in by_place if part["sinc"] is not None]
    for size in range(7, 22, 2):
        share([step["size"] == size for step in sinc], 1 / 8)
    spread_evenly([step["cutoff"] for step in sinc], math.pi / 3, math.pi)
    for mode in MODES:
        share([part["final"]["mode"] == mode for part in by_place], 1 / 3)
    for plan, part in zip(drawn, by_place, strict=True):
        y, x = plan["grid"]
        assert part["final"]["size"] == [164 + y, 160 + x]


def test_light_profile_is_milder_and_often_of_one_stage():
    light = RealESRGANOptions(profile="realesrgan-light")
    drawn = plans(light.build(2), 2000)
    assert RealESRGANOptions(profile="realesrgan-light", noise_range=(3, 4)).noise_range == (3, 4)
    sizes = [sum(step["op"] in ("gaussian", "level_poisson") for step in plan["steps"]) for plan in drawn]
    share([size == 1 for size in sizes], 0.5)
    qualities = [step["quality"] for plan in drawn for step in plan["steps"] if step["op"] == "jpeg"]
    assert min(qualities) >= 60 and max(qualities) <= 95
    factors = [plan["steps"][2]["factor"] for plan in drawn]
    assert min(factors) >= 0.5 and max(factors) <= 1.5
    levels = [step["sigma"] * 255 for plan in drawn for step in plan["steps"] if step["op"] == "gaussian"]
    assert min(levels) >= 1 and max(levels) <= 15


def test_a_stage_more_or_less_shifts_no_other():
    """Every stage has its own stream: what is drawn elsewhere does not change when one is switched off."""
    for k in range(50):
        full = parts(RealESRGANOptions().build(2).draw(Streams(0, 1, k), SHAPE))
        without = parts(RealESRGANOptions(second_blur_prob=0).build(2).draw(Streams(0, 1, k), SHAPE))
        assert {**full, "blur2": None} == without


# pixels


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    y, x, k = np.mgrid[0:height, 0:width, 0:channels]
    return (127 + 60 * np.sin(x / 7 + k / 9) + 60 * np.cos(y / 5 + 1)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_every_draw_can_be_applied(scale, channels):
    degradation = RealESRGANOptions(jpeg="reference" if scale == 3 else "libjpeg").build(scale)
    gt = picture(16 * scale, 11 * scale, channels)
    before = gt.copy()
    for k in range(20):
        streams = Streams(2, 3, k)
        parameters = degradation.draw(streams, gt.shape)
        assert json.loads(json.dumps(parameters)) == parameters
        lq = degradation.apply(gt, parameters, streams)
        assert lq.shape == (16, 11, channels) and lq.dtype == np.uint8
        assert np.array_equal(degradation.apply(gt, json.loads(json.dumps(parameters)), streams), lq)
        *_, (_, last) = degradation.stages(gt, parameters, streams)
        assert np.array_equal(last, lq)
    assert np.array_equal(gt, before)


@pytest.mark.parametrize("moved", [True, False])
def test_lq_still_shows_the_picture(moved):
    """No draw flips, moves or loses the picture: lq correlates with the reduced gt more than with it moved by five.

    Up to three lq pixels of shift towards the far corner are the original's: the first resize places its samples by
    the drawn factor, and the next one stretches what the rounded size cut off.
    """
    degradation = RealESRGANOptions().build(2)
    degradation = degradation if moved else degradation.for_whole_pictures()
    gt = picture(128, 128)
    small = gt.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3, 4))
    for k in range(40):
        streams = Streams(0, 1, k)
        parameters = degradation.draw(streams, gt.shape)
        assert moved or parameters["grid"] == [0, 0]
        lq = degradation.apply(gt, parameters, streams).mean(axis=2)
        here = np.corrcoef(lq[6:-6, 6:-6].ravel(), small[6:-6, 6:-6].ravel())[0, 1]
        for move in ((5, 0), (-5, 0), (0, 5), (0, -5)):
            other = np.roll(small, move, (0, 1))[6:-6, 6:-6]
            assert here > np.corrcoef(lq[6:-6, 6:-6].ravel(), other.ravel())[0, 1], k


def test_the_margin_is_enough_for_sharpening_and_the_first_blur():
    """With all that is random beyond them switched off, a crop's lq is the whole picture's to under a level."""
    quiet = {
        "resize_prob": (0, 0, 1), "resize_prob2": (0, 0, 1), "noise_range": (0, 0), "noise_range2": (0, 0),
        "gaussian_noise_prob": 1, "gaussian_noise_prob2": 1, "jpeg_range": (100, 100), "jpeg_range2": (100, 100),
        "second_blur_prob": 0, "final_sinc_prob": 0, "sinc_prob": 0,
    }  # fmt: skip
    operator = RealESRGANOptions(**quiet).build(2).for_whole_pictures()
    rng = np.random.default_rng(0)
    whole = np.repeat(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), 9, 0).repeat(9, 1)
    y = x = 80
    cut = whole[y - MARGIN : y + 96 + MARGIN, x - MARGIN : x + 96 + MARGIN]
    for k in range(3):
        streams = Streams(1, 1, k)
        plan = operator.draw(streams, whole.shape)
        expected = operator.apply(whole, plan, streams)[y // 2 :, x // 2 :][:48, :48].astype(float)
        plan = operator.draw(streams, cut.shape)
        got = operator.apply(cut, plan, streams)[operator.context :, operator.context :][:48, :48]
        # JPEG at quality 100 on another grid alone differs by about a level.
        assert np.abs(got - expected).mean() < 1.5


def test_lq_is_made_of_the_sharpened_picture_and_so_is_a_target_that_asks():
    gt = picture(64, 64)
    gt[16:32, 16:32] = 250
    streams = Streams(0, 1, 0)
    plain, net = RealESRGANOptions().build(2), RealESRGANOptions(target_usm=True).build(2)
    parameters = plain.draw(streams, gt.shape)
    assert parameters["steps"][0] == {"op": "sharpen"}
    assert plain.target(gt, parameters, streams) is gt
    target = net.target(gt, parameters, streams)
    assert target.dtype == np.uint8
    assert np.abs(target - usm_sharpen(gt.astype(np.float32) / 255) * 255).max() <= 0.5 + 1e-4
    unsharpened = RealESRGANOptions(gt_usm=False).build(2).draw(streams, gt.shape)
    assert unsharpened["steps"] == parameters["steps"][1:]


def test_samples_of_a_batch_differ_in_every_shared_draw_of_the_original(drawn):
    """In the original a whole batch shares sizes, kind of noise and order; 16 samples here have many of each."""
    batch = [parts(plan) for plan in drawn[:16]]
    assert len({tuple(part["resize"]["size"]) for part in batch}) > 10
    assert len({part["noise"]["op"] for part in batch}) == 2
    assert len({part["first"] is None for part in batch}) == 2
    assert len({part["blur2"] is None for part in batch}) == 2


def test_grey_fields_of_two_samples_are_independent():
    only_grey = {"gaussian_noise_prob": 1, "gray_noise_prob": 1, "noise_range": (30, 30)}
    operator = RealESRGANOptions(**only_grey).build(1).for_whole_pictures()
    fields = []
    for k in range(2):
        streams = Streams(4, 9, k)
        gt = np.full((128, 128, 3), 128, np.uint8)
        pictures = dict(operator.stages(gt, operator.draw(streams, gt.shape), streams))
        noisy = next(pixels for label, pixels in pictures.items() if label.startswith("gaussian"))
        assert np.array_equal(noisy[:, :, 0], noisy[:, :, 2])
        fields.append(noisy[:60, :60, 0] if min(noisy.shape[:2]) >= 60 else None)
    assert fields[0] is not None and fields[1] is not None
    assert abs(np.corrcoef(fields[0].ravel(), fields[1].ravel())[0, 1]) < 4 / 60


# options


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"resize_prob": (0, 0, 0)}, "resize_prob must hold weights"),
        ({"resize_range": (0.2, 0.8)}, r"resize_range \[0.2, 0.8\] must include 1"),
        ({"noise_range": (30, 1)}, r"noise_range must be \[low, high\]"),
        ({"jpeg_range2": (0, 95)}, r"jpeg_range2 must be \[low, high\] within 1..100"),
        ({"kernel_list": ["iso"]}, "kernel_list has 1 kernels, kernel_prob 6 weights"),
        ({"kernel_list2": ["isotropic"]}, "kernel_list2"),
        ({"blur_kernel_size": 20}, "blur_kernel_size must be odd"),
        ({"betap_range2": (1.5, 2)}, r"betap_range2 \[1.5, 2\] must include 1"),
        ({"profile": "heavy"}, "profile"),
        ({"sinc_prob": 1.5}, "sinc_prob"),
    ],
)
def test_wrong_values_are_named(given, said):
    with pytest.raises(ValidationError, match=said):
        RealESRGANOptions(**given)


def test_notes():
    assert RealESRGANOptions().notes() == []
    (note,) = RealESRGANOptions(queue_size=180).notes()
    assert "drawn per sample, so the pool is not needed" in note
    assert RealESRGANOptions(queue_size=180, pool=True).notes() == []
    notes = RealESRGANOptions(resize_prob=(2, 7, 1), blur_kernel_size=15).notes()
    assert len(notes) == 2 and "sums to 10" in notes[0] and "honoured as the largest kernel" in notes[1]
    sizes = {plan["steps"][1]["size"] for plan in plans(RealESRGANOptions(blur_kernel_size=15).build(2), 300)}
    assert sizes == {7, 9, 11, 13, 15}
    with pytest.raises(ValueError, match="no multiple of scale 4"):
        RealESRGANOptions().build(4).draw(Streams(0, 1, 0), (30, 32, 3))
