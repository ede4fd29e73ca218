from __future__ import annotations

import math

import torch

from atelier.colorize import cycle_confidence, photometric_confidence


def constant(x: float, y: float) -> torch.Tensor:
    return torch.tensor([float(x), float(y)]).reshape(1, 2, 1, 1).expand(1, 2, 10, 14).clone()


def test_agreeing_fields_on_equal_pictures_are_certain_where_the_target_exists() -> None:
    previous = torch.rand(1, 1, 10, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    current = torch.roll(previous, -2, 3)
    confidence = cycle_confidence(constant(2, 0), constant(-2, 0), current, previous)
    assert confidence.shape == (1, 1, 10, 14) and confidence.dtype == torch.float32
    torch.testing.assert_close(confidence[..., :-2], torch.ones(1, 1, 10, 12), atol=1e-4, rtol=0)
    assert (confidence[..., -2:] == 0).all()


def test_each_factor_is_the_formula() -> None:
    flat = torch.zeros(1, 1, 10, 14)
    # There and back ends (0.3, 0.4) away: half a pixel.
    apart = cycle_confidence(constant(0.3, 0), constant(0, 0.4), flat, flat)
    torch.testing.assert_close(apart, torch.full_like(apart, math.exp(-0.5)), atol=1e-6, rtol=0)
    brighter = photometric_confidence(constant(0, 0), flat + 0.05, flat)
    torch.testing.assert_close(brighter, torch.full_like(brighter, math.exp(-0.5)), atol=1e-6, rtol=0)
    both = cycle_confidence(constant(0.3, 0), constant(0, 0.4), flat + 0.05, flat)
    torch.testing.assert_close(both, apart * brighter)


def test_a_field_in_the_wrong_direction_is_not_believed() -> None:
    previous = torch.rand(1, 1, 10, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    current = torch.roll(previous, -2, 3)
    right = cycle_confidence(constant(2, 0), constant(-2, 0), current, previous).mean()
    wrong = cycle_confidence(constant(-2, 0), constant(2, 0), current, previous).mean()
    assert wrong < 0.3 * right
    assert cycle_confidence(constant(2, 0), constant(2, 0), current, previous).mean() < 0.1 * right
