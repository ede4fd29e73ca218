"""Index maps and fills, against a slow reference that goes through the new tensor number by number."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from atelier.compress.axes import Axis, Carry, carried, centred, joined, kept, overlap, product

AXES = st.lists(
    st.builds(
        lambda length, source, fill: Axis(
            tuple(each if each < length else -1 for each in source), length, fill
        ),
        st.integers(1, 4),
        st.lists(st.integers(0, 5), min_size=1, max_size=4),
        st.sampled_from([0.0, 0.1, 1.0]),
    ),
    min_size=1,
    max_size=3,
)


@given(axes=AXES, scale=st.sampled_from([1.0, 0.5]))
def test_carried_is_what_a_loop_would_write(axes: list[Axis], scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    old = torch.randn([axis.length for axis in axes], generator=generator)
    fresh = torch.randn([len(axis.source) for axis in axes], generator=generator)
    new = carried(old.flatten(), axes, fresh, scale)
    taken = 0
    for place in itertools.product(*(range(len(axis.source)) for axis in axes)):
        sources = [axis.source[i] for axis, i in zip(axes, place, strict=True)]
        absent = [axis for axis, source in zip(axes, sources, strict=True) if source < 0]
        if absent:
            expected = fresh[place] * absent[0].fill
        else:
            expected, taken = old[tuple(sources)] * scale, taken + 1
        assert new[place] == expected
    assert Carry("", "", tuple(axes)).elements == taken


def test_fills_may_differ_along_the_grid() -> None:
    """q rows zero, k and v rows as drawn: a fill that is broadcast."""
    axes = (overlap(3, 3), overlap(1, 2, torch.tensor([0.0, 1.0, 1.0]).view(3, 1)))
    new = carried(torch.tensor([7.0, 8.0, 9.0]), axes, torch.full((6,), 5.0))
    assert new.tolist() == [7, 0, 8, 5, 9, 5]


def test_the_maps() -> None:
    assert overlap(2, 4).source == (0, 1, -1, -1)
    assert overlap(4, 2).source == (0, 1)
    assert overlap(3, 3).unchanged and not overlap(3, 2).unchanged and not overlap(2, 3).unchanged
    assert kept(torch.tensor([1.0, 5.0, 1.0, 9.0]), 3) == Axis((0, 1, 3), 4)
    assert centred(5, 3).source == (1, 2, 3)
    assert centred(3, 5).source == (-1, 0, 1, 2, -1)
    assert joined([overlap(2, 1), overlap(3, 4)]) == Axis((0, 2, 3, 4, -1), 5)
    assert product(overlap(2, 2), overlap(3, 2)) == Axis((0, 1, 3, 4), 6)
    assert product(overlap(1, 2), overlap(1, 2)) == Axis((0, -1, -1, -1), 1)


def test_what_counts_as_unchanged() -> None:
    rule = Carry("", "a", (overlap(2, 2), overlap(3, 3)))
    assert rule.unchanged
    assert not Carry("", "a", rule.axes, 2.0).unchanged
    assert not Carry("", "a", rule.axes, torch.ones(2, 1)).unchanged
    assert not Carry("", "a", rule.axes, prepare=lambda value, _: value).unchanged
    assert not Carry("", "a", (overlap(2, 2), overlap(3, 2))).unchanged
