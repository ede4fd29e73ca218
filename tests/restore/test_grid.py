from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.restore.grid import plan_axis, round_up


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 120),
    tile=st.one_of(st.none(), st.integers(1, 60)),
    overlap=st.integers(0, 40),
    multiple=st.sampled_from([1, 2, 7, 8]),
    scale=st.integers(1, 4),
)
def test_tiles_cover_the_axis_with_equal_sizes_and_enough_context(
    length: int, tile: int | None, overlap: int, multiple: int, scale: int
) -> None:
    length = round_up(length, multiple)
    axis = plan_axis(length, tile, overlap, multiple)
    assert axis.size % multiple == 0
    assert all(start % multiple == 0 for start in axis.starts)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.size == length
    if tile is not None and len(axis.starts) > 1:
        assert axis.size <= max(tile, multiple) + 2 * round_up(overlap, multiple)
    reached = 0
    for index, start in enumerate(axis.starts):
        low, high = axis.core(index)
        assert low == reached < high
        reached = high
        assert low == 0 or low - start >= overlap
        assert high == length or start + axis.size - high >= overlap
    assert reached == length
    total = torch.zeros(length * scale)
    for start, weight in zip(axis.starts, axis.weights(scale), strict=True):
        assert weight.min() >= 0
        total[start * scale : (start + axis.size) * scale] += weight
    torch.testing.assert_close(total, torch.ones_like(total))


def test_feathers_are_smooth_and_silent_at_the_rim() -> None:
    axis = plan_axis(200, 40, 16, 8)
    weights = axis.weights(2)
    assert len(axis.starts) > 2
    assert (weights[1:, 0] == 0).all()
    assert (weights[:-1, -1] == 0).all()
    # A ramp over the middle half of 32 shared pixels at scale 2 is 32 wide: no step above pi / 2 / 32.
    assert weights.diff(dim=1).abs().max() < 0.06
