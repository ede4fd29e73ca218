"""Which teacher tap stands against which student tap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.errors import UserError
from atelier.objectives.distill.mapping import describe_pairs, pairs_of


@pytest.mark.parametrize(
    ("teachers", "students", "expected"),
    [
        (6, 4, [2, 3, 5, 6]),
        (6, 6, [1, 2, 3, 4, 5, 6]),
        (4, 6, [1, 1, 2, 3, 3, 4]),
        (3, 2, [2, 3]),
        (1, 4, [1, 1, 1, 1]),
        (36, 16, [2, 5, 7, 9, 11, 14, 16, 18, 20, 23, 25, 27, 29, 32, 34, 36]),
    ],
)
def test_proportional_is_the_published_table(teachers: int, students: int, expected: list[int]) -> None:
    pairs = pairs_of("proportional", students, teachers)
    assert [teacher for teacher, _ in pairs] == expected
    assert [student for _, student in pairs] == list(range(1, students + 1))


@given(st.integers(1, 60), st.integers(1, 60))
def test_proportional_ends_at_the_end_and_never_goes_back(teachers: int, students: int) -> None:
    places = [teacher for teacher, _ in pairs_of("proportional", students, teachers)]
    assert places[-1] == teachers and places == sorted(places) and places[0] >= 1


def test_first_and_last() -> None:
    assert pairs_of("first_k", 4, 6) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert pairs_of("last_aligned", 4, 6) == [(3, 1), (4, 2), (5, 3), (6, 4)]
    assert pairs_of("first_k", 6, 4) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert pairs_of("last_aligned", 6, 4) == [(1, 3), (2, 4), (3, 5), (4, 6)]


def test_pairs_of_the_user() -> None:
    assert pairs_of([[2, 1], [6, 4]], 4, 6) == [(2, 1), (6, 4)]
    assert pairs_of([(2, 1), (3, 1)], 1, 3) == [(2, 1), (3, 1)]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ([[7, 1]], "teacher tap 7; the teacher has 6"),
        ([[1, 5]], "student tap 5; the student has 4"),
        ([[0, 1]], "counted from 1"),
        ([[1, 2], [1, 2]], "twice"),
        ([[1, 2, 3]], "no pair"),
        ("proportionl", "known: proportional"),
    ],
)
def test_what_cannot_be_a_pair(mapping: object, words: str) -> None:
    with pytest.raises(UserError, match=r"distill\.mapping.*" + words):
        pairs_of(mapping, 4, 6)


class _Taps:
    def __init__(self, names: list[str], shapes: list[tuple[int, int, int]], depths: list[float]) -> None:
        self.names, self.shapes, self.depths = tuple(names), tuple(shapes), tuple(depths)


def test_lines_of_the_start_log() -> None:
    student = _Taps(["layers.0", "layers.1"], [(60, 32, 32)] * 2, [0.5, 1.0])
    teacher = _Taps(["body.0", "body.1", "body.2"], [(64, 16, 16)] * 3, [1 / 3, 2 / 3, 1.0])
    lines = describe_pairs([(2, 1)], student, teacher, projector="linear")
    assert lines == [
        "pair 1: student layers.0 (50 %, 60×32×32) - teacher body.1 (67 %, 64×16×16), "
        "linear projector 60 to 64 on the student's side, compared at 16×16",
        "student taps without a pair: layers.1",
    ]
    assert (
        "64 to 60 on the teacher's side"
        in describe_pairs(
            [(3, 2)],
            student,
            teacher,
            projector="linear",
            side="teacher",
        )[0]
    )
    assert "projector" not in "".join(describe_pairs([(3, 2)], student, teacher))
