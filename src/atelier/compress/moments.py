"""Second moments of a layer's inputs and targets: all that least squares needs to know of the pictures.

A layer is a linear map of the k x k x I numbers around a pixel and a one. The moments are summed in float64 batch by
batch, so memory does not grow with the number of pictures. Neighbouring pixels say nearly the same, so a share of them,
the same places in every picture, is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


def patches(x: Tensor, kernel: int, places: Tensor) -> Tensor:
    """[N, I, H, W] to [N * P, I * k * k + 1]: what a padded convolution sees at ``places`` [P], flat y * W + x."""
    width, edge = x.shape[3] + 2 * (kernel // 2), torch.arange(kernel)
    first = places // x.shape[3] * width + places % x.shape[3]
    around = (edge[:, None] * width + edge).flatten()
    padded = F.pad(x, (kernel // 2,) * 4).flatten(2)
    rows = padded[:, :, (first[:, None] + around).flatten()].reshape(*x.shape[:2], len(places), -1)
    rows = rows.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def at(y: Tensor, places: Tensor) -> Tensor:
    """[N, O, H, W] to [N * P, O]: the values at ``places``."""
    return y.flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1)


@dataclass
class Moments:
    """Sums over pixels of outer products.

    Attributes:
        inputs: [D, D], D = I * k * k + 1.
        cross: [D, O].
        targets: [O], squares.
        count: pixels.
    """

    inputs: Tensor
    cross: Tensor
    targets: Tensor
    count: int

    @classmethod
    def empty(cls, columns: int, targets: int) -> Self:
        """Nothing summed yet."""
        zeros = torch.zeros(columns + 1, columns + targets + 1, dtype=torch.float64)
        return cls(
            zeros[:, : columns + 1], zeros[:, columns + 1 :], torch.zeros(targets, dtype=zeros.dtype), 0
        )

    def add(self, u: Tensor, y: Tensor) -> None:
        """Sum u [n, D] and y [n, O] in."""
        u, y = u.double(), y.double()
        self.inputs += u.T @ u
        self.cross += u.T @ y
        self.targets += y.square().sum(0)
        self.count += len(u)

    def ridge(self, strength: float) -> Tensor:
        """``inputs`` plus ``strength`` times its mean diagonal on the diagonal; the column of ones is not damped."""
        damped = self.inputs.clone()
        size = len(damped) - 1
        damped.diagonal()[:size] += strength * damped.diagonal()[:size].mean().clamp(min=1e-12)
        return damped

    def solve(self, strength: float) -> Tensor:
        """[D, O] that minimises ``|U w - Y|^2`` plus the ridge."""
        return torch.cholesky_solve(self.cross, torch.linalg.cholesky(self.ridge(strength)))

    def error(self, solution: Tensor) -> Tensor:
        """[O], sums of squared residuals of ``solution`` [D, O]."""
        residual = (
            self.targets - 2 * (solution * self.cross).sum(0) + (solution * (self.inputs @ solution)).sum(0)
        )
        return residual.clamp(min=0)
