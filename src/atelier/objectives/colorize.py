"""The colorize objective: one step over clips.

The system colours the whole clip in one forward pass, frame after frame, and hands on its own colours. The terms look
at all frames at once. A discriminator, where there is one, judges single frames as LAB pictures in the unit scale; it
takes no gradient in the generator's part, and its own part sees the colours cut off from the generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from atelier.colorize.flow import FlowBackend
from atelier.colorize.model_files import RANDOM, digest, frozen_modules
from atelier.colorize.references import Anchor, References
from atelier.colorize.references import Role as SystemRole
from atelier.colorize.state import ClipFlow, Teacher
from atelier.colorize.system import FusionSystem
from atelier.errors import RunStopped, UserError
from atelier.losses.fusion_loss import FusionLoss
from atelier.losses.relativistic import relativistic_discriminator_loss, relativistic_generator_loss
from atelier.objectives.base import Objective, Part, Setting
from atelier.objectives.terms import unsynchronised
from atelier.randomness import Streams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atelier.objectives.colorize_options import ColorizeOptions

#: The sum of the generator's terms, as KAIR's logs call it.
TOTAL = "G_loss"


class Clips(Protocol):
    """What the objective reads from a batch; see ``atelier.data.clip_batch.ClipBatch``."""

    @property
    def L(self) -> Tensor:
        """Lightness that the network sees, ``[B, T, 1, h, w]`` in the unit scale."""

    @property
    def ab(self) -> Tensor:
        """True colours ``[B, T, 2, h, w]``."""

    @property
    def lab(self) -> Tensor:
        """Both."""

    @property
    def reference(self) -> Tensor:
        """``[B, R, 3, h, w]``."""

    @property
    def roles(self) -> tuple[Literal["exemplar"] | int, ...]:
        """One for each reference; a number is the frame that an anchor pins."""

    @property
    def numbers(self) -> Sequence[int]:
        """Each clip's place in the step's batch over all ranks."""

    @property
    def flow(self) -> Tensor | None:
        """Motion found beforehand."""

    @property
    def confidence(self) -> Tensor | None:
        """How far it is believed."""

    @property
    def true_flow(self) -> Tensor | None:
        """Known motion."""

    @property
    def valid(self) -> Tensor | None:
        """Where it holds."""

    @property
    def direction(self) -> Literal["backward", "forward"]:
        """The grid of ``true_flow``."""


def references_of(reference: Tensor, roles: tuple[Literal["exemplar"] | int, ...]) -> References:
    """Reference pictures as the system takes them: a number is the frame that an anchor pins."""
    named: list[SystemRole] = [Anchor(role) if isinstance(role, int) else role for role in roles]
    return References(reference, tuple(named))


def build_colorize(
    options: ColorizeOptions, nets: Mapping[str, nn.Module], device: torch.device
) -> ColorizeObjective:
    """The objective for networks that may be wrapped (DDP).

    Raises:
        UserError: a term needs what the system has not, or weights that nobody could have again are not to be saved.
    """
    net = nets["g"]
    system = getattr(net, "module", net)
    if not isinstance(system, FusionSystem):
        raise UserError(f"objective colorize trains a FusionSystem, not {type(system).__name__}")
    drawn = [
        name
        for name, source in getattr(system.exemplar, "sources", {}).items()
        if name != "nonlocal_net" and source.text.startswith(RANDOM)
    ]
    if drawn and system.options is not None and not system.options.save_frozen:
        raise UserError(
            f"network_g.exemplar: the weights of {', '.join(drawn)} were drawn, so nobody could open this run's model "
            "files; set network_g.save_frozen: true, or give real weights (backbone_weights)"
        )
    embed = getattr(system.exemplar, "embed_net", None)
    terms = options.loss
    asks = [
        name
        for name, needed in (
            ("contextual", terms.contextual is not None),
            (
                "perceptual with network: embed",
                terms.perceptual is not None and terms.perceptual.network == "embed",
            ),
        )
        if needed
    ]
    if asks and embed is None:
        raise UserError(
            f"loss.{asks[0]} looks at features of SwinTExCo's backbone, but network_g.exemplar is "
            f"{type(system.exemplar).__name__}; use exemplar: swintexco or leave the term out"
        )
    criterion = FusionLoss(terms, embed_net=embed if asks else None).to(device)
    return ColorizeObjective(options, net, system, criterion, nets.get("d"))


class ColorizeObjective(Objective):
    """The generator's part, and with a discriminator its part on real and coloured frames.

    Args:
        options: what is compared, and how the recurrence is cut.
        net: the system, wrapped or not; only ever called.
        system: the system itself.
        criterion: the terms without ``gan``.
        judge: the discriminator, wrapped or not; None: no such term (also where a start is judged without one).
    """

    def __init__(
        self,
        options: ColorizeOptions,
        net: nn.Module,
        system: FusionSystem,
        criterion: FusionLoss,
        judge: nn.Module | None = None,
    ) -> None:
        self.options = options
        self._net, self._system, self._criterion, self._judge = net, system, criterion, judge
        self._seed = 0
        self._frozen: dict[str, str] | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """Generator, and discriminator where there is one."""
        return ("g", "d") if self._judge is not None else ("g",)

    def begin(self, setting: Setting) -> None:
        """Scheduled sampling follows from the run's seed."""
        self._seed = setting.seed

    def join(self, data: Any) -> None:
        """Let loader processes find the motion, where the flow has neither weights nor memory and sees L alone."""
        flow = self._system.flow
        if hasattr(data, "use_motion") and _travels(flow):
            data.use_motion(flow)

    def parts(self, batch: Clips, step: int) -> Iterator[Part]:
        """See the module's docstring."""
        if self._frozen is None:
            self._frozen = self._digests()
        references = references_of(batch.reference, batch.roles)
        flows = None
        if batch.flow is not None and batch.confidence is not None:
            flows = ClipFlow(batch.flow, batch.confidence)
        sequence = self._net(
            batch.L,
            references,
            flows=flows,
            mode=self.options.mode,
            previous_ab=self._teacher(batch, step),
            bptt=self.options.bptt,
        )
        known: dict[str, Any] = {}
        if self.options.motion == "known" and batch.true_flow is not None:
            known = {"flows": batch.true_flow, "valid": batch.valid, "direction": batch.direction}
        total, weighted = self._criterion(
            sequence.ab, batch.lab, sequence=sequence, references=references, return_terms=True, **known
        )
        frames = tuple(each.flatten(0, 1) for each in (batch.L, sequence.ab, batch.ab))
        if self._judge is not None and self._judges(step):
            against = self._adversarial(*frames)
            total, weighted = total + against, {**weighted, "gan": against.detach()}
        yield Part("g", total, *self._named(total, weighted))
        del total, sequence
        if self._judge is not None:
            lightness, ab, ab_gt = frames
            del frames
            loss = relativistic_discriminator_loss(self._judge, lightness, ab.detach(), ab_gt)
            yield Part("d", loss, {"l_d": loss.detach()})

    def _judges(self, step: int) -> bool:
        gan = self.options.loss.gan
        return gan is not None and step > gan.start_iter

    def _adversarial(self, lightness: Tensor, ab: Tensor, ab_gt: Tensor) -> Tensor:
        gan = self.options.loss.gan
        assert gan is not None and self._judge is not None
        with unsynchronised(self._judge):
            return gan.weight * relativistic_generator_loss(self._judge, lightness, ab, ab_gt)

    def _named(
        self, total: Tensor, weighted: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(weighted terms and their sum, the terms before weighting)."""
        terms = {f"l_g_{name}": value for name, value in weighted.items()}
        raw = {
            f"raw_{name}": value / getattr(self.options.loss, name).weight for name, value in weighted.items()
        }
        return {**terms, TOTAL: total.detach()}, raw

    def _teacher(self, batch: Clips, step: int) -> Teacher | None:
        """Which frames hand on their true colours: drawn for each sample by its own numbers."""
        chance = self.options.scheduled_sampling
        if not chance:
            return None
        count = batch.L.shape[1]
        drawn = [
            Streams(self._seed, step, number)("scheduled_sampling").random(count) < chance
            for number in batch.numbers
        ]
        mask = torch.stack([torch.from_numpy(each) for each in drawn])
        return Teacher(batch.ab, mask.to(batch.ab.device))

    def modules(self) -> Mapping[str, nn.Module]:
        """The terms (a perceptual network may be among them)."""
        return {"loss": self._criterion}

    def verify(self) -> None:
        """Every frozen parameter and buffer is bit for bit what it was at the first step.

        Raises:
            RunStopped: one is not.
        """
        if self._frozen is None:
            return
        now = self._digests()
        changed = [name for name, value in self._frozen.items() if now.get(name) != value]
        if changed:
            raise RunStopped(f"{', '.join(changed)} should have stayed frozen, but changed in training")

    def _digests(self) -> dict[str, str]:
        modules = frozen_modules(self._system, self._system.frozen_parts)
        return {name: digest(module) for name, module in modules.items()}


def _travels(flow: FlowBackend) -> bool:
    return not flow.needs_colour and flow.initial_state() is None and not flow.state_dict()
