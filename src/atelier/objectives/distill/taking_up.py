"""What a run goes on with whose teacher, taps, mapping or terms are not the checkpoint's: entry by entry.

Projectors and statistics belong to a pair of taps, wherever the pair stands in the list. What belongs to a pair that is
still there, and has its shapes, is kept; the rest begins afresh or is left out, and is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

WORDS = {"projectors": "projectors", "normalisers": "the teacher's statistics"}
_PIECE = re.compile(r"(?P<term>[^.]+)\.(?P<part>projectors|normalisers)\.(?P<place>\d+)\.(?P<rest>.+)")


@dataclass(frozen=True)
class Pairs:
    """The compared pairs of taps.

    Attributes:
        numbers: (teacher tap, student tap) of each, from 1.
        names: the two modules of each; None in checkpoints that do not say.
        side: the projectors' side.
    """

    numbers: Sequence[Sequence[int]]
    names: Sequence[Sequence[str]] | None
    side: str | None

    def places_in(self, other: Pairs) -> dict[int, int]:
        """For each pair (its place, from 0) that ``other`` has as well: its place there."""
        mine, theirs = (
            (self.names, other.names)
            if self.names is not None and other.names is not None
            else (self.numbers, other.numbers)
        )
        found = {tuple(pair): place for place, pair in enumerate(theirs)}
        return {place: found[tuple(pair)] for place, pair in enumerate(mine) if tuple(pair) in found}


@dataclass(frozen=True)
class Taken:
    """What a checkpoint's terms give to a run's.

    Attributes:
        tensors: the run's key -> the checkpoint's tensor.
        keys: the run's key -> the checkpoint's key, of projectors alone.
        afresh: (part, place of the pair) of the run that begin anew.
        left: the same of the checkpoint, by its own pairs, that the run has no place for.
    """

    tensors: Mapping[str, Tensor]
    keys: Mapping[str, str]
    afresh: tuple[tuple[str, int], ...]
    left: tuple[tuple[str, int], ...]

    @property
    def whole(self) -> bool:
        """Whether every projector of either side stays where it was."""
        changed = {part for part, _ in (*self.afresh, *self.left)}
        return "projectors" not in changed and all(now == then for now, then in self.keys.items())


def take(
    own: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    now: Pairs,
    then: Pairs,
    *,
    same_teachers: bool,
) -> Taken:
    """Find for each piece of ``own`` the same one in ``stored``, whole or not at all.

    Args:
        own: the state of the run's terms.
        stored: of the checkpoint's.
        now, then: their pairs of taps.
        same_teachers: False: statistics are of other features and are never kept.
    """
    mine, theirs = _pieces(own), _pieces(stored)
    places = now.places_in(then)
    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    afresh, used = [], set()
    for (term, part, place), wanted in mine.items():
        former = (term, part, places.get(place, -1))
        used.add(former)
        given = theirs.get(former, {})
        learned = part == "projectors"
        meant = now.side == (then.side or now.side) if learned else same_teachers
        shapes = [{rest: each.shape for rest, each in piece.items()} for piece in (wanted, given)]
        if not meant or shapes[0] != shapes[1]:
            afresh.append((part, place))
            continue
        for rest, tensor in given.items():
            key = f"{term}.{part}.{place}.{rest}"
            tensors[key] = tensor
            if learned:
                keys[key] = f"{term}.{part}.{former[2]}.{rest}"
    left = [(part, place) for term, part, place in theirs if (term, part, place) not in used]
    return Taken(tensors, keys, tuple(afresh), tuple(left))


def in_words(pieces: Sequence[tuple[str, int]]) -> list[str]:
    """``projectors (pairs 1, 2)`` for each part; pairs counted from 1."""
    by_part: dict[str, list[str]] = {}
    for part, place in pieces:
        by_part.setdefault(part, []).append(str(place + 1))
    return [
        f"{WORDS[part]} ({'pair' if len(pairs) == 1 else 'pairs'} {', '.join(pairs)})"
        for part, pairs in by_part.items()
    ]


def _pieces(state: Mapping[str, Tensor]) -> dict[tuple[str, str, int], dict[str, Tensor]]:
    """(term, part, place of the pair) -> the rest of the key -> tensor."""
    pieces: dict[tuple[str, str, int], dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = _PIECE.fullmatch(key)
        assert match is not None, f"a term's state '{key}' belongs to no pair"
        piece = (match["term"], match["part"], int(match["place"]))
        pieces.setdefault(piece, {})[match["rest"]] = tensor
    return pieces
