"""CharbonnierLoss: a smooth L1 (Charbonnier et al., ICIP 1994; used for restoration by LapSRN, CVPR 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from atelier.losses.base import LossOptions, Reduction

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.losses.module import Loss


class CharbonnierLossOptions(LossOptions):
    """``loss_weight * mean sqrt((prediction - target)² + eps)``; eps (KAIR: 1e-9) is not squared."""

    type: Literal["CharbonnierLoss"] = "CharbonnierLoss"
    reduction: Reduction = "mean"
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-12

    def build(self) -> Loss:
        """A loss with the term ``pix``."""
        from atelier.losses.module import FunctionLoss

        return FunctionLoss(
            "pix", self.loss_weight, lambda p, t: charbonnier_loss(p, t, self.eps, self.reduction)
        )


def charbonnier_loss(
    prediction: Tensor, target: Tensor, eps: float = 1e-12, reduction: Reduction = "mean"
) -> Tensor:
    """Mean (or sum) of sqrt(d² + eps) over all elements; any equal shapes, 0-d result."""
    from atelier.losses.module import reduce

    return reduce(((prediction - target).square() + eps).sqrt(), reduction)
