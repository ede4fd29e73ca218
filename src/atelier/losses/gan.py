"""GANLoss: how a discriminator's logits become losses, its own and the generator's.

vanilla (Goodfellow et al., NeurIPS 2014), lsgan (Mao et al., ICCV 2017), wgan (Arjovsky et al., ICML 2017),
wgan_softplus (Karras et al., StyleGAN2, CVPR 2020), hinge (Lim & Ye 2017; Miyato et al., ICLR 2018), relativistic
average (Jolicoeur-Martineau, ICLR 2019; used by ESRGAN, ECCVW 2018).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from atelier.losses.base import AdversarialLossOptions

if TYPE_CHECKING:
    from torch import Tensor

GanType = Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]

#: Types that compare logits with a label.
LABELLED = ("vanilla", "lsgan")


class GANLossOptions(AdversarialLossOptions):
    """Keys as in BasicSR. ``loss_weight`` weighs the generator's term only; the discriminator's own weight is 1.

    ``real_label_val`` and ``fake_label_val`` are the labels of vanilla and lsgan. ``relativistic`` asks whether a real
    picture looks more real than fake ones do on average, and the reverse.
    """

    type: Literal["GANLoss"] = "GANLoss"
    gan_type: GanType = "vanilla"
    real_label_val: float = 1.0
    fake_label_val: float = 0.0
    relativistic: bool = False

    @model_validator(mode="after")
    def _keys_that_act(self) -> GANLossOptions:
        if self.gan_type in LABELLED:
            return self
        if (self.real_label_val, self.fake_label_val) != (1.0, 0.0):
            raise ValueError(
                f"gan_type {self.gan_type} has no labels; leave real_label_val and fake_label_val out "
                f"(they belong to {', '.join(LABELLED)})"
            )
        if self.relativistic:
            raise ValueError(
                f"relativistic: true goes with gan_type {' or '.join(LABELLED)}, given {self.gan_type}"
            )
        return self

    def build(self) -> GANLoss:
        """The arithmetic; it has no weights."""
        return GANLoss(self)


class GANLoss:
    """Losses of logits of any shape, averaged over all of them; float32 whatever autocast says."""

    def __init__(self, options: GANLossOptions) -> None:
        self.options = options

    @property
    def relativistic(self) -> bool:
        """Whether every method needs the other side's logits (``against``)."""
        return self.options.relativistic

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's term for ``fake = D(G(lq))``, times ``loss_weight``; 0-d.

        Args:
            fake: logits, graph attached.
            real: logits of real pictures, detached; for the relativistic form, which averages both directions.
        """
        weight = self.options.loss_weight
        if self.relativistic:
            assert real is not None
            towards_fake = self._loss(real - fake.mean(), real=False, judging=False)
            towards_real = self._loss(fake - real.mean(), real=True, judging=False)
            return weight * (towards_fake + towards_real) / 2
        return weight * self._loss(fake, real=True, judging=False)

    def real(self, logits: Tensor, against: Tensor | None = None) -> Tensor:
        """The discriminator's loss on real pictures; 0-d, weight 1 (½ in the relativistic form).

        Args:
            logits: ``D(gt)``.
            against: ``D(out)``, detached; for the relativistic form.
        """
        return self._judge(logits, against, real=True)

    def fake(self, logits: Tensor, against: Tensor | None = None) -> Tensor:
        """The discriminator's loss on the generator's pictures, as :meth:`real` with the sides changed."""
        return self._judge(logits, against, real=False)

    def _judge(self, logits: Tensor, against: Tensor | None, *, real: bool) -> Tensor:
        if self.relativistic:
            assert against is not None
            return self._loss(logits - against.mean(), real=real, judging=True) / 2
        return self._loss(logits, real=real, judging=True)

    def _loss(self, logits: Tensor, *, real: bool, judging: bool) -> Tensor:
        import torch
        from torch.nn import functional as F

        sign = -1.0 if real else 1.0
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            kind = self.options.gan_type
            if kind in LABELLED:
                label = self.options.real_label_val if real else self.options.fake_label_val
                target = torch.full_like(logits, label)
                compare = F.binary_cross_entropy_with_logits if kind == "vanilla" else F.mse_loss
                return compare(logits, target)
            if kind == "wgan_softplus":
                return F.softplus(sign * logits).mean()
            if kind == "hinge" and judging:
                return F.relu(1 + sign * logits).mean()
            return sign * logits.mean()
