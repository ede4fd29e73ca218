"""The terms of colouring one by one: what they measure, and what they must not punish."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb
from torch import Tensor
from torch.nn import functional as F

from atelier.images.warp import warp
from atelier.losses.adaptive import adaptive_loss
from atelier.losses.colour_perceptual import colour_perceptual_loss
from atelier.losses.lab_picture import lab_picture
from atelier.losses.smoothness import smoothness_loss
from atelier.losses.temporal import temporal_loss
from losses.colour_clips import random_lab, true_clip


@pytest.mark.parametrize("sample", range(4))
def test_motion_of_the_truth_is_not_punished(sample: int) -> None:
    lab, flow, valid = true_clip(sample)
    ab = lab[:, :, 1:]
    compensated = temporal_loss(ab, flow, valid)
    uncompensated = temporal_loss(ab, torch.zeros_like(flow), valid)
    assert compensated < 0.5 * uncompensated
    # Teeth: a flow of the wrong sign or with its axes exchanged does no better than none by much.
    assert temporal_loss(ab, -flow, valid) > 0.9 * uncompensated
    assert temporal_loss(ab, flow.flip(2), valid) > 1.5 * compensated


def test_an_integer_translation_costs_nothing() -> None:
    wide = random_lab(1, size=40)[..., 1:, :, :]
    frames = torch.stack([wide[..., 4 + 2 * t : 28 + 2 * t, 6 - t : 30 - t] for t in range(4)], dim=1)
    flow = torch.zeros(1, 4, 2, 24, 24)
    flow[:, 1:, 0], flow[:, 1:, 1] = -1.0, 2.0
    mask = torch.zeros(1, 4, 1, 24, 24)
    mask[..., 3:-3, 3:-3] = 1
    compensated = temporal_loss(frames, flow, mask)
    assert compensated < 0.01 * temporal_loss(frames, torch.zeros_like(flow), mask)


def test_the_temporal_formula() -> None:
    """Against the formula written down per frame, with a mask that differs from frame to frame."""
    draw = torch.Generator().manual_seed(0)
    ab, mask = torch.rand(2, 3, 2, 9, 8, generator=draw), torch.rand(2, 3, 1, 9, 8, generator=draw)
    flow = 3 * torch.randn(2, 3, 2, 9, 8, generator=draw)
    terms = []
    for b in range(2):
        for t in (1, 2):
            moved = warp(ab[b : b + 1, t - 1], flow[b : b + 1, t])
            apart = (mask[b, t] * (ab[b, t] - moved[0]).abs()).sum()
            terms.append(apart / (2 * mask[b, t].sum() + 1e-6))
    torch.testing.assert_close(temporal_loss(ab, flow, mask), torch.stack(terms).mean())
    assert temporal_loss(ab, flow, torch.zeros_like(mask)) == 0, "nothing visible, nothing to say"


def test_flow_files_lie_on_the_previous_grid() -> None:
    """Played backwards a clip's backward flow is the forward flow on the (new) previous frame's grid."""
    lab, flow, valid = true_clip(2)
    ab = lab[:, :, 1:]
    backwards = ab.flip(1)
    # Entry t of the reversed clip belongs to its frames t - 1 and t, which are frames T - t and T - t - 1 of the clip.
    moved, seen = (torch.roll(each.flip(1), 1, dims=1) for each in (flow, valid))
    torch.testing.assert_close(
        temporal_loss(backwards, moved, seen, "forward"), temporal_loss(ab, flow, valid)
    )
    assert temporal_loss(backwards, moved, seen, "backward") > 2 * temporal_loss(ab, flow, valid)


def test_where_the_temporal_gradient_goes() -> None:
    lab, flow, valid = true_clip(0, frames=2)
    for detached in (False, True):
        ab = lab[:, :, 1:].clone().requires_grad_()
        mask = valid.clone().requires_grad_()
        temporal_loss(ab, flow, mask, detach_previous=detached).backward()
        assert ab.grad is not None and ab.grad[:, 1].any()
        assert bool(ab.grad[:, 0].any()) is not detached
        assert mask.grad is None, "a confidence must not learn to look away"


def test_adaptive_follows_confidence() -> None:
    draw = torch.Generator().manual_seed(0)
    ab, carried = (torch.rand(2, 3, 2, 6, 6, generator=draw) for _ in range(2))
    confidence = torch.rand(2, 3, 1, 6, 6, generator=draw)
    expected = (confidence * (ab - carried).abs())[:, 1:].mean()
    torch.testing.assert_close(adaptive_loss(ab, carried, confidence), expected)
    with pytest.raises(ValueError, match="two frames"):
        adaptive_loss(ab[:, :1], carried[:, :1], confidence[:, :1])
    with pytest.raises(ValueError, match="two frames"):
        temporal_loss(ab[:, :1], ab[:, :1], confidence[:, :1])


def test_smoothness_formula() -> None:
    truth, ab = random_lab(1, size=7), random_lab(1, size=7, seed=1)[:, 1:]
    lab = truth * torch.tensor([50.0, 127.0, 127.0])[:, None, None]
    big, colours = (F.pad(each, (1, 1, 1, 1), mode="replicate") for each in (lab, ab))
    expected = []
    for y in range(7):
        for x in range(7):
            places = [(y + j, x + i) for j in range(3) for i in range(3)]
            alike = torch.stack([-((big[0, :, j, i] - lab[0, :, y, x]) ** 2).sum() / 10 for j, i in places])
            mean = sum(w * colours[0, :, j, i] for w, (j, i) in zip(alike.softmax(0), places, strict=True))
            expected.append((ab[0, :, y, x] - mean) ** 2)
    torch.testing.assert_close(smoothness_loss(ab, truth), torch.stack(expected).mean())


def test_smoothness_spares_true_edges() -> None:
    truth = torch.zeros(1, 3, 8, 8)
    truth[..., 4:] = 0.5
    along, across = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    along[..., 4:], across[..., 4:, :] = 0.3, 0.3
    assert smoothness_loss(along, truth) < 1e-6 < smoothness_loss(across, truth)


def test_perceptual_pictures_are_srgb() -> None:
    lab = random_lab(1, size=12)
    scaled = (
        lab[0] * torch.tensor([50.0, 127.0, 127.0])[:, None, None] + torch.tensor([50.0, 0, 0])[:, None, None]
    )
    expected = lab2rgb(scaled.permute(1, 2, 0).double().numpy())
    seen: list[Tensor] = []

    def network(picture: Tensor) -> Tensor:
        seen.append(picture)
        return picture

    colour_perceptual_loss(lab[:, :1], 0.5 * lab[:, 1:], lab[:, 1:], network)
    target, prediction = seen
    np.testing.assert_allclose(target[0].permute(1, 2, 0).numpy(), expected, atol=1e-3)
    # Teeth: neither ab as it is inside the network, nor ab as if it were RGB, is this picture.
    as_rgb = torch.cat([torch.zeros_like(lab[:, :1]), lab[:, 1:]], dim=1)
    almost_grey = lab_picture(lab[:, :1], lab[:, 1:] / 127)
    for wrong in (as_rgb, almost_grey, prediction):
        assert np.abs(wrong[0].permute(1, 2, 0).numpy() - expected).max() > 0.05


def test_perceptual_distances() -> None:
    lab, other = random_lab(2, size=8), random_lab(2, size=8, seed=1)

    def loss(network: object) -> Tensor:
        return colour_perceptual_loss(lab[:, :1], other[:, 1:], lab[:, 1:], network)  # type: ignore[arg-type]

    plain = F.mse_loss(lab_picture(lab[:, :1], other[:, 1:]), lab_picture(lab[:, :1], lab[:, 1:]))
    torch.testing.assert_close(loss(lambda p: p), plain)
    torch.testing.assert_close(loss(lambda p: {"a": p, "b": 2 * p}), 5 * plain)
    torch.testing.assert_close(loss(lambda p: [2 * p, p]), plain)
    assert colour_perceptual_loss(lab[:, :1], lab[:, 1:], lab[:, 1:], lambda p: p) == 0


def test_gradient_reaches_black_and_white() -> None:
    for lightness in (-1.0, 1.0):
        ab = torch.zeros(1, 2, 4, 4, requires_grad=True)
        picture = lab_picture(torch.full((1, 1, 4, 4), lightness), ab)
        picture.square().sum().backward()
        assert ab.grad is not None and torch.isfinite(ab.grad).all()
