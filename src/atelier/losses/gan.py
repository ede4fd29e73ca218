"""GANLoss: how a discriminator's logits become losses, its own and the generator's.

vanilla (Goodfellow et al., NeurIPS 2014), lsgan (Mao et al., ICCV 2017), wgan (Arjovsky et al., ICML 2017),
wgan_softplus (Karras et al., StyleGAN2, CVPR 2020), hinge (Lim & Ye 2017; Miyato et al., ICLR 2018), relativistic
average (Jolicoeur-Martineau, ICLR 2019; used by ESRGAN, ECCVW 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from atelier.losses.base import AdversarialLossOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    #: One tensor; or one entry a scale, each a tensor or a list of features whose last tensor counts.
    Logits = Tensor | Sequence[Tensor | Sequence[Tensor]]

GanType = Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]

#: Types that compare logits with a label.
LABELLED = ("vanilla", "lsgan")


class GANLossOptions(AdversarialLossOptions):
    """Keys as in BasicSR. ``loss_weight`` weighs the generator's term only; the discriminator's own weight is 1.

    ``real_label_val`` and ``fake_label_val`` are the labels of vanilla and lsgan. ``relativistic`` asks whether a real
    picture looks more real than fake ones do on average, and the reverse. A discriminator that judges at several scales
    gives a list; the loss is then the mean over it (BasicSR: ``MultiScaleGANLoss``, here the same under either name).
    """

    type: Literal["GANLoss", "MultiScaleGANLoss"] = "GANLoss"
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


def scales(logits: Logits) -> list[Tensor]:
    """The judgements in what a discriminator gave, one tensor a scale."""
    if isinstance(logits, list | tuple):
        return [each[-1] if isinstance(each, list | tuple) else each for each in logits]
    return [logits]  # type: ignore[list-item]  # a tensor, the only other kind


class GANLoss:
    """Losses of logits of any shape, averaged over all of them, then over scales; float32 whatever autocast says."""

    def __init__(self, options: GANLossOptions) -> None:
        self.options = options

    @property
    def relativistic(self) -> bool:
        """Whether every method needs the other side's logits (``against``)."""
        return self.options.relativistic

    def generator(self, fake: Logits, real: Logits | None = None) -> Tensor:
        """The generator's term for ``fake = D(G(lq))``, times ``loss_weight``; 0-d.

        Args:
            fake: logits, graph attached.
            real: logits of real pictures, detached; for the relativistic form, which averages both directions.
        """
        if not self.relativistic:
            terms = [self._loss(each, real=True, judging=False) for each in scales(fake)]
            return self.options.loss_weight * _mean(terms)
        assert real is not None
        terms = []
        for ours, theirs in zip(scales(fake), scales(real), strict=True):
            towards_fake = self._loss(theirs - ours.mean(), real=False, judging=False)
            towards_real = self._loss(ours - theirs.mean(), real=True, judging=False)
            terms.append((towards_fake + towards_real) / 2)
        return self.options.loss_weight * _mean(terms)

    def real(self, logits: Logits, against: Logits | None = None) -> Tensor:
        """The discriminator's loss on real pictures; 0-d, weight 1 (½ in the relativistic form).

        Args:
            logits: ``D(gt)``.
            against: ``D(out)``, detached; for the relativistic form.
        """
        return self._judge(logits, against, real=True)

    def fake(self, logits: Logits, against: Logits | None = None) -> Tensor:
        """The discriminator's loss on the generator's pictures, as :meth:`real` with the sides changed."""
        return self._judge(logits, against, real=False)

    def _judge(self, logits: Logits, against: Logits | None, *, real: bool) -> Tensor:
        if not self.relativistic:
            return _mean([self._loss(each, real=real, judging=True) for each in scales(logits)])
        assert against is not None
        return _mean(
            [
                self._loss(each - other.mean(), real=real, judging=True) / 2
                for each, other in zip(scales(logits), scales(against), strict=True)
            ]
        )

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


def _mean(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for each in terms[1:]:
        total = total + each
    return total / len(terms)


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Within it the weights take no part in the graph, so its backward pass leaves them without gradients."""
    trained = [each for each in net.parameters() if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)
