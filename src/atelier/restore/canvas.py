"""Where restored tiles end up: a tensor, or pixels at once, so that no float copy of a whole picture has to exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.images import from_tensor
from atelier.restore.grid import Axis

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIP = 2**18
"""Values that become pixels at a time: their float copies stay small, and in the processor's cache."""


class Canvas(Protocol):
    """Takes every place of the restored picture once."""

    def place(self, top: int, left: int, piece: Tensor) -> None:
        """Put N×C×h×w float32 there, in the restored picture's pixels; what lies beyond its border is cut off."""

    def nbytes(self, channels: int) -> int:
        """Bytes that the whole will take."""

    def wrong_values(self) -> tuple[int, int]:
        """How many values are NaN or infinite, and how many there are."""


CanvasT = TypeVar("CanvasT", bound=Canvas)


class TensorCanvas:
    """Keeps the values as they come: ``result`` is N×C×``height``×``width`` float32 on ``device``."""

    def __init__(self, count: int, height: int, width: int, device: torch.device) -> None:
        self.count, self.height, self.width, self.device = count, height, width, device
        self.result: Tensor | None = None

    def nbytes(self, channels: int) -> int:
        """See :class:`Canvas`."""
        return 4 * self.count * channels * self.height * self.width

    def wrong_values(self) -> tuple[int, int]:
        """See :class:`Canvas`."""
        assert self.result is not None
        return int((~torch.isfinite(self.result)).sum()), self.result.numel()

    def place(self, top: int, left: int, piece: Tensor) -> None:
        """See :class:`Canvas`."""
        piece = piece[..., : self.height - top, : self.width - left]
        if piece.shape[-2:] == (self.height, self.width):
            self.result = piece.to(self.device).contiguous()
            return
        if self.result is None:
            self.result = torch.empty(self.count, piece.shape[1], self.height, self.width, device=self.device)
        self.result[..., top : top + piece.shape[-2], left : left + piece.shape[-1]] = piece.to(self.device)


class PixelCanvas:
    """Turns one picture into pixels as it comes: ``pixels`` is ``height``×``width``×C of ``dtype``."""

    def __init__(self, height: int, width: int, dtype: np.dtype[Any]) -> None:
        self.height, self.width, self.dtype = height, width, dtype
        self._wrong = self._values = 0
        self.pixels: NDArray[Any] | None = None

    def nbytes(self, channels: int) -> int:
        """See :class:`Canvas`."""
        return self.dtype.itemsize * channels * self.height * self.width

    def wrong_values(self) -> tuple[int, int]:
        """See :class:`Canvas`; with any of them ``pixels`` is of no use."""
        return self._wrong, self._values

    def place(self, top: int, left: int, piece: Tensor) -> None:
        """See :class:`Canvas`; N is 1."""
        piece = piece[0, :, : self.height - top, : self.width - left]
        channels, height, width = piece.shape
        if self.pixels is None:
            self.pixels = np.empty((self.height, self.width, channels), self.dtype)
        self._values += piece.numel()
        rows = max(_STRIP // (channels * width), 1)
        for first in range(0, height, rows):
            strip = piece[:, first : first + rows]
            target = self.pixels[top + first : top + first + strip.shape[1], left : left + width]
            try:
                target[...] = from_tensor(strip, self.dtype)
            except UserError:  # counted, because a picture can be repeated in a wider format
                self._wrong += int((~torch.isfinite(strip)).sum())


class Blend:
    """Sums overlapping tiles with feathering weights, a row of tiles after the other.

    Rows of pixels that no later tile reaches go to the canvas at once; the sums are as high as one tile.
    """

    def __init__(self, rows: Axis, columns: Axis, scale: int, canvas: Canvas, device: torch.device) -> None:
        self.rows, self.columns, self.scale = rows, columns, scale
        self.canvas, self.device = canvas, device
        self.down, self.across = rows.weights(scale), columns.weights(scale)
        self.sums: Tensor | None = None

    def add(self, i: int, j: int, piece: Tensor) -> None:
        """The tile in row ``i`` and column ``j``; they come row by row, none twice."""
        if self.sums is None:
            size = (*piece.shape[:2], self.rows.size * self.scale, self.columns.length * self.scale)
            self.sums = torch.zeros(size, device=self.device)
        weight = (self.down[i][:, None] * self.across[j][None, :]).to(piece.device)
        x = self.columns.starts[j] * self.scale
        target = self.sums[..., x : x + piece.shape[-1]]
        target += (piece * weight).to(self.device)
        if j == len(self.columns.starts) - 1:
            self._finish(i, self.sums)

    def _finish(self, i: int, sums: Tensor) -> None:
        starts = self.rows.starts
        last = i == len(starts) - 1
        ready = self.rows.size * self.scale if last else (starts[i + 1] - starts[i]) * self.scale
        self.canvas.place(starts[i] * self.scale, 0, sums[..., :ready, :])
        if not last:
            kept = sums[..., ready:, :].clone()
            sums[..., : kept.shape[-2], :] = kept
            sums[..., kept.shape[-2] :, :] = 0


def blend_bytes(seen: int, columns: int, channels: int, scale: int) -> int:
    """Bytes that :class:`Blend` takes for tiles that see ``seen`` lq pixels each way, ``columns`` lq pixels across."""
    # The rows that go on are copied once; at most all of them.
    return 2 * 4 * channels * seen * columns * scale**2
