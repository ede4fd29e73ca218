"""MSELoss (also found as L2Loss): mean squared difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from atelier.losses.base import LossOptions, Reduction

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.losses.module import Loss


class MSELossOptions(LossOptions):
    """``loss_weight * mean (prediction - target)²``; ``reduction: sum`` is KAIR's ``l2sum``."""

    type: Literal["MSELoss", "L2Loss"] = "MSELoss"
    reduction: Reduction = "mean"

    def build(self) -> Loss:
        """A loss with the term ``pix``."""
        from atelier.losses.module import FunctionLoss

        return FunctionLoss("pix", self.loss_weight, lambda p, t: mse_loss(p, t, self.reduction))


def mse_loss(prediction: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Mean (or sum) of squared differences over all elements; any equal shapes, 0-d result."""
    from atelier.losses.module import reduce

    return reduce((prediction - target).square(), reduction)
