"""Where SwinIR's windows lie: token orders, shift masks, the relative-position index.

Tokens travel through a residual group as rows of one matrix, window by window, so that everything inside a block
works on contiguous memory. Between an unshifted and a shifted block one row permutation takes the place of
"reverse, roll, partition". In the shifted order, windows that need the same mask stand together: of all windows only
four kinds exist (interior, right edge, bottom edge, corner), so four masks of N x N serve a picture of any size.

An exporter that leaves height or width open cannot know which kinds occur: there windows stay row by row and each
one names its kind (:attr:`Layout.open`).

Letters: B pictures, H x W the padded map, w the window side, N = w * w, s = w // 2 the shift.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Literal, ParamSpec

import torch
from torch import Tensor

Order = Literal["image", "plain", "shifted"]
Groups = tuple[tuple[int, int], ...]
"""Consecutive windows that share a mask: ((number of windows, kind of mask), ...)."""
P = ParamSpec("P")

INTERIOR, RIGHT, BOTTOM, CORNER = range(4)
# Not minus infinity: the value of the original, which trained weights have seen (spec: bit-level agreement).
_ACROSS = -100.0


def kept(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Remembers the last 16 tensors of ``make``, but none made while a compiler or exporter traces: those have no
    values, and every network of the process would compute with them afterwards."""
    remembered = lru_cache(maxsize=16)(make)

    @wraps(make)
    def remember(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return make(*args, **kwargs) if torch.compiler.is_compiling() else remembered(*args, **kwargs)  # type: ignore[arg-type]

    return remember


@lru_cache(maxsize=256)
def in_parts(groups: Groups, most: int) -> tuple[tuple[int, int, Groups], ...]:
    """Consecutive windows in parts of ``most`` and a rest: (first window, number of windows, their groups)."""
    parts: list[tuple[int, int, Groups]] = []
    first = size = 0
    part: list[tuple[int, int]] = []
    for count, kind in groups:
        while count:
            taken = min(count, most - size)
            part.append((taken, kind))
            size, count = size + taken, count - taken
            if size == most:
                parts.append((first, size, tuple(part)))
                first, size, part = first + size, 0, []
    if size:
        parts.append((first, size, tuple(part)))
    return tuple(parts)


class Layout:
    """The token orders of one (B, H, W); H and W are multiples of ``window``.

    ``image``: row b*H*W + y*W + x. ``plain``: windows row by row, the B pictures inside each window. ``shifted``:
    the windows of the map rolled by (-s, -s), sorted by kind of mask (``open``: row by row), the B pictures inside
    each window.

    Attributes:
        open: height or width is a symbol of an exporter; what is computed then must hold for one window as for many,
            so the window orders repeat their first window at the end: there are never fewer than two.
    """

    def __init__(self, batch: int, height: int, width: int, window: int, device: torch.device) -> None:
        self.batch, self.height, self.width, self.window = batch, height, width, window
        self.device = device
        self.open = isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt)
        self._places: dict[Order, Tensor] = {}
        self._moves: dict[tuple[Order, Order], Tensor] = {}

    def groups(self, shifted: bool) -> Groups:
        """The windows of an order, in that order, empty groups left out; not for the shifted order if ``open``."""
        down, across = self.height // self.window, self.width // self.window
        if not shifted:
            return ((self.batch * down * across, INTERIOR),)
        sizes = (
            (self.batch * (down - 1) * (across - 1), INTERIOR),
            (self.batch * (down - 1), RIGHT),
            (self.batch * (across - 1), BOTTOM),
            (self.batch, CORNER),
        )
        return tuple(each for each in sizes if each[0])

    def kinds(self) -> Tensor:
        """[n + 1] int64, the kind of mask of each window of the shifted order of an ``open`` layout."""
        down, across = self.height // self.window, self.width // self.window
        count = self.batch * down * across
        place = torch.arange(count + 1, device=self.device) % count // self.batch
        at_right, at_bottom = place % across == across - 1, place // across == down - 1
        return at_right * RIGHT + at_bottom * BOTTOM

    def move(self, source: Order, target: Order) -> Tensor:
        """Index [B*H*W] int64 such that ``rows.index_select(0, index)`` takes rows from one order to the other."""
        if (source, target) not in self._moves:
            where = self._image_rows(target)
            if source != "image":
                opposite = self._window_rows(source) if self.open else torch.argsort(self._image_rows(source))
                where = opposite.index_select(0, where)
            self._moves[source, target] = where
        return self._moves[source, target]

    def _image_rows(self, order: Order) -> Tensor:
        """For each row of ``order``, its row in ``image`` order."""
        if order not in self._places:
            w = self.window
            rows = torch.arange(self.batch * self.height * self.width, device=self.device)
            if order != "image" and self.open:
                rows = self._image_rows_openly(order)
            elif order != "image":
                grid = rows.view(self.batch, self.height, self.width)
                if order == "shifted":
                    grid = grid.roll((-(w // 2), -(w // 2)), (1, 2))
                grid = grid.view(self.batch, self.height // w, w, self.width // w, w).permute(1, 3, 0, 2, 4)
                if order == "plain":
                    rows = grid.reshape(-1)
                else:
                    kinds = (grid[:-1, :-1], grid[:-1, -1], grid[-1, :-1], grid[-1, -1])
                    rows = torch.cat([kind.reshape(-1) for kind in kinds])
            self._places[order] = rows
        return self._places[order]

    # Arithmetic on single rows, because a view by windows would make the exporter ask whether there is only one.

    def _image_rows_openly(self, order: Order) -> Tensor:
        w, across, shift = self.window, self.width // self.window, self._shift(order)
        total = self.batch * self.height * self.width
        rows = torch.arange(total + w**2, device=self.device) % total
        inside, place = rows % w**2, rows // w**2
        picture, place = place % self.batch, place // self.batch
        y = (place // across * w + inside // w + shift) % self.height
        x = (place % across * w + inside % w + shift) % self.width
        return (picture * self.height + y) * self.width + x

    def _window_rows(self, order: Order) -> Tensor:
        """For each row of ``image`` order, its row in window ``order``; the reverse of :meth:`_image_rows`."""
        w, shift = self.window, self._shift(order)
        rows = torch.arange(self.batch * self.height * self.width, device=self.device)
        x, y = rows % self.width, rows // self.width
        picture, y = y // self.height, y % self.height
        y, x = (y - shift) % self.height, (x - shift) % self.width
        place = (y // w * (self.width // w) + x // w) * self.batch + picture
        return (place * w + y % w) * w + x % w

    def _shift(self, order: Order) -> int:
        return self.window // 2 if order == "shifted" else 0


class Layouts:
    """Layouts by size, made once each; the least recently used one goes when there are more than ``keep``."""

    def __init__(self, window: int, keep: int = 8) -> None:
        self.window, self.keep = window, keep
        self._made: OrderedDict[tuple[int, int, int, torch.device], Layout] = OrderedDict()

    def of(self, batch: int, height: int, width: int, device: torch.device) -> Layout:
        """The layout of B pictures of H x W (padded) on ``device``."""
        if torch.compiler.is_compiling():
            return Layout(batch, height, width, self.window, device)
        key = (batch, height, width, device)
        layout = self._made.get(key)
        if layout is None:
            layout = self._made[key] = Layout(batch, height, width, self.window, device)
            if len(self._made) > self.keep:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return layout

    def __deepcopy__(self, memo: dict[int, Any]) -> Layouts:
        """A copied network starts with an empty store: what is in it can be computed again."""
        return Layouts(self.window, self.keep)


class _Rearrange(torch.autograd.Function):
    """A row permutation whose gradient is the opposite permutation: a plain copy, where autograd would scatter."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.there, ctx.back = there, back
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Rearrange.apply(gradients[0], ctx.back, ctx.there), None, None


def rearrange(rows: Tensor, layout: Layout, source: Order, target: Order) -> Tensor:
    """``rows`` [B*H*W, C] taken from one token order to another."""
    if source == target:
        return rows
    # Index tensors born in inference mode could not be used in training later.
    with torch.inference_mode(False):
        there = layout.move(source, target)
        back = layout.move(target, source) if torch.is_grad_enabled() and rows.requires_grad else None
    if back is None:
        return rows.index_select(0, there)
    return _Rearrange.apply(rows, there, back)  # type: ignore[no-any-return]


@kept
def relative_position_index(window: int, device: torch.device) -> Tensor:
    """[N, N] int64: table row of the pair (a, b), ``(ya-yb+w-1)(2w-1) + (xa-xb+w-1)``."""
    with torch.inference_mode(False):
        y = torch.arange(window, device=device).repeat_interleave(window)
        x = torch.arange(window, device=device).repeat(window)
        down = y[:, None] - y[None, :] + window - 1
        across = x[:, None] - x[None, :] + window - 1
        return down * (2 * window - 1) + across


@kept
def shift_masks(window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[4, N, N]: 0 between tokens that were neighbours before the roll, -100 across the seam; one for each kind."""
    with torch.inference_mode(False):
        wrapped = torch.arange(window, device=device) >= window - window // 2
        below, right = wrapped.repeat_interleave(window), wrapped.repeat(window)
        seam_down = below[:, None] != below[None, :]
        seam_across = right[:, None] != right[None, :]
        kinds = [torch.zeros_like(seam_down), seam_across, seam_down, seam_down | seam_across]
        return torch.stack(kinds).to(dtype) * _ACROSS


def official_mask(window: int, size: int) -> Tensor:
    """``attn_mask`` as official files hold it: [nW, N, N] float32 for a map of ``size`` (rounded up to windows)."""
    per_side = -(-size // window)
    kind = torch.zeros(per_side, per_side, dtype=torch.int64)
    kind[:, -1] += RIGHT
    kind[-1, :] += BOTTOM
    return shift_masks(window, torch.device("cpu"), torch.float32).index_select(0, kind.flatten())
