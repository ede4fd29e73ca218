"""Places in networks of different depths that belong together."""

from __future__ import annotations


def proportional(many: int, few: int) -> list[int]:
    """Place j of ``few`` takes place max(1, ⌊j·many/few + ½⌋) of ``many``; all from 1."""
    return [max(1, (2 * j * many + few) // (2 * few)) for j in range(1, few + 1)]
