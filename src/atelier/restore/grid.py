"""Where tiles lie, and how neighbours are joined.

All tiles of one axis have the same size, so that masks a network caches per size, and compiled code, stay
valid. Tiles start on multiples of the network's window, so plain and shifted windows fall on the same pixels
as in the whole picture (SwinIR issue 69: other starts leave a grid in smooth areas). Lengths are in lq pixels
unless said.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Share of an overlap on each side that has no say in a feathered joint: nearest to a tile's rim the network
# saw its own padding instead of the picture.
RIM = 0.25


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``value``."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis of ``length`` pixels.

    Attributes:
        length: pixels of the padded picture along this axis.
        size: pixels of every tile.
        starts: first pixel of each tile.
        joints: ``len(starts) - 1`` places between neighbours, each in the middle of what both see.
    """

    length: int
    size: int
    starts: tuple[int, ...]
    joints: tuple[int, ...]

    def core(self, index: int) -> tuple[int, int]:
        """The pixels ``[low, high)`` that tile ``index`` alone answers for in an exact (cut) joint."""
        low = 0 if index == 0 else self.joints[index - 1]
        high = self.length if index == len(self.joints) else self.joints[index]
        return low, high

    def weights(self, scale: int) -> Tensor:
        """Feathering weights, shape (tiles, size * scale), in the restored picture's pixels.

        Raised-cosine ramps centred on the joints and normalised where more than two tiles meet: at every
        restored pixel the weights of all tiles sum to one, and a tile's weight at its own inner rim is zero.
        """
        count, size = len(self.starts), self.size * scale
        raised = torch.zeros(count, self.length * scale, dtype=torch.float64)
        for index, start in enumerate(self.starts):
            place = torch.arange(start * scale, start * scale + size, dtype=torch.float64) + 0.5
            weight = torch.ones(size, dtype=torch.float64)
            if index > 0:
                weight *= self._ramp(place, index - 1, scale)
            if index < count - 1:
                weight *= 1 - self._ramp(place, index, scale)
            raised[index, start * scale : start * scale + size] = weight
        raised /= raised.sum(dim=0)
        parts = [raised[i, start * scale : start * scale + size] for i, start in enumerate(self.starts)]
        return torch.stack(parts).float()

    def _ramp(self, place: Tensor, joint: int, scale: int) -> Tensor:
        """From 0 to 1 across joint number ``joint``."""
        shared = self.starts[joint] + self.size - self.starts[joint + 1]
        half = max(shared * (0.5 - RIM), 0.5) * scale
        along = ((place - self.joints[joint] * scale) / half).clamp(-1, 1)
        return 0.5 + 0.5 * torch.sin(along * (torch.pi / 2))


def plan_axis(length: int, tile: int | None, overlap: int, multiple: int) -> Axis:
    """Cover ``length`` pixels with equal tiles that see at least ``overlap`` pixels beyond each joint.

    Args:
        length: pixels along the axis, a multiple of ``multiple``.
        tile: pixels a tile answers for in the middle of a picture; it sees ``tile + 2 * overlap``. Rounded
            down to a multiple (never below one). None: one tile.
        overlap: context on each side of a tile, rounded up to a multiple.
        multiple: starts and sizes are multiples of it (the window size of window attention).
    """
    if tile is None:
        return Axis(length, length, (0,), ())
    tile = max(tile // multiple, 1) * multiple
    overlap = round_up(overlap, multiple)
    size = tile + 2 * overlap
    if size >= length:
        return Axis(length, length, (0,), ())
    # Tiles at the borders need no context beyond them, hence the 2 * overlap.
    count = -(-(length - 2 * overlap) // tile)
    room = length - size
    starts = tuple((index * room // (count - 1)) // multiple * multiple for index in range(count))
    joints = tuple((starts[i] + size + starts[i + 1]) // 2 for i in range(count - 1))
    return Axis(length, size, starts, joints)
