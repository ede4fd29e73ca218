"""Synthetic clips as training samples: shapes, motion, and the same samples whatever the workers and ranks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from atelier.colorize.flow_options import DisFlowOptions
from atelier.data.clip_batch import ClipBatch
from atelier.data.clip_options import TrainClipsOptions, ValClipsOptions
from atelier.data.clip_samples import LightnessDraw, make_sample, unit_lab
from atelier.data.clip_sources import RawClip, RawMotion
from atelier.data.synthetic_clips import HELD_OUT, TRAINING, bundled_clip
from atelier.degrade.base import DEGRADATIONS
from atelier.errors import UserError
from atelier.images.warp import warp
from atelier.randomness import Streams

BICUBIC = DEGRADATIONS.options_class("bicubic")(type="bicubic")
STRONG = {"min_gap": 3, "augment": "strong", "anchor": True}


def batches(
    steps: int = 2,
    *,
    workers: int = 0,
    seed: int = 3,
    batch: int = 4,
    rank: int = 0,
    world: int = 1,
    motion: bool = False,
    **given: Any,
) -> list[ClipBatch]:
    options = TrainClipsOptions(
        **{"layout": "synthetic", "short_side": 32, "clip_length": 3, "num_worker_per_gpu": workers, **given}
    )
    data = options.open(
        scale=1,
        degradation=BICUBIC,
        seed=seed,
        global_batch=batch,
        in_channels=1,
        rank=rank,
        world=world,
        quiet=True,
    )
    if motion:
        data.use_motion(DisFlowOptions().build())
    try:
        return list(data.batches(1, steps))
    finally:
        data.close()


def same(one: ClipBatch, other: ClipBatch) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    return all(equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def test_a_batch_has_the_shapes_and_scales_of_the_contract() -> None:
    (batch,) = batches(1, motion=True)
    assert batch.L.shape == (4, 3, 1, 32, 32) and batch.ab.shape == (4, 3, 2, 32, 32)
    assert batch.reference.shape == (4, 1, 3, 32, 32) and batch.roles == ("exemplar",)
    assert batch.flow is not None and batch.confidence is not None
    assert batch.flow.shape == (4, 3, 2, 32, 32) and batch.confidence.shape == (4, 3, 1, 32, 32)
    assert batch.true_flow is not None and batch.valid is not None and batch.direction == "backward"
    for first in (batch.flow, batch.confidence, batch.true_flow, batch.valid):
        assert not first[:, 0].any() and first[:, 1:].any()
    assert len(batch) == 4 and list(batch.numbers) == [0, 1, 2, 3]
    assert batch.L.min() >= -1 and batch.L.max() <= 1 and batch.ab.abs().max() < 1
    halves = batch.split(2)
    assert [list(half.numbers) for half in halves] == [[0, 1], [2, 3]]
    assert torch.equal(torch.cat([half.lab for half in halves]), batch.lab) and halves[0].roles == batch.roles
    with pytest.raises(ValueError, match="4 clips cannot be split into 3"):
        batch.split(3)


@pytest.mark.parametrize("flip", [False, True])
def test_known_motion_brings_the_previous_frame_onto_the_current_one(flip: bool) -> None:
    made = bundled_clip(HELD_OUT, 4, 64, Streams(0, 0, 0)("clip"))
    clip = RawClip(list(made.rgb), [made.rgb[0]], ("exemplar",), "x", RawMotion(made.flow, made.valid))
    sample = make_sample(clip, flip=flip)
    assert sample.true_flow is not None and sample.valid is not None
    moved = warp(sample.L[:-1], sample.true_flow[1:])
    error = ((moved - sample.L[1:]).abs() * sample.valid[1:]).sum()
    still = ((sample.L[:-1] - sample.L[1:]).abs() * sample.valid[1:]).sum()
    assert error < 0.5 * still


def test_the_same_samples_with_no_and_with_four_workers() -> None:
    given: dict[str, Any] = {
        "reference": STRONG,
        "lightness_gain": 0.1,
        "lightness_noise": 0.05,
        "motion": True,
    }
    here, there = batches(3, **given), batches(3, workers=4, **given)
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


def test_ranks_share_a_step_and_micro_batches_number_through_it() -> None:
    (whole,) = batches(1, reference=STRONG)
    ranks = [batches(1, reference=STRONG, rank=rank, world=2)[0] for rank in (0, 1)]
    assert [list(each.numbers) for each in ranks] == [[0, 1], [2, 3]]
    parts = whole.split(2)
    assert all(torch.equal(rank.lab, part.lab) for rank, part in zip(ranks, parts, strict=True))
    assert all(torch.equal(rank.reference, part.reference) for rank, part in zip(ranks, parts, strict=True))


def test_sample_k_of_step_s_depends_on_seed_s_and_k_alone() -> None:
    first, second = batches(2)
    again = batches(2, reference={"augment": "none"})
    assert same(first, again[0]) and same(second, again[1])
    assert not torch.equal(first.L, second.L) and not torch.equal(first.L[0], first.L[1])
    assert not torch.equal(first.L, batches(1, seed=4)[0].L)
    # A step by itself is the step of the run.
    options = TrainClipsOptions(layout="synthetic", short_side=32, clip_length=3, num_worker_per_gpu=0)
    data = options.open(scale=1, degradation=BICUBIC, seed=3, global_batch=4, in_channels=1, quiet=True)
    assert same(next(data.batches(2, 2)), second)
    data.close()


def test_augmentation_changes_the_reference_and_nothing_else() -> None:
    (plain,), (changed,) = batches(1), batches(1, reference={"augment": {"preset": "minimal", "flip": 1.0}})
    assert torch.equal(plain.lab, changed.lab) and torch.equal(plain.true_flow, changed.true_flow)
    assert not any(map(torch.equal, plain.reference, changed.reference))
    assert torch.allclose(plain.reference[:, :, 0], changed.reference[:, :, 0].flip(-1), atol=0.5)


def test_a_synthetic_reference_is_the_frame_a_gap_before_the_clip() -> None:
    (batch,) = batches(1, use_hflip=False, reference={"min_gap": 2, "anchor": True})
    film = bundled_clip(TRAINING, 5, 32, Streams(3, 1, 0)("clip"))
    lab = unit_lab(list(film.rgb))
    assert torch.equal(batch.lab[0], lab[2:]) and batch.roles == (0, "exemplar")
    assert torch.equal(batch.reference[0], lab[[2, 0]])
    assert torch.equal(batch.true_flow[0, 1:], torch.from_numpy(film.flow[3:]))


def test_flows_false_leaves_motion_to_the_network() -> None:
    (batch,) = batches(1, motion=True, flows=False)
    assert batch.flow is None and batch.confidence is None


def test_lightness_changes_what_the_network_sees_and_nothing_else() -> None:
    (plain,), (noisy,) = batches(1, use_hflip=False), batches(1, use_hflip=False, lightness_noise=0.1)
    assert torch.equal(plain.ab, noisy.ab) and torch.equal(plain.reference, noisy.reference)
    assert 0.05 < (plain.L - noisy.L).std() < 0.15
    clip = RawClip([np.full((4, 4, 3), 120, np.uint8)], [], (), "x")
    with pytest.raises(RuntimeError):
        make_sample(clip)  # no reference at all is never made
    clip = RawClip(clip.frames, clip.frames, (0,), "x")
    doubled = make_sample(clip, lightness=LightnessDraw(gain=1.2))
    assert torch.allclose(doubled.L + 1, 1.2 * (make_sample(clip).L + 1), atol=1e-6)
    assert torch.equal(doubled.reference, make_sample(clip).reference)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_lab_of_every_depth_is_skimages(dtype: Any) -> None:
    values = np.random.default_rng(0).random((5, 7, 3))
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    picture = (values * top).astype(dtype)
    wanted = rgb2lab(picture.astype(np.float64) / top)
    got = unit_lab([picture])[0].permute(1, 2, 0).double().numpy()
    assert np.allclose(got[..., 0] * 50 + 50, wanted[..., 0], atol=2e-3)
    assert np.allclose(got[..., 1:] * 127, wanted[..., 1:], atol=2e-3)


def test_validation_is_the_same_whatever_the_run_and_gives_frame_0_by_role() -> None:
    small = {"layout": "synthetic", "short_side": 32, "clip_length": 5, "clips": 2}
    films = ValClipsOptions(**small).open(quiet=True)
    assert len(films) == 2 and films.names == ["synthetic_0", "synthetic_1"]
    assert all(same(one, other) for one, other in zip(films, ValClipsOptions(**small).open(), strict=True))
    assert films[0].L.shape == (1, 5, 1, 32, 32) and not torch.equal(films[0].L, films[1].L)
    for role, expected in (("exemplar", ("exemplar",)), ("anchor", (0,))):
        clip = ValClipsOptions(**small, reference={"role": role}).open()[1]
        assert clip.roles == expected and torch.equal(clip.reference[:, 0], clip.lab[:, 0])
    assert films.fingerprint != ValClipsOptions(**small, seed=1).open().fingerprint
    assert len(ValClipsOptions(**small, most=1).open()) == 1


def test_a_batch_that_ranks_cannot_share_is_an_error() -> None:
    with pytest.raises(UserError, match="3 clips cannot be shared evenly by 2 ranks"):
        batches(1, batch=3, world=2)
