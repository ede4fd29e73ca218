from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from atelier.images.warp import inside, resize_flow, warp


def shift(x: float, y: float, height: int = 12, width: int = 17) -> torch.Tensor:
    return torch.tensor([float(x), float(y)]).reshape(1, 2, 1, 1).expand(1, 2, height, width).clone()


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(1, 3, 12, 17, generator=torch.Generator().manual_seed(0))


def test_a_translation_brings_the_previous_frame_onto_the_current_one(picture: torch.Tensor) -> None:
    # What stands at x in the current frame stood at x + (3, -2) in the previous one.
    current = torch.roll(picture, shifts=(2, -3), dims=(2, 3))
    moved = warp(picture, shift(3, -2))
    torch.testing.assert_close(moved[..., 2:, :-3], current[..., 2:, :-3], atol=2e-6, rtol=0)
    # The mistakes that the definition excludes.
    for wrong in (shift(-3, 2), shift(-2, 3), shift(24, -16)):
        assert (warp(picture, wrong)[..., 2:, :-3] - current[..., 2:, :-3]).abs().mean() > 0.1


def test_zero_flow_is_the_picture_and_fractions_are_bilinear(picture: torch.Tensor) -> None:
    torch.testing.assert_close(warp(picture, shift(0, 0)), picture, atol=2e-6, rtol=0)
    between = 0.75 * picture[..., :-1] + 0.25 * picture[..., 1:]
    torch.testing.assert_close(warp(picture, shift(0.25, 0))[..., :-1], between, atol=2e-6, rtol=0)


def test_outside_the_border_pixel_counts(picture: torch.Tensor) -> None:
    far = warp(picture, shift(1000, 0))
    torch.testing.assert_close(far, picture[..., -1:].expand_as(picture), atol=1e-6, rtol=0)
    assert not inside(shift(1000, 0)).any()


def test_inside_counts_half_a_pixel_around_the_centres() -> None:
    assert inside(shift(0, 0)).all() and inside(shift(-0.4, 0.4)).all()
    mask = inside(shift(2, -1))
    assert mask.dtype == torch.bool and mask.shape == (1, 1, 12, 17)
    expected = torch.zeros(12, 17, dtype=torch.bool)
    expected[1:, :-2] = True
    assert torch.equal(mask[0, 0], expected)


def test_float32_under_autocast_and_gradients_to_both(picture: torch.Tensor) -> None:
    flow = shift(0.3, 0.2).requires_grad_()
    source = picture.clone().requires_grad_()
    plain = warp(source, flow)
    plain.square().sum().backward()
    assert flow.grad is not None and (flow.grad != 0).any()
    assert source.grad is not None and (source.grad != 0).any()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warp(picture, flow), plain)


def test_a_resized_field_moves_the_resized_picture_alike() -> None:
    wide = resize_flow(shift(4, -6, 8, 10), (16, 30))
    assert wide.shape == (1, 2, 16, 30)
    torch.testing.assert_close(wide, shift(12, -12, 16, 30))
    same = shift(1, 2)
    assert torch.equal(resize_flow(same, (12, 17)), same)
    smooth = F.interpolate(torch.rand(1, 2, 3, 4), size=(24, 32), mode="bilinear")
    back = resize_flow(resize_flow(smooth, (48, 64)), (24, 32))
    torch.testing.assert_close(back, smooth, atol=0.02, rtol=0)


def test_a_picture_of_one_row_is_no_division_by_zero() -> None:
    assert torch.isfinite(warp(torch.rand(1, 1, 1, 1), torch.zeros(1, 2, 1, 1))).all()


def test_shapes_that_do_not_fit_are_refused(picture: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="differ in batch or size"):
        warp(picture, shift(0, 0, 11, 17))
    with pytest.raises(TypeError, match=r"\[B, 2, H, W\]"):
        warp(picture, torch.zeros(1, 3, 12, 17))
    with pytest.raises(TypeError, match=r"\[B, 2, H, W\]"):
        inside(torch.zeros(2, 12, 17))
