"""SSIMLoss: one minus the structural similarity (Wang et al., IEEE TIP 13(4), 2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from atelier.errors import UserError
from atelier.losses.base import LossOptions

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.losses.module import Loss

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


class SSIMLossOptions(LossOptions):
    """``loss_weight * (1 - SSIM)``, so that less is better (KAIR's ``ssim`` has the other sign)."""

    type: Literal["SSIMLoss"] = "SSIMLoss"

    def build(self) -> Loss:
        """A loss with the term ``ssim``."""
        from atelier.losses.module import FunctionLoss

        return FunctionLoss("ssim", self.loss_weight, lambda p, t: 1 - ssim(p, t))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity of two N×C×H×W batches with values in [0, 1]; 0-d, differentiable.

    Window 11×11 Gaussian of standard deviation 1.5, K1 0.01, K2 0.03, biased (co)variances, only where the
    window lies wholly inside the picture; mean over samples, channels and places (equation 13 of the paper).
    Raises :class:`~atelier.errors.UserError` for pictures smaller than the window.
    """
    import torch

    from atelier.losses.module import shape_text

    if min(first.shape[-2:]) < WINDOW:
        raise UserError(
            f"SSIMLoss needs pictures of at least {WINDOW}×{WINDOW} pixels, given {shape_text(first)}; "
            "use a larger gt_size or leave the loss out"
        )
    channels = first.shape[1]
    maps = torch.cat((first, second, first * first, second * second, first * second), dim=1)
    mean_1, mean_2, square_1, square_2, product = torch.split(_blur(maps), channels, dim=1)
    variances = (square_1 - mean_1.square()) + (square_2 - mean_2.square())
    covariance = product - mean_1 * mean_2
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1.square() + mean_2.square() + c1)
    similarity: Tensor = luminance * (2 * covariance + c2) / (variances + c2)
    return similarity.mean()


def _blur(maps: Tensor) -> Tensor:
    """The Gaussian window over N×C×H×W, valid region only: N×C×(H-10)×(W-10).

    The window is computed on the device (no copy from the host), and the filter is depthwise on contiguous
    maps: that form is full float32 on a GPU too, where an ordinary convolution may round to TF32 and the
    difference "mean of squares minus square of the mean" would drown.
    """
    import torch
    from torch.nn import functional

    place = torch.arange(WINDOW, device=maps.device, dtype=maps.dtype) - WINDOW // 2
    window = torch.exp(-place.square() / (2 * SIGMA**2))
    window = (window / window.sum()).expand(maps.shape[1], 1, 1, WINDOW)
    rows = functional.conv2d(maps.contiguous(), window.contiguous(), groups=maps.shape[1])
    return functional.conv2d(rows, window.transpose(2, 3).contiguous(), groups=maps.shape[1])
