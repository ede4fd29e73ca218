"""Pictures to measure on: clean ones with their degraded versions, given or made by MATLAB's bicubic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atelier.errors import UserError
from atelier.evaluate.results import Pixels
from atelier.images import imresize


@dataclass(frozen=True)
class Pair:
    """One picture in memory; gt is exactly ``scale`` times as large as lq."""

    name: str
    lq: Pixels
    gt: Pixels


@dataclass(frozen=True)
class PairSource:
    """One picture that can be read: its name, the clean version, and the degraded one where it is given."""

    name: str
    read_gt: Callable[[], Pixels]
    read_lq: Callable[[], Pixels] | None = None

    def read(self, scale: int) -> Pair:
        """The pair at ``scale``; gt loses the rest of the division by it, right and bottom.

        Raises:
            UserError: a file cannot be read, or sizes or channels do not fit.
        """
        gt = self.read_gt()
        height, width = gt.shape[0] // scale, gt.shape[1] // scale
        if min(height, width) < 1:
            raise UserError(f"gt of {gt.shape[0]}×{gt.shape[1]} is smaller than scale {scale}")
        whole = np.ascontiguousarray(gt[: height * scale, : width * scale])
        if self.read_lq is None:
            lq: Pixels = imresize(whole, scale=1 / scale)
        else:
            lq = self.read_lq()
        if lq.shape[:2] != (height, width):
            raise UserError(
                f"lq is {lq.shape[0]}×{lq.shape[1]}, but at scale {scale} its gt of {gt.shape[0]}×{gt.shape[1]} "
                f"needs {height}×{width}"
            )
        for kind, pixels in (("gt", whole), ("lq", lq)):
            if pixels.shape[2] not in (1, 3):
                raise UserError(f"{kind} has alpha, which no metric here measures")
        if lq.shape[2] != whole.shape[2]:
            raise UserError(f"lq has {lq.shape[2]} channels, gt {whole.shape[2]}")
        return Pair(self.name, lq, whole)
