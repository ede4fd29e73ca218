"""FFTLoss: mean absolute difference of the two-dimensional spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from atelier.losses.base import LossOptions, Reduction

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.losses.module import Loss


class FFTLossOptions(LossOptions):
    """``loss_weight * mean|FFT(prediction) - FFT(target)|`` over real and imaginary parts."""

    type: Literal["FFTLoss"] = "FFTLoss"
    reduction: Reduction = "mean"

    def build(self) -> Loss:
        """A loss with the term ``fft``."""
        from atelier.losses.module import FunctionLoss

        return FunctionLoss("fft", self.loss_weight, lambda p, t: fft_loss(p, t, self.reduction))


def fft_loss(prediction: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Mean (or sum) of absolute differences between the real and imaginary parts of both spectra; 0-d result.

    The transform is ``rfft2`` over the last two axes with ``norm="ortho"``, so that a value does not grow
    with the patch size: a weight found at one size holds at another. (Without it the same loss is sqrt(H·W)
    times larger.) The half spectrum of a real picture is used, each kept coefficient counted once. The
    transform is linear, so one transform of the difference does the work of two.
    """
    import torch

    from atelier.losses.module import reduce

    spectrum = torch.fft.rfft2(prediction - target, norm="ortho")
    return reduce(torch.view_as_real(spectrum).abs(), reduction)
