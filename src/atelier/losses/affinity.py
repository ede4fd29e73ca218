"""Likeness of places, channels or samples to each other (FAKD, He et al., ICIP 2020).

A network's features are compared through the inner products of their own normalised vectors, so the two sides may
have different numbers of channels and need no projector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from atelier.errors import UserError
from atelier.losses.module import full_precision

AffinityMode = Literal["window", "pooled", "full", "channel", "batch"]

# What needs fewer products, by mode.
_SMALLER: dict[AffinityMode, str] = {
    "window": "use a smaller window or batch",
    "pooled": "use a larger 'pooled', or mode window",
    "full": "use mode window, or pooled",
    "channel": "use a smaller batch, or mode window",
    "batch": "use a smaller batch, or mode window",
}


@dataclass(frozen=True)
class Affinity:
    """Which products are taken.

    Attributes:
        mode: ``window``: between the places of each window; ``full``: between all places of a map; ``pooled``: the
            same on a map averaged over areas; ``channel``: between channels; ``batch``: between samples.
        window: side of a window (``window``).
        pooled: how many times smaller the map becomes (``pooled``).
        max_elements: products of one side that may be held at once.
    """

    mode: AffinityMode = "window"
    window: int = 8
    pooled: int = 4
    max_elements: int = 64 * 2**20

    def elements(self, shape: tuple[int, ...]) -> int:
        """Products for a B×C×H×W map of ``shape``; two such tensors and their difference are held at once."""
        batch, channels, height, width = shape
        if self.mode == "window":
            side = self.side(shape)
            return batch * -(-height // side) * -(-width // side) * side**4
        if self.mode == "channel":
            return batch * channels**2
        if self.mode == "batch":
            return batch**2
        if self.mode == "pooled":
            height, width = -(-height // self.pooled), -(-width // self.pooled)
        return batch * (height * width) ** 2

    def side(self, shape: tuple[int, ...]) -> int:
        """Side of a window; one larger than the map would hold nothing but zeros beside it."""
        return min(self.window, max(shape[2:]))

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises :class:`~atelier.errors.UserError`: more products than ``max_elements``, or a map of one place."""
        if self.mode == "pooled" and self.pooled >= max(shape[2:]):
            raise UserError(
                f"distill.terms.affinity.pooled: {self.pooled} leaves one place of a map of "
                f"{shape[2]}×{shape[3]}, which has nothing to be compared with; use a smaller number"
            )
        needed = self.elements(shape)
        if needed > self.max_elements:
            raise UserError(
                f"distill.terms.affinity: mode {self.mode} on features {'×'.join(map(str, shape))} needs {needed:,} "
                f"products ({needed * 4 / 2**30:.1f} GiB for each side), max_elements allows {self.max_elements:,}; "
                f"{_SMALLER[self.mode]}, or raise max_elements"
            )


@full_precision
def affinity_loss(student: Tensor, teacher: Tensor, affinity: Affinity) -> Tensor:
    """Mean |A_s - A_t| over all products; maps B×C×H×W of equal B, H and W, 0-d result in [0, 2].

    A = F̂ᵀF̂ with F̂ = F / ‖F‖₂ over channels at each place (``channel``: over the places of each channel; ``batch``:
    over a whole sample). A map that no whole number of windows covers has smaller windows at its lower and right edge.
    Gradients flow into both sides.

    Raises:
        UserError: more products than ``max_elements`` (before they are allocated); ``channel`` with different
            numbers of channels; ``batch`` with one sample, whose product is always 1.
    """
    if affinity.mode == "channel" and student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"distill.terms.affinity: mode channel compares channel with channel, but the student has "
            f"{student.shape[1]} and the teacher {teacher.shape[1]}; use window, pooled, full or batch"
        )
    if affinity.mode == "batch" and student.shape[0] == 1:
        raise UserError(
            "distill.terms.affinity: mode batch compares samples with each other and the batch has one; "
            "use a larger batch, or mode window, pooled, full or channel"
        )
    affinity.check(tuple(student.shape))
    difference = _products(student, affinity) - _products(teacher, affinity)
    total = difference.abs().sum()
    return total / _real_elements(affinity, tuple(student.shape))


def _products(feature: Tensor, affinity: Affinity) -> Tensor:
    """The products of one side, matrices M×M; places outside the map stand in as zeros."""
    if affinity.mode == "batch":
        vectors = functional.normalize(feature.flatten(1), dim=1)
        return vectors @ vectors.T
    if affinity.mode == "channel":
        vectors = functional.normalize(feature.flatten(2), dim=2)
        return vectors @ vectors.transpose(1, 2)
    if affinity.mode == "pooled":
        feature = functional.avg_pool2d(feature, affinity.pooled, ceil_mode=True)
    feature = functional.normalize(feature, dim=1)
    windows = affinity.mode == "window"
    tokens = _windows(feature, affinity.side(tuple(feature.shape))) if windows else feature.flatten(2)
    return tokens.transpose(1, 2) @ tokens


def _windows(feature: Tensor, side: int) -> Tensor:
    """B×C×H×W to (B·windows)×C×side², zeros outside the map."""
    batch, channels, height, width = feature.shape
    feature = functional.pad(feature, (0, -width % side, 0, -height % side))
    rows, columns = feature.shape[2] // side, feature.shape[3] // side
    feature = feature.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    return feature.reshape(batch * rows * columns, channels, side * side)


def _real_elements(affinity: Affinity, shape: tuple[int, ...]) -> int:
    """Products that are not between zeros outside the map."""
    if affinity.mode != "window":
        return affinity.elements(shape)
    side = affinity.side(shape)

    def squares(length: int) -> int:
        whole, rest = divmod(length, side)
        return whole * side**2 + rest**2

    return shape[0] * squares(shape[2]) * squares(shape[3])
