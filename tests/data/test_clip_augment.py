"""Augmentation of references: order, presets, single overrides, the spline, and what stays untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.interpolate import RBFInterpolator

from atelier.data.clip_augment import (
    ColourChange,
    ShapeChange,
    augmented,
    bending,
    draw_colours,
    draw_shape,
    recoloured,
    reshaped,
)
from atelier.data.clip_options import PRESETS, AugmentOptions, TrainClipsOptions
from atelier.data.clip_sources import RawClip
from atelier.randomness import Streams

RED = np.broadcast_to(np.array([200, 40, 40], np.uint8), (6, 8, 3))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def clip() -> RawClip:
    return RawClip([picture(0), picture(1)], [picture(0), picture(2)], (0, "exemplar"), "x")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_beginning_that_single_keys_override(preset: str) -> None:
    options = AugmentOptions.model_validate(preset)
    assert options.preset == preset and AugmentOptions.model_validate(options.model_dump()) == options
    for key, value in (
        ("hue", 5.0),
        ("saturation", (0.5, 0.6)),
        ("brightness", (0.5, 0.6)),
        ("permute", 0.9),
        ("flip", 0.9),
        ("tps", 0.9),
        ("tps_strength", 0.9),
        ("apply_to", "both"),
    ):
        changed = AugmentOptions.model_validate({"preset": preset, key: value})
        assert {
            name for name in AugmentOptions.model_fields if getattr(changed, name) != getattr(options, name)
        } == {key}
    assert options.changes is (preset != "none")


def test_presets_are_those_of_the_guide() -> None:
    strong = AugmentOptions.model_validate("strong")
    assert (strong.hue, strong.permute, strong.flip, strong.tps, strong.tps_strength) == (
        30,
        0.15,
        0.5,
        0.3,
        0.1,
    )
    moderate = AugmentOptions.model_validate("moderate")
    assert (moderate.saturation, moderate.brightness, moderate.permute) == ((0.7, 1.3), (0.8, 1.2), 0.1)
    minimal = AugmentOptions.model_validate("minimal")
    assert (minimal.hue, minimal.saturation, minimal.brightness, minimal.flip) == (
        20,
        (0.8, 1.2),
        (0.9, 1.1),
        0,
    )


def test_factors_that_fall_and_unknown_presets_are_errors() -> None:
    for wrong, message in (({"saturation": (1.2, 0.8)}, "lowest factor comes first"), ("huge", "preset")):
        with pytest.raises(ValidationError, match=message):
            AugmentOptions.model_validate(wrong)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (ColourChange(hue=120), (40, 200, 40)),
        (ColourChange(hue=-120), (40, 40, 200)),
        (ColourChange(saturation=0), (200, 200, 200)),
        (ColourChange(brightness=0.5), (100, 20, 20)),
        (ColourChange(order=(1, 0, 2)), (40, 200, 40)),
        (ColourChange(hue=120, order=(1, 2, 0)), (200, 40, 40)),  # the hue first, then the channels
    ],
)
def test_colours_change_as_named(change: ColourChange, expected: tuple[int, int, int]) -> None:
    assert np.allclose(recoloured(RED, change)[2, 3] * 255, expected, atol=0.5)


def test_nothing_drawn_leaves_every_bit() -> None:
    before = picture()
    assert recoloured(before, ColourChange()) is before
    assert np.array_equal(reshaped(before, ShapeChange()), before)
    whole = clip()
    assert augmented(whole, AugmentOptions(), Streams(1, 1, 1)) is whole


def test_drawn_values_stay_in_their_ranges_and_reach_over_them() -> None:
    options = AugmentOptions.model_validate("strong")
    colours = [draw_colours(options, Streams(1, 1, k)("c")) for k in range(400)]
    hues = [each.hue for each in colours]
    assert -30 <= min(hues) < -25 and 25 < max(hues) <= 30
    assert all(0.7 <= each.saturation <= 1.3 and 0.8 <= each.brightness <= 1.2 for each in colours)
    orders = [each.order for each in colours if each.order is not None]
    assert 0.09 < len(orders) / 400 < 0.22 and len(set(orders)) == 5 and (0, 1, 2) not in orders
    shapes = [draw_shape(options, Streams(1, 1, k)("s")) for k in range(400)]
    bent = [each.shifts for each in shapes if each.shifts is not None]
    assert 0.4 < sum(each.mirror for each in shapes) / 400 < 0.6 and 0.22 < len(bent) / 400 < 0.38
    reach = np.abs(np.array(bent)).max()
    assert 0.014 < reach <= 0.15 * 0.1


def test_the_spline_is_scipys_and_keeps_the_corners() -> None:
    height, width = 20, 31
    shifts = np.random.default_rng(0).uniform(-0.05, 0.05, (5, 2))
    x, y = bending(height, width, [tuple(each) for each in shifts])
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    assert all(abs(x[at] - np.arange(width)[at[1]]) < 1e-3 for at in corners)
    assert all(abs(y[at] - np.arange(height)[at[0]]) < 1e-3 for at in corners)
    points = np.array([(a * (width - 1), b * (height - 1)) for b in (0, 0.5, 1) for a in (0, 0.5, 1)])
    moved = np.zeros((9, 2))
    moved[[1, 3, 4, 5, 7]] = shifts * height
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(float)
    oracle = (grid + RBFInterpolator(points, moved, kernel="thin_plate_spline")(grid)).reshape(
        height, width, 2
    )
    assert np.allclose(x, oracle[..., 0], atol=1e-3) and np.allclose(y, oracle[..., 1], atol=1e-3)
    assert np.abs(x - np.arange(width)).max() > 0.5


def test_a_bent_picture_keeps_size_type_and_mirror() -> None:
    before = picture()
    shape = ShapeChange(mirror=True, shifts=((0.05, 0.0),) * 5)
    after = reshaped(before, shape)
    assert after.shape == before.shape and after.dtype == before.dtype and not np.array_equal(after, before)
    assert np.array_equal(reshaped(before, ShapeChange(mirror=True)), before[:, ::-1])


ALWAYS: dict[str, Any] = {"hue": 90, "saturation": (0.5, 0.5), "flip": 1.0, "tps": 1.0}


def test_the_reference_alone_changes_and_an_anchor_never_does() -> None:
    before = clip()
    after = augmented(before, AugmentOptions.model_validate(ALWAYS), Streams(1, 1, 1))
    assert all(np.array_equal(a, b) for a, b in zip(after.frames, before.frames, strict=True))
    assert np.array_equal(after.references[0], before.references[0])
    assert after.references[1].shape == before.references[1].shape
    assert not np.allclose(after.references[1] * 255, before.references[1], atol=20)


def test_apply_to_both_gives_clip_and_references_one_change_of_colours() -> None:
    before = clip()
    colours_only = {**ALWAYS, "flip": 0.0, "tps": 0.0, "apply_to": "both"}
    after = augmented(before, AugmentOptions.model_validate(colours_only), Streams(1, 1, 1))
    assert np.array_equal(after.frames[0], after.references[0])  # the anchor is frame 0 still
    drawn = draw_colours(AugmentOptions.model_validate(colours_only), Streams(1, 1, 1)("augment colours"))
    assert np.array_equal(after.references[1], recoloured(before.references[1], drawn))
    assert np.array_equal(after.frames[1], recoloured(before.frames[1], drawn))


def test_colours_that_contradict_the_loss_are_warned_of() -> None:
    def notes(**augment: Any) -> list[str]:
        return TrainClipsOptions(layout="synthetic", reference={"augment": augment}).notes()

    assert "hue gives the reference other colours" in notes(hue=10)[0]
    assert "hue and permute give" in notes(preset="strong")[0]
    assert notes(preset="strong", apply_to="both") == notes(flip=1.0) == notes() == []
