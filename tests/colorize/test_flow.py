"""Direction, units and confidence of flow, on motion that is known exactly; the small errors that must show."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.colorize.flow import FlowBackend, FlowResult
from atelier.colorize.flow_options import FLOWS, DisFlowOptions
from atelier.data.bundled import bundled_path
from atelier.data.synthetic_clips import HELD_OUT, TRAINING, bundled_clip
from atelier.errors import UserError
from atelier.images import read_image
from atelier.images.lab import LabScale, rgb_to_lab
from atelier.images.warp import warp
from atelier.randomness import Streams

CLIPS = range(6)


def lightness(rgb: Tensor) -> Tensor:
    """Unit lightness [N, 1, H, W] of [N, H, W, 3] of 0...255."""
    return LabScale.UNIT.normalise(rgb_to_lab(rgb.permute(0, 3, 1, 2).float() / 255))[:, :1]


def photograph(name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(read_image(bundled_path(name)).pixels[..., :3]))


def dis(**options: str) -> FlowBackend:
    return DisFlowOptions.model_validate(options).build()


class Film:
    """A clip's pairs as one batch, with the flow that DIS finds and the true one."""

    def __init__(self, sample: int) -> None:
        names = TRAINING if sample % 3 else HELD_OUT
        clip = bundled_clip(names, 6, 96, Streams(0, 1, sample)("clip"))
        rgb = torch.from_numpy(clip.rgb)
        self.frames = rgb.permute(0, 3, 1, 2).float()
        self.lightness = lightness(rgb)
        self.true = torch.from_numpy(clip.flow[1:])
        self.valid = torch.from_numpy(clip.valid[1:])
        self.occluded = torch.from_numpy(clip.occluded[1:])
        self.found = dis().estimate(self.lightness[1:], self.lightness[:-1])

    def errors(self, flow: Tensor) -> Tensor:
        return torch.linalg.vector_norm(flow - self.true, dim=1)[self.valid]

    def gain(self, flow: Tensor) -> float:
        """How many dB nearer to the frame the warped predecessor is than the predecessor itself, where valid."""
        where = self.valid[:, None].expand(-1, 3, -1, -1)
        errors = [
            (picture - self.frames[1:])[where].square().mean().item()
            for picture in (self.frames[:-1], warp(self.frames[:-1], flow))
        ]
        return 10 * math.log10(errors[0] / errors[1])

    def passes(self, flow: Tensor) -> bool:
        errors = self.errors(flow)
        return bool(errors.mean() < 0.7) and bool(errors.median() < 0.4) and self.gain(flow) > 6


film = lru_cache(Film)


@pytest.mark.parametrize("sample", CLIPS)
def test_dis_finds_the_backward_flow_in_pixels_of_the_frame(sample: int) -> None:
    assert film(sample).passes(film(sample).found.flow)


@pytest.mark.parametrize("sample", CLIPS)
def test_flow_in_other_units_direction_or_order_fails(sample: int) -> None:
    flow = film(sample).found.flow
    for wrong in (8 * flow, -flow, flow.flip(1)):
        assert not film(sample).passes(wrong)


@pytest.mark.parametrize("sample", CLIPS)
def test_confidence_is_lower_where_the_previous_frame_hides_the_surface(sample: int) -> None:
    one = film(sample)
    confidence = one.found.confidence[:, 0]
    assert confidence.min() >= 0 and confidence.max() <= 1
    assert confidence[one.occluded].mean() <= 0.9 * confidence[one.valid].mean()


def test_confidence_tells_hidden_surfaces_on_average() -> None:
    ratios = [
        float(
            each.found.confidence[:, 0][each.occluded].mean() / each.found.confidence[:, 0][each.valid].mean()
        )
        for each in map(film, CLIPS)
    ]
    assert np.mean(ratios) <= 0.75


def turned(degrees: float, side: int = 128) -> tuple[Tensor, Tensor]:
    """(frames [2, side, side, 3]: before, after; the true backward flow) of a picture turned about its middle."""
    picture = photograph("astronaut").numpy()[40 : 40 + side, 150 : 150 + side]
    middle = (side - 1) / 2
    onto = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    after = cv2.warpAffine(picture, onto, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    back = cv2.invertAffineTransform(onto)
    y, x = np.mgrid[:side, :side].astype(np.float64)
    flow = np.stack(
        [
            back[0, 0] * x + back[0, 1] * y + back[0, 2] - x,
            back[1, 0] * x + back[1, 1] * y + back[1, 2] - y,
        ]
    )
    return torch.from_numpy(np.stack([picture, after])), torch.from_numpy(flow)[None].float()


def test_on_a_turn_the_forward_flow_is_not_the_backward_flow_reversed() -> None:
    """The middle of a turn would forgive a wrong grid; its rim, where the flow changes along itself, does not."""
    rgb, true = turned(6.0)
    before, after = lightness(rgb)[:1], lightness(rgb)[1:]
    y, x = torch.meshgrid(torch.arange(128) - 63.5, torch.arange(128) - 63.5, indexing="ij")
    rim = ((x.hypot(y) < 55) & (x.hypot(y) > 25))[None]

    def error(flow: Tensor) -> float:
        return float(torch.linalg.vector_norm(flow - true, dim=1)[rim].median())

    backward = dis().estimate(after, before).flow
    forward = dis().estimate(before, after).flow
    assert error(backward) < 0.2
    for wrong in (forward, -forward, 8 * backward, backward.flip(1)):
        assert error(wrong) > error(backward) + 0.15


def test_a_shift_is_found_with_its_sign_and_axes() -> None:
    picture = photograph("astronaut")
    previous, current = picture[60:220, 100:260], picture[63:223, 98:258]
    # Frame t at x shows what frame t - 1 shows at x + (-2, 3).
    found = dis().estimate(lightness(current[None]), lightness(previous[None]))
    inner = found.flow[0, :, 8:-8, 8:-8]
    error = torch.linalg.vector_norm(inner - torch.tensor([-2.0, 3.0])[:, None, None], dim=0)
    assert error.mean() < 0.05
    assert found.confidence[0, 0, 8:-8, 8:-8].mean() > 0.85
    assert found.state is None


def test_the_stereo_pair_has_a_median_error_below_a_pixel() -> None:
    """Middlebury's motorcycle: the left picture's pixel x is the right one's at x - disparity, 7 to 60 pixels."""
    left, right = (lightness(photograph(f"motorcycle_{side}")[None]) for side in ("left", "right"))
    with np.load(bundled_path("motorcycle_left").with_name("motorcycle_disp.npz")) as stored:
        disparity = torch.from_numpy(stored["arr_0"])
    known = disparity.isfinite()
    flow = dis().estimate(left, right).flow[0]
    true = torch.stack([-disparity, torch.zeros_like(disparity)])

    def median(found: Tensor) -> float:
        return float(torch.linalg.vector_norm(found - true, dim=0)[known].median())

    assert median(flow) < 1.0
    for wrong in (-flow, flow.flip(0), 8 * flow):
        assert median(wrong) > 5.0


def test_the_number_of_threads_changes_nothing() -> None:
    frames = lightness(photograph("motorcycle_left")[None]), lightness(photograph("motorcycle_right")[None])
    before = cv2.getNumThreads()
    results: list[FlowResult] = []
    try:
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            results.append(dis().estimate(*frames))
            results.append(dis().estimate(frames[0][..., :96, :96], frames[1][..., :96, :96]))
    finally:
        cv2.setNumThreads(before)
    for place in (2, 4):
        for found, wanted in zip(results[place : place + 2], results[:2], strict=True):
            assert torch.equal(found.flow, wanted.flow)
            assert torch.equal(found.confidence, wanted.confidence)


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    one = film(1)
    for item in range(2):
        alone = dis().estimate(one.lightness[item + 1 : item + 2], one.lightness[item : item + 1])
        assert torch.equal(alone.flow[0], one.found.flow[item])
        torch.testing.assert_close(alone.confidence[0], one.found.confidence[item], atol=1e-5, rtol=0)


def test_photometric_confidence_needs_no_opposite_flow() -> None:
    one = film(2)
    found = dis(confidence="photometric").estimate(one.lightness[1:], one.lightness[:-1])
    assert torch.equal(found.flow, one.found.flow)
    difference = (one.lightness[1:] - warp(one.lightness[:-1], found.flow)).abs()
    torch.testing.assert_close(found.confidence, torch.exp(-difference / 0.1), atol=1e-6, rtol=0)
    assert (found.confidence >= one.found.confidence - 1e-6).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 1, 11, 40), (1, 1, 11, 40)), "at least 12x12 pixels, given 40x11"),
        (((1, 1, 32, 32), (1, 1, 32, 40)), r"\(1, 1, 32, 32\) and \(1, 1, 32, 40\)"),
        (((1, 3, 32, 32), (1, 3, 32, 32)), "lightness pictures"),
    ],
)
def test_frames_that_do_not_fit_are_told(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dis().estimate(*(torch.zeros(shape) for shape in shapes))


def test_the_smallest_frames_and_values_beyond_the_range() -> None:
    found = dis().estimate(torch.full((1, 1, 12, 12), 3.0), torch.full((1, 1, 12, 12), -3.0))
    assert found.flow.shape == (1, 2, 12, 12) and found.flow.isfinite().all()
    assert found.confidence.max() < 1e-6


def test_no_gradient_comes_out_of_a_flow() -> None:
    frame = film(0).lightness[:1].clone().requires_grad_()
    found = dis().estimate(frame, frame)
    assert not found.flow.requires_grad and not found.confidence.requires_grad


def test_the_table_of_sources() -> None:
    assert FLOWS.names() == ["dis", "memflow", "raft"]
    for name in FLOWS:
        assert FLOWS.options_class(name)().type == name
    assert not dis().train().training
    assert dis().initial_state() is None and not dis().needs_colour
