from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.data.plan import SamplePlan, epoch_order

SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 20))
def test_every_epoch_visits_every_picture_once(sizes, seed, batch, side):
    plan = SamplePlan(seed, batch, sizes, lq_size=side)
    samples = [plan.draw(i // batch + 1, i % batch).picture for i in range(3 * len(sizes))]
    for epoch in range(3):
        assert sorted(samples[epoch * len(sizes) : (epoch + 1) * len(sizes)]) == list(range(len(sizes)))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 10**7), st.integers(0, 3))
def test_crops_lie_inside_their_picture(sizes, seed, side, step, k):
    draw = SamplePlan(seed, 4, sizes, lq_size=side).draw(step, k)
    height, width = sizes[draw.picture]
    assert 0 <= draw.y <= max(0, height - side)
    assert 0 <= draw.x <= max(0, width - side)


def test_the_draw_depends_on_seed_step_and_sample_only():
    sizes = [(40, 50)] * 5
    plan = SamplePlan(1, 4, sizes, lq_size=8)
    forwards = {(s, k): plan.draw(s, k) for s in range(1, 30) for k in range(4)}
    again = SamplePlan(1, 4, sizes, lq_size=8)
    backwards = {(s, k): again.draw(s, k) for s in range(29, 0, -1) for k in range(4)}
    assert forwards == backwards
    assert forwards != {place: SamplePlan(2, 4, sizes, lq_size=8).draw(*place) for place in forwards}


def test_ranks_share_one_global_batch():
    """The plan does not know ranks: sample k of a step is the same whoever asks."""
    plan = SamplePlan(3, 6, [(30, 30)] * 7, lq_size=4)
    whole = [plan.draw(5, k) for k in range(6)]
    shares = [plan.draw(5, rank * 3 + i) for rank in range(2) for i in range(3)]
    assert whole == shares


def test_epochs_differ_and_positions_are_spread_evenly():
    assert not np.array_equal(epoch_order(0, 0, 50), epoch_order(0, 1, 50))
    plan = SamplePlan(0, 1, [(11, 9)], lq_size=8)
    seen = Counter((d.y, d.x) for d in (plan.draw(step, 0) for step in range(1, 1601)))
    assert set(seen) == {(y, x) for y in range(4) for x in range(2)}
    assert all(abs(count - 200) < 5 * (200 * 7 / 8) ** 0.5 for count in seen.values())


def test_all_eight_orientations_are_equally_likely():
    plan = SamplePlan(0, 1, [(8, 8)], lq_size=8)
    draws = [plan.draw(step, 0) for step in range(1, 1601)]
    seen = Counter((d.hflip, d.vflip, d.transpose) for d in draws)
    assert len(seen) == 8
    assert all(abs(count - 200) < 5 * (200 * 7 / 8) ** 0.5 for count in seen.values())


@pytest.mark.parametrize(("hflip", "rot"), [(True, False), (False, True), (False, False)])
def test_switched_off_flips_never_happen_and_move_nothing_else(hflip, rot):
    full = SamplePlan(0, 1, [(80, 80)], lq_size=8)
    some = SamplePlan(0, 1, [(80, 80)], lq_size=8, use_hflip=hflip, use_rot=rot)
    for step in range(1, 60):
        a, b = full.draw(step, 0), some.draw(step, 0)
        assert (a.y, a.x) == (b.y, b.x)
        assert b.hflip == (a.hflip and hflip)
        assert (b.vflip, b.transpose) == (a.vflip and rot, a.transpose and rot)


def test_the_order_is_pinned():
    """A changed order would make every stopped run continue with other data: these numbers must never move."""
    assert epoch_order(0, 0, 8).tolist() == [1, 3, 6, 2, 4, 0, 5, 7]
