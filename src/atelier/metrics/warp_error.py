"""Warp error: how much colours change along the motion (Lai et al., ECCV 2018, on ab). A grey film scores 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atelier.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class WarpError:
    """Σ M|ab_t - warp(ab_{t-1}, F)| / (2 ΣM) over all pairs of frames seen so far, in the unit of ab."""

    def __init__(self) -> None:
        self._error = 0.0
        self._weight = 0.0

    def add(self, ab: Tensor, previous_ab: Tensor, flow: Tensor, mask: Tensor) -> None:
        """One pair of frames (or a batch of pairs).

        Args:
            ab: ``[B, 2, H, W]`` in Lab units.
            previous_ab: the frames before, the same shape.
            flow: backward flow ``[B, 2, H, W]`` in pixels.
            mask: ``[B, 1, H, W]``, 1 where the flow can be right: exact validity, or :func:`consistent`.
        """
        from atelier.losses.temporal import warp_error_sums

        pairs = (each[:, None].detach() for each in (ab, previous_ab, flow, mask))
        error, weight = warp_error_sums(*pairs)
        self._error += float(error.sum())
        self._weight += float(weight.sum())

    def value(self) -> float:
        """The error so far; raises :class:`~atelier.errors.UserError` where no pixel could be compared."""
        if self._weight == 0:
            raise UserError("the warp error needs at least one pixel that two neighbouring frames both show")
        return self._error / (2 * self._weight)


def consistent(flow_cp: Tensor, flow_pc: Tensor) -> Tensor:
    """Where the way there and back ends where it began: ``[B, 1, H, W]`` bool.

    |F_cp + F_pc'|² < 0.01 (|F_cp|² + |F_pc'|²) + 0.5 with F_pc' = warp(F_pc, F_cp) (Sundaram, Brox & Keutzer, ECCV
    2010), and the way leads to a place inside the picture, since F_pc is not known anywhere else.

    Args:
        flow_cp: backward flow ``[B, 2, H, W]`` in pixels, on the current grid.
        flow_pc: the opposite, on the previous grid.
    """
    from atelier.images.warp import inside, warp

    back = warp(flow_pc, flow_cp)
    there = flow_cp.float()
    apart = (there + back).square().sum(dim=1, keepdim=True)
    allowed = 0.01 * (there.square() + back.square()).sum(dim=1, keepdim=True) + 0.5
    return (apart < allowed) & inside(flow_cp)
