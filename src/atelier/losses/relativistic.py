"""The adversarial term of colouring: relativistic average least squares (Jolicoeur-Martineau, ICLR 2019, eq. 17).

D learns ½[mean(D(r) - mean D(f) - 1)² + mean(D(f) - mean D(r) + 1)²], the generator the same with the signs of 1
exchanged. Real and fake pictures are made here of one lightness, so both are unit LAB.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atelier.losses.gan import GANLoss, GANLossOptions, frozen

_RULE: GANLoss = GANLossOptions(gan_type="lsgan", relativistic=True, fake_label_val=-1.0).build()


def relativistic_discriminator_loss(
    discriminator: nn.Module, lightness: Tensor, ab: Tensor, ab_gt: Tensor
) -> Tensor:
    """What the discriminator minimises, 0-d; the prediction is detached, both go through in one pass.

    Args:
        discriminator: takes ``[N, 3, H, W]`` of unit LAB, every sample judged by itself (no batch statistics).
        lightness: ``[N, 1, H, W]``, unit scale.
        ab: the prediction ``[N, 2, H, W]``, unit scale.
        ab_gt: the truth, the same shape.
    """
    pictures = torch.cat([_picture(lightness, ab_gt), _picture(lightness, ab)]).detach()
    real, fake = discriminator(pictures).chunk(2)
    return _RULE.real(real, fake) + _RULE.fake(fake, real)


def relativistic_generator_loss(
    discriminator: nn.Module, lightness: Tensor, ab: Tensor, ab_gt: Tensor
) -> Tensor:
    """What the generator minimises, 0-d; arguments as above. The discriminator's weights get no gradient from it."""
    with torch.no_grad():
        real = discriminator(_picture(lightness, ab_gt))
    with frozen(discriminator):
        fake = discriminator(_picture(lightness, ab))
    return _RULE.generator(fake, real)


def _picture(lightness: Tensor, ab: Tensor) -> Tensor:
    return torch.cat([lightness, ab], dim=1)
