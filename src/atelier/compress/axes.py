"""Tensors made out of tensors of another size, one index map for each axis.

A tensor is seen as a grid (``qkv`` of a window attention, say, as [3, heads, channels of a head, stream]). On each
axis an :class:`Axis` says which old index feeds each new one. Where an axis has nothing old, the new network's freshly
drawn value stands, times that axis's ``fill``: 1 keeps it, 0 makes zero. Where several axes have nothing, the first of
them decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Prepare = Callable[[Tensor, State], Tensor]


@dataclass(frozen=True)
class Axis:
    """One axis of a new tensor.

    Attributes:
        source: for each new index the old one that feeds it; -1 where there is none.
        length: of the old axis.
        fill: factor on the fresh value where there is none; a tensor is broadcast to the grid.
    """

    source: tuple[int, ...]
    length: int
    fill: float | Tensor = 0.0

    @property
    def unchanged(self) -> bool:
        """Every index keeps its place."""
        return self.source == tuple(range(self.length))

    @property
    def fed(self) -> int:
        """New indices that get something old."""
        return sum(each >= 0 for each in self.source)

    def filled(self, fill: float | Tensor) -> Axis:
        """The same map with another fill."""
        return Axis(self.source, self.length, fill)


def overlap(old: int, new: int, fill: float | Tensor = 0.0) -> Axis:
    """Equal indices as far as both reach."""
    return Axis(tuple(i if i < old else -1 for i in range(new)), old, fill)


def kept(scores: Tensor, new: int) -> Axis:
    """The ``new`` indices of the highest ``scores`` in their old order; of equal ones the first."""
    order = torch.argsort(scores, descending=True, stable=True)[:new]
    return Axis(tuple(sorted(order.tolist())), len(scores))


def centred(old: int, new: int) -> Axis:
    """The middle of an axis of odd length: cropped, or with nothing on both sides."""
    first = (old - new) // 2
    return Axis(tuple(i + first if 0 <= i + first < old else -1 for i in range(new)), old)


def joined(parts: Sequence[Axis], fill: float | Tensor = 0.0) -> Axis:
    """Axes one after the other, as one."""
    source: list[int] = []
    start = 0
    for part in parts:
        source += [i + start if i >= 0 else -1 for i in part.source]
        start += part.length
    return Axis(tuple(source), start, fill)


def product(outer: Axis, inner: Axis, fill: float | Tensor = 0.0) -> Axis:
    """A two-dimensional grid, row by row, as one axis."""
    source = tuple(
        a * inner.length + b if a >= 0 and b >= 0 else -1 for a in outer.source for b in inner.source
    )
    return Axis(source, outer.length * inner.length, fill)


@dataclass(frozen=True)
class Carry:
    """A tensor made out of an old one.

    Attributes:
        rule: in words, for the report.
        key: the old tensor.
        axes: of the new tensor's grid, the one that decides first in front.
        scale: factor on what is carried; a tensor is broadcast to the grid.
        prepare: (old tensor, all old tensors) -> the tensor that ``axes`` speaks of, for what no index map can say.
    """

    rule: str
    key: str
    axes: tuple[Axis, ...]
    scale: float | Tensor = 1.0
    prepare: Prepare | None = None

    @property
    def unchanged(self) -> bool:
        """The old tensor comes back bit for bit."""
        plain = not isinstance(self.scale, Tensor) and self.scale == 1.0
        return plain and self.prepare is None and all(axis.unchanged for axis in self.axes)

    @property
    def elements(self) -> int:
        """New numbers that come from the old tensor."""
        return math.prod(axis.fed for axis in self.axes)

    def make(self, old: State, fresh: Tensor) -> Tensor:
        """The new tensor, shaped and typed as ``fresh``."""
        value = old[self.key].to(fresh.dtype)
        if self.prepare is not None:
            value = self.prepare(value, old)
        return carried(value, self.axes, fresh, self.scale)


@dataclass(frozen=True)
class Made:
    """A tensor with nothing old in it: ``make`` of the freshly drawn one."""

    rule: str
    make: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Drawn:
    """The freshly drawn tensor as it is."""


Rule = Carry | Made | Drawn


def carried(value: Tensor, axes: Sequence[Axis], fresh: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """``value`` through the maps of ``axes``, and ``fresh`` times their fills where they have nothing.

    Args:
        value: as many numbers as the old grid has places.
        axes: one for each axis of the grid.
        fresh: as many numbers as the new grid has places.
        scale: factor on what is carried.

    Returns:
        A tensor shaped as ``fresh``.
    """
    grid = value.reshape([axis.length for axis in axes])
    for place, axis in enumerate(axes):
        if not axis.unchanged:
            grid = grid.index_select(place, torch.tensor(axis.source, device=grid.device).clamp(min=0))
    if isinstance(scale, Tensor) or scale != 1.0:
        grid = grid * scale
    drawn = fresh.reshape(grid.shape)
    for place, axis in reversed(list(enumerate(axes))):
        if axis.fed < len(axis.source):
            nothing = torch.tensor(axis.source, device=grid.device) < 0
            shape = [-1 if i == place else 1 for i in range(grid.ndim)]
            grid = torch.where(nothing.view(shape), drawn * axis.fill, grid)
    return grid.reshape(fresh.shape).clone()


def zeros() -> Made:
    """All zero, so that what follows starts as if the branch were not there."""
    return Made("added as identity: zero", torch.zeros_like)
