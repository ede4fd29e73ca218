"""Options of the colorize objective (no torch here).

In files its terms may stand at the top, ``loss: {l1: 1.0, ...}``, beside ``objective: colorize``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from atelier.errors import UserError
from atelier.losses.base import AdversarialLossOptions, LossOptions
from atelier.losses.colour_options import ColourLossOptions
from atelier.objectives.base import Objective, ObjectiveOptions, ParameterGroup
from atelier.options.base import Options

if TYPE_CHECKING:
    import torch
    from torch import nn

    from atelier.archs.network_options import NetworkOptions

Rate = Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RateOptions(Options):
    """Learning rates of the two groups; both follow the run's schedule, which begins at ``train.optim_g.lr``."""

    swintexco: Rate = Field(
        "auto",
        description="of the matching network; auto: 1e-5 for SwinTExCo's trained weights, 1e-4 from scratch, "
        "train.optim_g.lr for other matchers",
    )
    fusion: Rate = Field("auto", description="of the fusion network; auto: train.optim_g.lr")


class ColorizeOptions(ObjectiveOptions):
    """Clips coloured from a reference, compared with their true colours under the terms of ``loss``.

    With ``loss.gan`` a discriminator (``network_d``) learns beside it.
    """

    type: Literal["colorize"] = "colorize"
    roles: ClassVar[tuple[str, ...]] = ("g",)
    mode: Literal["fused", "average", "exemplar"] = Field(
        "fused",
        description="whose colours are compared and handed on; average and exemplar train the matcher alone, with "
        "network_g.fusion: average",
    )
    bptt: int = Field(1, ge=1, description="gradients go back through so many frames")
    scheduled_sampling: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that a frame hands on its true colours instead of those made",
    )
    motion: Literal["known", "found"] = Field(
        "known",
        description="the motion that loss.temporal follows: known where the data have it, else what the network's "
        "flow found; found: always the latter, weighed by its confidence",
    )
    lr: RateOptions = RateOptions()
    loss: ColourLossOptions = Field(
        default_factory=lambda: ColourLossOptions.model_validate(
            {"l1": 1.0, "exemplar": 0.5, "temporal": 0.2}
        ),
        description="terms and weights; default l1 1, exemplar 0.5, temporal 0.2",
    )

    @property
    def needed_roles(self) -> tuple[str, ...]:
        """With ``loss.gan`` also the discriminator."""
        return ("g", "d") if self.loss.gan is not None else ("g",)

    @property
    def own_terms(self) -> Sequence[tuple[str, float]]:
        """Those of ``loss``."""
        named = {name: getattr(self.loss, name) for name in type(self.loss).model_fields}
        return [(name, term.weight) for name, term in named.items() if term is not None]

    def check_network(self, network: NetworkOptions) -> None:
        """A colorizer, whose fusion network learns where it is used."""
        if network.works_on != "clips":
            raise ValueError(
                f"objective colorize trains network_g: {{type: FusionSystem}}, not {network.type}"
            )
        fusion = str(getattr(getattr(network, "fusion", None), "type", ""))
        if self.mode != "fused" and fusion != "average":
            raise ValueError(
                f"objective.mode {self.mode} does not use the fusion network, but network_g.fusion is {fusion}; say "
                "network_g.fusion: average, or mode: fused"
            )

    def judged_channels(self, network: NetworkOptions) -> int:
        """The discriminator sees whole LAB pictures."""
        return 3

    def groups(self, role: str, net: nn.Module, lr: float) -> Sequence[ParameterGroup]:
        """``swintexco`` and ``fusion`` with their rates, as far as they learn.

        Raises:
            UserError: nothing learns at all.
        """
        if role != "g":
            return super().groups(role, net, lr)
        from atelier.colorize.system import FusionSystem

        assert isinstance(net, FusionSystem)
        usual = net.options.exemplar.usual_rate if net.options is not None else None
        wanted = {
            "swintexco": (usual or lr) if self.lr.swintexco == "auto" else self.lr.swintexco,
            "fusion": lr if self.lr.fusion == "auto" else self.lr.fusion,
        }
        groups = [
            ParameterGroup(group["name"], group["params"], wanted[group["name"]] / lr)
            for group in net.get_parameter_groups()
            if group["params"]
        ]
        if not groups:
            raise UserError(
                "objective colorize has nothing to train: the matcher is frozen and fusion has no weights"
            )
        return groups

    def build(
        self,
        *,
        nets: Mapping[str, nn.Module],
        losses: Sequence[LossOptions],
        device: torch.device,
        gan: AdversarialLossOptions | None = None,
        **others: Any,
    ) -> Objective:
        """Raises :class:`~atelier.errors.UserError` where a term's network or weights are missing."""
        from atelier.objectives.colorize import build_colorize

        return build_colorize(self, nets, device)
