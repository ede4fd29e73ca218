"""How a module's output becomes a map of the picture: which axis is the channels, which sides the map has.

Found from the shapes that two pictures of different, non-square sizes leave: the axis that keeps its size is the
channel axis. Networks pad the picture to a multiple of their window, so the sides follow from the padded size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from atelier.errors import UserError

Size = tuple[int, int]
Shape = tuple[int, ...]

# The largest padding of networks in use is to windows of 64.
_LARGEST_MULTIPLE = 64


@dataclass(frozen=True)
class Layout:
    """What turns an output into B×C×H×W.

    Attributes:
        axes: 4 for maps, 3 for tokens.
        channel_axis: where the channels stand.
        channels: how many there are.
        multiple: the network pads the picture to a multiple of this.
        ratio: side of the map over side of the padded picture.
    """

    axes: int
    channel_axis: int
    channels: int
    multiple: int
    ratio: Fraction

    def grid(self, size: Size) -> Size | None:
        """(height, width) of the map of a picture of ``size``, padding included; None where it is no whole number."""
        sides = [-(-side // self.multiple) * self.multiple * self.ratio for side in size]
        if any(side.denominator != 1 for side in sides):
            return None
        return int(sides[0]), int(sides[1])

    def inside(self, size: Size) -> Size:
        """(height, width) of the part of the map that belongs to the picture and not to its padding."""
        return math.ceil(size[0] * self.ratio), math.ceil(size[1] * self.ratio)

    def shape(self, size: Size) -> tuple[int, int, int]:
        """(C, H, W) of what :meth:`view` gives for a picture of ``size``."""
        return self.channels, *self.inside(size)

    def fits(self, output: Shape, size: Size) -> bool:
        """Whether a picture of ``size`` leaves an output of this shape."""
        grid = self.grid(size)
        if grid is None or len(output) != self.axes or output[self.channel_axis] != self.channels:
            return False
        rest = [side for axis, side in enumerate(output) if axis not in (0, self.channel_axis)]
        return rest == ([math.prod(grid)] if self.axes == 3 else list(grid))

    def view(self, output: Tensor, size: Size) -> Tensor:
        """B×C×H×W, a view of ``output``; the padding is left out.

        Raises:
            UserError: the output is not of the shape that the layout says.
        """
        grid = self.grid(size)
        if grid is None or not self.fits(tuple(output.shape), size):
            raise UserError(
                f"gave {'×'.join(map(str, output.shape))} for an input of {size[0]}×{size[1]}: not the layout that two "
                f"trial pictures showed ({self.channels} channels, input padded to a multiple of {self.multiple}, "
                f"map {self.ratio} of its sides)"
            )
        if self.channel_axis != 1:
            output = output.movedim(self.channel_axis, 1)
        if self.axes == 3:
            output = output.view(*output.shape[:2], *grid)
        height, width = self.inside(size)
        return output if grid == (height, width) else output[:, :, :height, :width]


def find_layout(first: Shape, second: Shape, sizes: tuple[Size, Size], declared: int) -> Layout | None:
    """The layout that explains the outputs of one picture each of both ``sizes``; None where there is none.

    ``declared`` is the multiple that the network says it pads to; others are tried after it. The first of ``sizes``
    and the second must differ in height and in width.
    """
    if len(first) != len(second) or len(first) not in (3, 4) or first[0] != 1 or second[0] != 1:
        return None
    steady = [axis for axis in range(1, len(first)) if first[axis] == second[axis]]
    if len(steady) != 1 or (steady[0] == 2 and len(first) == 4):
        return None
    axis = steady[0]
    sides = [side for place, side in enumerate(first) if place not in (0, axis)]
    for multiple in (declared, *range(1, _LARGEST_MULTIPLE + 1)):
        padded = [-(-side // multiple) * multiple for side in sizes[0]]
        ratio = Fraction(sides[0], padded[0]) if len(sides) == 2 else _root(sides, padded)
        if not ratio:
            continue
        layout = Layout(len(first), axis, first[axis], multiple, ratio)
        if layout.fits(first, sizes[0]) and layout.fits(second, sizes[1]):
            return layout
    return None


def _root(tokens: Iterable[int], padded: Iterable[int]) -> Fraction | None:
    """Side over side from tokens over pixels; None where that is not the square of a fraction."""
    share = Fraction(math.prod(tokens), math.prod(padded))
    root = Fraction(math.isqrt(share.numerator), math.isqrt(share.denominator))
    return root if root**2 == share else None
