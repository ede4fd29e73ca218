"""Matching in general, with the small matcher: references, padding, selection, and no timm."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atelier.colorize.matcher import ReferenceCache, keep_references
from atelier.colorize.matcher_options import EXEMPLARS, SwinTExCoOptions, TinyExemplarOptions
from atelier.colorize.matcher_tiny import TinyMatcher
from atelier.colorize.references import Anchor, References, Role
from atelier.errors import UserError
from atelier.images.lab import LabScale, rgb_to_lab


def scene(height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth coloured texture in unit LAB ``[3, H, W]``."""
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    rgb = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return LabScale.UNIT.normalise(rgb_to_lab(rgb))[0]


def references(*pictures: Tensor, roles: tuple[Role, ...] | None = None) -> References:
    return References.stack(pictures, roles)


@pytest.fixture(scope="module")
def matcher() -> TinyMatcher:
    return TinyMatcher().eval().requires_grad_(False)


def test_a_picture_finds_its_own_colours(matcher: TinyMatcher) -> None:
    lab = scene()
    ab, similarity = matcher.match(lab[None, :1], matcher.prepare(references(lab)))
    assert ab.shape == (1, 2, 48, 64) and similarity.shape == (1, 1, 48, 64)
    grey, found = lab[1:].square().mean(), (ab[0] - lab[1:]).square().mean()
    assert found < 0.2 * grey
    assert similarity.min() > 0.999


def test_results_have_the_range_of_the_contract(matcher: TinyMatcher) -> None:
    lab, other = scene(seed=1), scene(seed=2)
    ab, similarity = matcher.match(lab[None, :1], matcher.prepare(references(other)))
    assert ab.dtype == similarity.dtype == torch.float32
    assert other[1:].amin((1, 2)).le(ab.amin((0, 2, 3))).all()
    assert other[1:].amax((1, 2)).ge(ab.amax((0, 2, 3))).all()
    assert similarity.min() >= -1 - 1e-6 and similarity.max() <= 1 + 1e-6


def test_more_references_never_resemble_less(matcher: TinyMatcher) -> None:
    lab, first, second = scene(seed=1), scene(seed=2), scene(seed=3)
    one = matcher.match(lab[None, :1], matcher.prepare(references(first)))[1]
    both = matcher.match(lab[None, :1], matcher.prepare(references(first, second)))[1]
    assert (both >= one - 1e-6).all()
    assert (both > one + 1e-3).any()


def test_the_same_reference_twice_is_the_same_result(matcher: TinyMatcher) -> None:
    lab, other = scene(seed=1), scene(seed=2)
    once = matcher.match(lab[None, :1], matcher.prepare(references(other)))
    twice = matcher.match(lab[None, :1], matcher.prepare(references(other, other)))
    for a, b in zip(once, twice, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_padding_of_references_does_not_count(matcher: TinyMatcher) -> None:
    """A picture of another size beside it, or loud colours in its padding, change nothing."""
    lab, small, large = scene(seed=1), scene(40, 44, seed=2), scene(64, 80, seed=3)
    alone = matcher.prepare(references(small))
    padded = references(small, large)
    assert padded.valid is not None
    loud = References(padded.lab.masked_fill(~padded.valid, 5.0), padded.roles, padded.valid)
    first = matcher.prepare(loud).select([0])
    for a, b in zip(matcher.match(lab[None, :1], first), matcher.match(lab[None, :1], alone), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_blocks_that_hold_padding_are_excluded(matcher: TinyMatcher) -> None:
    lab = scene(24, 32)
    valid = torch.ones(1, 1, 1, 24, 32, dtype=torch.bool)
    valid[..., 30:] = False
    cache = matcher.prepare(References(lab[None, None], ("exemplar",), valid))
    assert cache.valid is not None
    assert cache.valid.reshape(6, 8).all(0).tolist() == [True] * 7 + [False]


def test_references_without_a_usable_block_are_an_error(matcher: TinyMatcher) -> None:
    nothing = References(scene()[None, None], ("exemplar",), torch.zeros(1, 1, 1, 48, 64, dtype=torch.bool))
    with pytest.raises(UserError, match="nothing but padding"):
        matcher.prepare(nothing)


def test_a_batch_is_its_clips_one_by_one(matcher: TinyMatcher) -> None:
    """References of different size in the two clips included."""
    frames = torch.stack([scene(seed=1), scene(seed=2)])[:, :1]
    pairs = [
        references(scene(seed=3), scene(seed=4)),
        references(scene(40, 44, seed=5), scene(32, 60, seed=6)),
    ]
    lab = torch.zeros(2, 2, 3, 48, 64)
    valid = torch.zeros(2, 2, 1, 48, 64, dtype=torch.bool)
    for b, each in enumerate(pairs):
        height, width = each.lab.shape[-2:]
        lab[b, :, :, :height, :width] = each.lab[0]
        valid[b, :, :, :height, :width] = True if each.valid is None else each.valid[0]
    together = matcher.match(frames, matcher.prepare(References(lab, pairs[0].roles, valid)))
    for b, each in enumerate(pairs):
        alone = matcher.match(frames[b : b + 1], matcher.prepare(each))
        for a, whole in zip(alone, together, strict=True):
            assert torch.allclose(a[0], whole[b], atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(9, 41), width=st.integers(9, 41))
def test_every_size_comes_back_as_it_was(height: int, width: int) -> None:
    matcher = TinyMatcher()
    lab = scene(height, width)
    ab, similarity = matcher.match(lab[None, :1], matcher.prepare(references(lab)))
    assert ab.shape == (1, 2, height, width) and similarity.shape == (1, 1, height, width)
    assert torch.isfinite(ab).all() and torch.isfinite(similarity).all()


def test_the_chunk_of_the_options_changes_nothing() -> None:
    lab, other = scene(seed=1), scene(seed=2)
    found = []
    for chunk in (7, 10_000):
        matcher = TinyMatcher(TinyExemplarOptions(attention_chunk=chunk)).requires_grad_(False)
        found.append(matcher.match(lab[None, :1], matcher.prepare(references(other))))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_loss_of_the_colours_reaches_every_parameter() -> None:
    matcher = TinyMatcher()
    lab, other = scene(seed=1), scene(seed=2)
    ab, _ = matcher.match(lab[None, :1], matcher.prepare(references(other)))
    (ab - lab[None, 1:]).abs().mean().backward()
    for name, parameter in matcher.named_parameters():
        # A shift of all features is taken away by the centring.
        gradient = parameter.grad
        assert gradient is not None and torch.isfinite(gradient).all()
        assert name == "net.encoder.9.bias" or gradient.abs().max() > 0, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_finite_and_near_float32(matcher: TinyMatcher, dtype: torch.dtype) -> None:
    lab, other = scene(seed=1), scene(seed=2)
    exact = matcher.match(lab[None, :1], matcher.prepare(references(other)))
    with torch.autocast("cpu", dtype=dtype):
        near = matcher.match(lab[None, :1], matcher.prepare(references(other)))
    for a, b in zip(near, exact, strict=True):
        assert a.dtype == torch.float32 and torch.isfinite(a).all()
        assert (a - b).abs().max() < 2e-2


def test_another_number_of_clips_is_named(matcher: TinyMatcher) -> None:
    with pytest.raises(ValueError, match="2 frames do not go with references of 1 clips"):
        matcher.match(torch.zeros(2, 1, 8, 8), matcher.prepare(references(scene())))


def test_caches_are_joined_and_cut(matcher: TinyMatcher) -> None:
    pictures = [scene(seed=1), scene(40, 44, seed=2), scene(seed=3)]
    whole = matcher.prepare(references(*pictures))
    joined = ReferenceCache.join([matcher.prepare(references(each)) for each in pictures])
    lab = scene(seed=4)[None, :1]
    for a, b in zip(matcher.match(lab, whole), matcher.match(lab, joined), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    cut = joined.select([2, 0])
    assert cut.counts == (192, 192)
    assert torch.equal(cut.ab[:, :192], joined.ab[:, -192:]) and torch.equal(
        cut.ab[:, 192:], joined.ab[:, :192]
    )
    with pytest.raises(ValueError, match="cannot be"):
        joined.select([3])


def test_resemblance_tells_the_scene_from_another(matcher: TinyMatcher) -> None:
    lab = scene(seed=1)
    scores = matcher.resemblance(lab[None, :1], matcher.prepare(references(scene(seed=2), lab)))
    assert scores.shape == (1, 2)
    assert 0.99 < scores[0, 1] <= 1 + 1e-6 and scores[0, 0] < scores[0, 1]


def test_what_is_kept_of_500_references() -> None:
    roles: list[Role] = [Anchor(10 * r) for r in range(250)] + ["exemplar"] * 250
    likeness = np.random.default_rng(0).random(500).tolist()
    kept, left_out = keep_references(roles, [100] * 500, 400, 1004, likeness)
    best = sorted(range(250, 500), key=lambda r: -likeness[r])[:2]
    assert kept == sorted([100, 101, *best])
    assert sorted(kept + left_out) == list(range(500))


@pytest.mark.parametrize(
    ("counts", "limit", "kept"),
    [
        ([10, 10, 10], 30, [0, 1, 2]),
        ([10, 10, 10], 29, [1, 2]),
        ([50, 50, 50], 10, [2]),
        ([10, 10, 25], 40, [2, 1]),
    ],
)
def test_the_limit_counts_keys_and_the_first_choice_always_stays(
    counts: list[int], limit: int, kept: list[int]
) -> None:
    assert keep_references(["exemplar"] * 3, counts, limit, 0, [0.1, 0.2, 0.3])[0] == sorted(kept)


def test_filters_without_training_are_the_same_everywhere() -> None:
    torch.manual_seed(7)
    first = TinyExemplarOptions().build().state_dict()
    torch.manual_seed(8)
    second = TinyExemplarOptions().build().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_table_of_matchers() -> None:
    assert EXEMPLARS.names() == ["tiny", "swintexco"]
    assert EXEMPLARS.options_class("swintexco") is SwinTExCoOptions


def test_options_need_no_torch_and_the_small_matcher_no_timm() -> None:
    program = """
import sys
sys.modules["timm"] = None
import atelier.colorize.matcher_options as options
assert "torch" not in sys.modules and "pydantic" in sys.modules
matcher = options.EXEMPLARS.options_class("tiny")().build()
import torch
from atelier.colorize.references import References
lab = torch.rand(3, 16, 16)
ab, similarity = matcher.match(lab[None, :1], matcher.prepare(References.stack([lab])))
assert ab.shape == (1, 2, 16, 16)
try:
    options.SwinTExCoOptions(allow_random_backbone=True).build()
except options.UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'atelier[colorize]'" in done.stdout and "exemplar: tiny" in done.stdout
