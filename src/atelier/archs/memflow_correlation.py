"""How well each position of one picture fits each of another, at four scales (RAFT, ECCV 2020, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 4
RADIUS = 4
_WIDTH = 2 * RADIUS + 1
CHANNELS = LEVELS * _WIDTH**2
# Memory for the part of the volume that is made at a time where the whole is not kept.
_PART_BYTES = 64 * 2**20


class Correlation:
    """Scalar products of all pairs of positions of two feature maps, divided by the root of their channels.

    Pooling the volume over the second picture is the same as pooling that picture's features, because a product is
    linear in them; so every level is one matrix product. A position outside the map is one more feature, a zero.
    Everything is float32, whatever autocast says.

    Args:
        first: features ``[B, C, h, w]``, of the picture on whose grid questions are asked.
        second: those of the other one.
        limit_mib: the volume (``4/3 · B · (h·w)² · 4`` bytes, 219 MB for 854x480 at an eighth) is kept if it is no
            larger; otherwise parts of it are made at each look-up, with the same result.
    """

    def __init__(self, first: Tensor, second: Tensor, limit_mib: int) -> None:
        with torch.autocast(first.device.type, enabled=False):
            self._queries = first.float().flatten(2).transpose(1, 2) / math.sqrt(first.shape[1])
            level = second.float()
            self._maps: list[Tensor] = []
            self._sizes: list[tuple[int, int]] = []
            for _ in range(LEVELS):
                self._maps.append(F.pad(level.flatten(2), (0, 1)))
                self._sizes.append((level.shape[2], level.shape[3]))
                level = F.avg_pool2d(level, 2)
            row_bytes = 4 * first.shape[0] * sum(keys.shape[2] for keys in self._maps)
            positions = self._queries.shape[1]
            self.kept = row_bytes * positions <= limit_mib * 2**20
            self._volume = [self._queries @ keys for keys in self._maps] if self.kept else []
            self._chunk = positions if self.kept else max(1, _PART_BYTES // row_bytes)

    def look_up(self, coordinates: Tensor) -> Tensor:
        """The 9x9 values around ``coordinates / 2^level`` of all levels, sampled bilinearly, zeros outside.

        Args:
            coordinates: ``[B, 2, h, w]``, (x, y) in positions of the second map.

        Returns:
            ``[B, 324, h, w]`` float32: level by level; inside a level the shift in x changes slowly, that in y fast.
        """
        batch, _, height, width = coordinates.shape
        points = coordinates.float().flatten(2)
        parts = []
        with torch.autocast(coordinates.device.type, enabled=False):
            for start in range(0, height * width, self._chunk):
                rows = slice(start, start + self._chunk)
                part = points[:, :, rows]
                parts.append(
                    torch.cat([self._windows(level, rows, part / 2**level) for level in range(LEVELS)], dim=2)
                )
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return whole.transpose(1, 2).reshape(batch, CHANNELS, height, width)

    def _windows(self, level: int, rows: slice, points: Tensor) -> Tensor:
        """``[B, n, 81]`` around ``points [B, 2, n]``.

        All 81 samples share one fraction of a position, so 10x10 values are fetched once and mixed along each axis.
        """
        height, width = self._sizes[level]
        whole = torch.floor(points)
        share_x, share_y = ((points - whole)[:, axis, :, None, None] for axis in (0, 1))
        steps = torch.arange(-RADIUS, RADIUS + 2, device=points.device)
        x = whole[:, 0, :, None, None].long() + steps[:, None]
        y = whole[:, 1, :, None, None].long() + steps
        outside = ((x < 0) | (x >= width)) | ((y < 0) | (y >= height))
        index = (y * width + x).masked_fill(outside, height * width).flatten(2)
        table = self._volume[level] if self.kept else self._queries[:, rows] @ self._maps[level]
        values = table.gather(2, index).view(*index.shape[:2], _WIDTH + 1, _WIDTH + 1)
        along_x = torch.lerp(values[:, :, :-1], values[:, :, 1:], share_x)
        return torch.lerp(along_x[..., :-1], along_x[..., 1:], share_y).flatten(2)
