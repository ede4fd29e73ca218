"""WeightedTVLoss: total variation of the prediction (Rudin, Osher & Fatemi, Physica D 1992; the absolute form)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from atelier.losses.base import LossOptions, Reduction

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.losses.module import Loss


class WeightedTVLossOptions(LossOptions):
    """``loss_weight`` times the mean absolute difference of vertical plus of horizontal neighbours.

    It looks at the prediction alone, so it belongs beside another loss. BasicSR weighs each difference by the ground
    truth's brightness where this stands as ``pixel_opt``; here no pixel counts more than another.
    """

    type: Literal["WeightedTVLoss"] = "WeightedTVLoss"
    reduction: Reduction = "mean"

    def build(self) -> Loss:
        """A loss with the term ``tv``."""
        from atelier.losses.module import FunctionLoss

        return FunctionLoss("tv", self.loss_weight, lambda p, _: total_variation(p, self.reduction))


def total_variation(pictures: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Anisotropic total variation of N×C×H×W (sides of 2 and more), 0-d; each direction has its own mean (or sum)."""
    from atelier.losses.module import reduce

    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs()
    across = (pictures[..., 1:] - pictures[..., :-1]).abs()
    return reduce(down, reduction) + reduce(across, reduction)
