"""L1Loss: mean absolute difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from atelier.losses.base import LossOptions, Reduction

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.losses.module import Loss


class L1LossOptions(LossOptions):
    """``loss_weight * mean|prediction - target|``; ``reduction: sum`` adds up instead."""

    type: Literal["L1Loss"] = "L1Loss"
    reduction: Reduction = "mean"

    def build(self) -> Loss:
        """A loss with the term ``pix``."""
        from atelier.losses.module import FunctionLoss

        return FunctionLoss("pix", self.loss_weight, lambda p, t: l1_loss(p, t, self.reduction))


def l1_loss(prediction: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Mean (or sum) of absolute differences over all elements; any equal shapes, 0-d result."""
    from atelier.losses.module import reduce

    return reduce((prediction - target).abs(), reduction)
