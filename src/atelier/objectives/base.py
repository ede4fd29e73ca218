"""The contract between the trainer and what a training step computes.

The trainer owns networks, optimisers, devices and the loop. An objective is handed the networks by role and,
for each batch, yields one :class:`Part` after another. The trainer runs backward on a part before it asks for
the next one, so an objective may compute a later part (a discriminator's, say) with the earlier one's graph
already freed. The optimisers of all active roles step together after the last part of the last micro-batch; a
discriminator's part on the detached output is the same before and after the generator's update, so the order
loses nothing. A generator must not hold a context (autocast, no_grad) open across a ``yield``: it would act
on the trainer's backward as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from atelier.errors import UserError
from atelier.losses.base import AdversarialLossOptions, LossOptions
from atelier.options.base import Component, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from atelier.archs.network_options import NetworkOptions
    from atelier.archs.weights import StateFile
    from atelier.losses.module import Loss


class TrainingBatch(Protocol):
    """What an objective reads from a batch: N×C×H×W float32 in [0, 1] on the networks' device."""

    @property
    def lq(self) -> Tensor:
        """The degraded pictures."""

    @property
    def gt(self) -> Tensor:
        """The clean pictures."""

    @property
    def numbers(self) -> Sequence[int]:
        """Each sample's place in the step's batch over all ranks, the third of what names its random numbers."""


@dataclass(frozen=True)
class Part:
    """One backward pass of a step.

    Attributes:
        role: the network it trains ("g", "d").
        total: 0-d, graph attached: the sum of the terms.
        terms: log name ("l_g_pix") -> detached 0-d tensor, already weighted.
        details: name -> detached 0-d tensor; recorded beside the terms, not shown in the log's line.
    """

    role: str
    total: Tensor
    terms: Mapping[str, Tensor]
    details: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at a rate of their own.

    Attributes:
        name: for logs and messages.
        parameters: each belongs to one group.
        rate: multiplies the role's learning rate.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    rate: float = 1.0


@dataclass(frozen=True)
class Findings:
    """What an objective saw on the first batch: lines for the log, and what is probably not meant."""

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guide:
    """A trained network that an objective learns from, to be measured before it is trusted.

    Attributes:
        title: its key in the options, for messages.
        net: frozen, in evaluation mode.
        quality: what happens where it is no better than bicubic or than the network that shall learn.
        above_student: whether it must be better than that network; not where that network begins as its copy.
    """

    title: str
    net: nn.Module
    quality: Literal["error", "warn", "off"]
    above_student: bool = True


@dataclass(frozen=True)
class Heritage:
    """What an objective wants the generator to begin as: a trained network made as small as the generator is.

    Attributes:
        title: whose weights they are, for messages.
        key: the option that asks for it; setting it to ``none`` begins at random.
        file: the weights.
        real: False where they are drawn, not learned: a control, which need not be better than a random start.
    """

    title: str
    key: str
    file: StateFile
    real: bool = True


@dataclass(frozen=True)
class Setting:
    """What an objective may have to know of its run before anything is built.

    Attributes:
        seed: ``manual_seed``.
        total_iter: steps of the run.
        scale: gt side over lq side.
        channels: of lq and of gt.
        lq_size: side of an lq crop.
        device: where the networks are.
        several: whether several processes train together.
        samples: of a step, over all processes.
        together: of one forward pass of one process.
        plan: what decides, beside the seed, which picture sample k of step s is; plain values. None: not known.
        cache_root: where the run keeps its caches.
    """

    seed: int
    total_iter: int
    scale: int
    channels: tuple[int, int]
    lq_size: int
    device: torch.device
    several: bool = False
    samples: int = 0
    together: int = 0
    plan: Mapping[str, Any] | None = None
    cache_root: Path | None = None


class Objective(ABC):
    """What one training step computes. Built by its options; holds no optimiser."""

    def begin(self, setting: Setting) -> None:  # noqa: B027  most objectives draw nothing
        """Told once, before the first step: the run it is part of."""

    def join(self, data: Any) -> None:  # noqa: B027  most objectives take samples as they are
        """Shown the run's samples before the first of them is made; may ask loader processes to prepare more."""

    @abstractmethod
    def parts(self, batch: Any, step: int) -> Iterator[Part]:
        """The parts of step ``step`` (counted from 1), in order; called under the trainer's autocast.

        ``batch`` is what the run's data set gives: a :class:`TrainingBatch` for pictures.
        """

    @property
    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """The networks it trains, in the order in which their parts come."""

    def active_roles(self, step: int) -> tuple[str, ...]:
        """The roles whose optimiser steps at ``step``; all of them unless an objective says otherwise."""
        return self.roles

    def preflight(self, batch: Any) -> Findings:
        """Look at the first samples before a new run's first step, and leave nothing changed.

        Raises :class:`~atelier.errors.UserError` where training could not do what the options ask for.
        """
        return Findings()

    def guides(self) -> Sequence[Guide]:
        """The networks it learns from; none by default."""
        return ()

    def feature_maps(self, lq: Tensor) -> Sequence[tuple[str, Tensor, Tensor]]:
        """For the report: (title, own map, guide's map) of each pair of features compared, H×W, on one ``lq``."""
        return ()

    def guided_seconds(self) -> float | None:
        """Seconds since the last call that its guides' answers took within the steps; None where it has none."""
        return None

    def on_disk(self) -> Mapping[str, int]:
        """Folder -> bytes of what it keeps on disk beside the run; nothing by default. Asked after :meth:`close`."""
        return {}

    def remarks(self) -> Sequence[str]:
        """What it has to tell since the last call, for the log; nothing by default."""
        return ()

    def close(self) -> Sequence[str]:
        """However the run ends: finish what is half written. Lines for the log; a second call finds nothing to do."""
        return ()

    def verify(self) -> None:  # noqa: B027  most objectives have nothing to verify
        """At the end: raises :class:`~atelier.errors.RunStopped` where what should have stayed the same did not."""

    def files(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Own weights that a checkpoint also writes as ``models/net_ROLE_N``, by role; none by default."""
        return {}

    def load_files(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what another program's checkpoint holds of :meth:`files`.

        Raises:
            UserError: there is something that this objective does not train.
        """
        if files:
            raise UserError(
                f"the checkpoint holds weights ({', '.join(files)}) that the objective {type(self).__name__} does not "
                "train; a run of another name can begin with its network: path.pretrain_network_g"
            )

    def modules(self) -> Mapping[str, nn.Module]:
        """Its own modules (frozen feature networks, projectors), already on the device; none by default."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of the objective itself, to resume exactly; nothing by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; raises ValueError for keys it does not know."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, given: {', '.join(state)}")

    def carried(self) -> Mapping[str, str] | None:
        """After :meth:`load_state_dict`: the parameters of its own that go on, name now -> name in the checkpoint.

        Names are those in the module that :meth:`ObjectiveOptions.trained` gave. None: all of them, where they were.
        """
        return None


class ObjectiveOptions(Component):
    """Options of an objective. ``roles`` says, before anything is built, which networks a run must define."""

    roles: ClassVar[tuple[str, ...]]
    looks_ahead: ClassVar[bool] = False
    """Whether :meth:`Objective.preflight` and :meth:`Objective.guides` have anything to say."""

    @property
    def needed_roles(self) -> tuple[str, ...]:
        """The networks that a run with these options defines; ``roles`` unless an option adds one."""
        return type(self).roles

    @property
    def own_terms(self) -> Sequence[tuple[str, float]]:
        """Terms and weights that stand in these options; an objective that has some reads none of ``train``."""
        return ()

    def check_network(self, network: NetworkOptions) -> None:
        """Raise ValueError where ``network_g`` is nothing that this objective can train."""
        if network.works_on != "pictures":
            raise ValueError(
                f"network_g {network.type} colours films, which objective {self.type} cannot train; say objective: "
                "colorize and datasets.train.type: clips (atelier colorize runs the result)"
            )

    def judged_channels(self, network: NetworkOptions) -> int:
        """Channels of the pictures that ``network_d`` judges."""
        return network.out_channels

    def trained(self, nets: Mapping[str, nn.Module], setting: Setting) -> dict[str, nn.Module]:
        """By role, the module whose parameters the role's optimiser steps and that ranks wrap.

        The networks themselves, unless an objective has parameters of its own that learn with one of them (projectors):
        then a module that holds both, the network as ``network``, so that its parameters come first. Weight files,
        averages and validation know the network alone.
        """
        return dict(nets)

    def groups(self, role: str, net: nn.Module, lr: float) -> Sequence[ParameterGroup]:
        """The groups that a role's optimiser steps, of what :meth:`trained` gave for it; ``lr`` is the role's rate."""
        return (ParameterGroup(role, [each for each in net.parameters() if each.requires_grad]),)

    @property
    def begins_as(self) -> str | None:
        """The option by which the generator begins as another network; None where nothing of the kind is asked for."""
        return None

    def heritage(self, setting: Setting) -> Heritage | None:
        """What a new run's generator shall be made out of; None unless :attr:`begins_as` says so.

        Raises:
            UserError: the weights cannot be read, or are of another task.
        """
        return None

    @abstractmethod
    def build(
        self,
        *,
        nets: Mapping[str, nn.Module],
        losses: Sequence[LossOptions],
        device: torch.device,
        gan: AdversarialLossOptions | None = None,
    ) -> Objective:
        """The working objective, its own modules on ``device``.

        ``nets[role]`` is what :meth:`trained` gave. It may be wrapped (DDP, compile) and is only ever called. ``gan``
        is the run's ``train.gan_opt``; it is there only where ``roles`` names a discriminator. Raises
        :class:`~atelier.errors.UserError` where a loss cannot be built.
        """


def built_losses(kind: str, losses: Sequence[LossOptions], device: torch.device) -> list[tuple[str, Loss]]:
    """(type, working loss on ``device``) of each; raises :class:`~atelier.errors.UserError` where there is none."""
    if not losses:
        raise UserError(
            f"train: the objective '{kind}' needs at least one loss, for example pixel_opt: L1Loss"
        )
    return [(options.type, options.build().to(device)) for options in losses]


OBJECTIVES: Registry[ObjectiveOptions] = Registry(
    "objective",
    {
        "pixel": "atelier.objectives.pixel:PixelOptions",
        "gan": "atelier.objectives.gan:GanOptions",
        "distill": "atelier.objectives.distill.options:DistillOptions",
        "colorize": "atelier.objectives.colorize_options:ColorizeOptions",
    },
)
DEFAULT_OBJECTIVE = "pixel"
