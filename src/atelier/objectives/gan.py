"""The gan objective: a generator under content losses and a discriminator that learns beside it.

One step, as in Real-ESRGAN (Wang et al., ICCVW 2021): the generator's output is computed once; its content and GAN
terms run backward through a frozen discriminator; then the discriminator learns from real pictures and from the same
output, cut off from the generator. The original steps the generator's optimiser between the two. Here both optimisers
step at the end, which is the same: the discriminator's terms use the output from before that step and none of the
generator's weights. In training mode each pass through the discriminator moves its spectral vectors: three passes a
step (generator's, real, fake), as in the original; a joint real and fake pass would move them once less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from atelier.errors import UserError
from atelier.losses.base import AdversarialLossOptions, LossOptions, Weight
from atelier.losses.gan import frozen, scales
from atelier.losses.perceptual import PerceptualLossOptions
from atelier.objectives.base import Objective, ObjectiveOptions, Part, TrainingBatch
from atelier.objectives.terms import named_terms, part_of, unsynchronised

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from atelier.losses.gan import GANLoss
    from atelier.losses.module import Loss


class GanOptions(ObjectiveOptions):
    """Content losses of the run plus ``train.gan_opt``; key names are BasicSR's.

    ``..._gt_usm`` sharpens the target of the pixel losses, of the perceptual loss, or the real pictures that the
    discriminator sees. The generator learns in every ``net_d_iters``-th step after the first ``net_d_init_iters``; the
    discriminator in every step. ``r1_reg_weight`` above 0 adds half of it times the R1 penalty (Mescheder et al., ICML
    2018) to the discriminator's loss, in every ``net_d_reg_every``-th step and so many times as large (StyleGAN2's lazy
    regularisation; BasicSR's key names).
    """

    type: Literal["gan"] = "gan"
    l1_gt_usm: bool = False
    percep_gt_usm: bool = False
    gan_gt_usm: bool = False
    net_d_iters: Annotated[int, Field(ge=1)] = 1
    net_d_init_iters: Annotated[int, Field(ge=0)] = 0
    r1_reg_weight: Weight = 0.0
    net_d_reg_every: Annotated[int, Field(ge=1)] = 16
    roles: ClassVar[tuple[str, ...]] = ("g", "d")

    def build(
        self,
        *,
        nets: Mapping[str, nn.Module],
        losses: Sequence[LossOptions],
        device: torch.device,
        gan: AdversarialLossOptions | None = None,
        ldl: LossOptions | None = None,
    ) -> Objective:
        """With ``ldl`` (``train.ldl_opt``) ``nets["g_average"]`` is the averaged generator. Without ``nets["d"]``
        and ``gan``: the generator's content terms alone, by which a start is judged.

        Raises :class:`~atelier.errors.UserError` where that leaves no term at all.
        """
        if gan is None and not losses:
            raise UserError(
                "train: the objective 'gan' without gan_opt needs at least one loss, such as L1Loss"
            )
        content = [(options.build().to(device), self._sharpens(options)) for options in losses]
        return GanObjective(
            self,
            nets["g"],
            nets.get("d"),
            content,
            gan.build() if gan is not None else None,
            (nets["g_average"], ldl.build().to(device)) if ldl is not None else None,
        )

    def _sharpens(self, loss: LossOptions) -> bool:
        return self.percep_gt_usm if isinstance(loss, PerceptualLossOptions) else self.l1_gt_usm


class GanObjective(Objective):
    """Up to three parts a step: the generator's, the discriminator's on real and on generated pictures.

    Args:
        options: when the generator learns, and what is sharpened.
        net_g, net_d: the networks, wrapped or not; ``net_d`` None: content terms alone.
        content: each content loss, and whether its target is sharpened.
        gan: the arithmetic on logits; None exactly where ``net_d`` is None.
        ldl: the averaged generator, and the loss between pictures weighted by the artefact map; None: no such term.
    """

    def __init__(
        self,
        options: GanOptions,
        net_g: nn.Module,
        net_d: nn.Module | None,
        content: Sequence[tuple[Loss, bool]],
        gan: GANLoss | None,
        ldl: tuple[nn.Module, Loss] | None = None,
    ) -> None:
        if (net_d is None) != (gan is None):
            raise ValueError("a discriminator and a GAN loss come together")
        self.options = options
        self._g = net_g
        self._content = list(content)
        self._judge = (net_d, gan) if net_d is not None and gan is not None else None
        self._ldl = ldl

    @property
    def roles(self) -> tuple[str, ...]:
        """Generator, then discriminator."""
        return GanOptions.roles if self._judge is not None else ("g",)

    def active_roles(self, step: int) -> tuple[str, ...]:
        """The discriminator always, the generator as ``net_d_iters`` and ``net_d_init_iters`` say."""
        if self._judge is None:
            return self.roles
        learns = step > self.options.net_d_init_iters and step % self.options.net_d_iters == 0
        return GanOptions.roles if learns else ("d",)

    def parts(self, batch: TrainingBatch, step: int) -> Iterator[Part]:
        """See the module's docstring; the generator runs without a graph in steps in which it does not learn."""
        learns = "g" in self.active_roles(step)
        with _without_graph(not learns):
            out = self._g(batch.lq)
        plain, sharp = self._targets(batch.gt)
        real = sharp if self.options.gan_gt_usm else plain
        if learns:
            yield part_of("g", self._generator_terms(batch.lq, out, plain, sharp, real))
        if self._judge is not None:
            yield from self._discriminator_parts(*self._judge, out.detach(), real, step)

    def _targets(self, gt: Tensor) -> tuple[Tensor, Tensor]:
        """(gt, gt sharpened where anything asks for it)."""
        options = self.options
        if not (options.gan_gt_usm or any(sharpens for _, sharpens in self._content)):
            return gt, gt
        from atelier.degrade.usm import usm_sharp

        return gt, usm_sharp(gt)

    def _generator_terms(
        self, lq: Tensor, out: Tensor, plain: Tensor, sharp: Tensor, real: Tensor
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for loss, sharpens in self._content:
            terms = named_terms([loss], out, sharp if sharpens else plain, terms)
        if self._ldl is not None:
            terms["ldl"] = _artefacts(*self._ldl, lq, out, plain)
        if self._judge is not None:
            net, gan = self._judge
            with unsynchronised(net), frozen(net):
                against = _logits_alone(net, real) if gan.relativistic else None
                terms["gan"] = gan.generator(net(out), against)
        return terms

    def _discriminator_parts(
        self, net: nn.Module, gan: GANLoss, fake: Tensor, real: Tensor, step: int
    ) -> Iterator[Part]:
        """Real, R1 where it is due, then fake, each with a graph of its own: one of them at a time is in memory.

        Ranks exchange gradients once, after the last.
        """
        with unsynchronised(net):
            against = _logits_alone(net, fake) if gan.relativistic else None
            logits = scales(net(real))
        yield _judged("real", gan.real(logits, against), logits)
        against = [each.detach() for each in logits]
        del logits
        options = self.options
        if options.r1_reg_weight and step % options.net_d_reg_every == 0:
            penalty = _slope(net, real) * (options.r1_reg_weight / 2 * options.net_d_reg_every)
            yield Part("d", penalty, {"l_d_r1": penalty.detach()})
            del penalty
        logits = scales(net(fake))
        yield _judged("fake", gan.fake(logits, against), logits)

    def modules(self) -> Mapping[str, nn.Module]:
        """The loss modules by their place (only PerceptualLoss has weights; they are frozen)."""
        return {f"loss_{place}": loss for place, (loss, _) in enumerate(self._content)}


def _judged(kind: str, loss: Tensor, logits: Sequence[Tensor]) -> Part:
    mean = logits[0].detach().float().mean()
    for each in logits[1:]:
        mean = mean + each.detach().float().mean()
    return Part("d", loss, {f"l_d_{kind}": loss.detach(), f"out_d_{kind}": mean / len(logits)})


def _logits_alone(net: nn.Module, pictures: Tensor) -> list[Tensor]:
    with _without_graph(True):
        return scales(net(pictures))


def _artefacts(average: nn.Module, loss: Loss, lq: Tensor, out: Tensor, gt: Tensor) -> Tensor:
    """``loss`` between ``out`` and the plain ``gt`` where LDL sees artefacts."""
    import torch

    from atelier.losses.ldl import artefact_map

    with torch.no_grad():
        steadier = average(lq)
    weight = artefact_map(out, steadier, gt)
    total: Tensor = torch.stack(list(loss(weight * out, weight * gt).values())).sum()
    return total


def _slope(net: nn.Module, real: Tensor) -> Tensor:
    """The R1 penalty, in full precision whatever autocast says: squared slopes overflow half precision."""
    import torch

    from atelier.losses.gradient_penalty import r1_penalty

    with unsynchronised(net), torch.autocast(real.device.type, enabled=False):
        pictures = real.detach().float().requires_grad_(True)
        return r1_penalty(scales(net(pictures)), pictures)


def _without_graph(off: bool) -> AbstractContextManager[object]:
    import torch

    return torch.no_grad() if off else nullcontext()
