"""What every loss's options share, and the registry that finds a loss by ``type:``."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    from atelier.losses.gan import GANLoss
    from atelier.losses.module import Loss

Reduction = Literal["mean", "sum"]
PositiveWeight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LossOptions(Component):
    """Options of one loss. A loss that should not act is left out; a weight of 0 is an error."""

    loss_weight: PositiveWeight = 1.0

    @abstractmethod
    def build(self) -> Loss:
        """The working loss, on the CPU; raises :class:`~atelier.errors.UserError` where files are missing."""


class AdversarialLossOptions(Component):
    """Options of a loss on a discriminator's logits (``train.gan_opt``): it compares no pictures, so it is no Loss."""

    loss_weight: PositiveWeight = 1.0

    @abstractmethod
    def build(self) -> GANLoss:
        """The working loss."""


LOSSES: Registry[LossOptions] = Registry(
    "loss",
    {
        "L1Loss": "atelier.losses.l1:L1LossOptions",
        "MSELoss": "atelier.losses.mse:MSELossOptions",
        "L2Loss": "atelier.losses.mse:MSELossOptions",
        "CharbonnierLoss": "atelier.losses.charbonnier:CharbonnierLossOptions",
        "SSIMLoss": "atelier.losses.ssim:SSIMLossOptions",
        "FFTLoss": "atelier.losses.fft:FFTLossOptions",
        "WeightedTVLoss": "atelier.losses.tv:WeightedTVLossOptions",
        "PerceptualLoss": "atelier.losses.perceptual:PerceptualLossOptions",
    },
)

GAN_LOSSES: Registry[AdversarialLossOptions] = Registry(
    "GAN loss",
    {
        "GANLoss": "atelier.losses.gan:GANLossOptions",
        "MultiScaleGANLoss": "atelier.losses.gan:GANLossOptions",
    },
)
