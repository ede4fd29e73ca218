"""Which teacher tap stands against which student tap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atelier.archs.depths import proportional
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.objectives.distill.taps import Taps

Shape = tuple[int, int, int]


def pairs_of(mapping: str | Sequence[Sequence[int]], students: int, teachers: int) -> list[tuple[int, int]]:
    """The pairs (teacher tap, student tap), both from 1.

    ``proportional`` gives every student tap the teacher tap of its depth (:func:`proportional`), ``first_k`` j to j,
    ``last_aligned`` the same from the end; these two leave taps without a partner where one side has more. A list
    of (teacher, student) stands for itself.

    Args:
        mapping: a policy, or the pairs.
        students, teachers: how many taps each side has.

    Raises:
        UserError: an unknown policy; a pair that names a tap that is not there, or that comes twice.
    """
    both = min(students, teachers)
    match mapping:
        case "proportional":
            return list(zip(proportional(teachers, students), range(1, students + 1), strict=True))
        case "first_k":
            return [(j, j) for j in range(1, both + 1)]
        case "last_aligned":
            return [(teachers - both + j, students - both + j) for j in range(1, both + 1)]
        case str():
            raise UserError(
                f"distill.mapping: unknown policy '{mapping}'; known: proportional, first_k, last_aligned, or a list "
                "of [teacher, student]"
            )
    pairs: list[tuple[int, int]] = []
    for pair in mapping:
        if len(pair) != 2:
            raise UserError(f"distill.mapping: {list(pair)} is no pair [teacher, student]")
        for side, place, count in (("teacher", pair[0], teachers), ("student", pair[1], students)):
            if not 1 <= place <= count:
                raise UserError(
                    f"distill.mapping: {list(pair)} names {side} tap {place}; the {side} has {count}, counted from 1"
                )
        if (pair[0], pair[1]) in pairs:
            raise UserError(f"distill.mapping: {list(pair)} stands there twice")
        pairs.append((pair[0], pair[1]))
    return pairs


def describe_pairs(
    pairs: Sequence[tuple[int, int]],
    student: Taps,
    teacher: Taps,
    *,
    projector: str = "none",
    side: str = "student",
) -> list[str]:
    """One line a pair for the start log: names, depths in %, shapes, projector; then the student taps without one.

    Args:
        pairs: (teacher, student), from 1, of the taps in ``teacher`` and ``student``.
        student, teacher: the taps.
        projector: its type, ``none`` where there is none.
        side: whose features it changes.
    """
    lines = []
    for number, (there, here) in enumerate(pairs, start=1):
        ours, theirs = student.shapes[here - 1], teacher.shapes[there - 1]
        line = f"pair {number}: student {_tap(student, here)} - teacher {_tap(teacher, there)}"
        if projector != "none":
            channels = (ours[0], theirs[0]) if side == "student" else (theirs[0], ours[0])
            line += f", {projector} projector {channels[0]} to {channels[1]} on the {side}'s side"
        if ours[1:] != theirs[1:]:
            height, width = (min(sides) for sides in zip(ours[1:], theirs[1:], strict=True))
            line += f", compared at {height}×{width}"
        lines.append(line)
    alone = [name for place, name in enumerate(student.names, 1) if place not in {here for _, here in pairs}]
    if alone:
        lines.append(f"student taps without a pair: {', '.join(alone)}")
    return lines


def _tap(taps: Taps, place: int) -> str:
    name, depth = taps.names[place - 1], round(100 * taps.depths[place - 1])
    return f"{name} ({depth} %, {_shape(taps.shapes[place - 1])})"


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape))
