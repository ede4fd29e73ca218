"""The pixel objective: one network, its output compared with the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from atelier.losses.base import AdversarialLossOptions, LossOptions
from atelier.objectives.base import Objective, ObjectiveOptions, Part, TrainingBatch, built_losses
from atelier.objectives.terms import named_terms, part_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from atelier.losses.module import Loss


class PixelOptions(ObjectiveOptions):
    """``net_g(lq)`` against ``gt`` under every loss of the run."""

    type: Literal["pixel"] = "pixel"
    roles: ClassVar[tuple[str, ...]] = ("g",)

    def build(
        self,
        *,
        nets: Mapping[str, nn.Module],
        losses: Sequence[LossOptions],
        device: torch.device,
        gan: AdversarialLossOptions | None = None,
    ) -> Objective:
        """Raises :class:`~atelier.errors.UserError` where there is no loss at all."""
        return PixelObjective(nets["g"], [loss for _, loss in built_losses(self.type, losses, device)])


class PixelObjective(Objective):
    """One forward pass and one part per step."""

    def __init__(self, net: nn.Module, losses: Sequence[Loss]) -> None:
        self._net = net
        self._losses = list(losses)

    @property
    def roles(self) -> tuple[str, ...]:
        """Only the generator."""
        return PixelOptions.roles

    def parts(self, batch: TrainingBatch, step: int) -> Iterator[Part]:
        """The one part of the step: all loss terms of the network's output against ``batch.gt``."""
        yield part_of("g", named_terms(self._losses, self._net(batch.lq), batch.gt))

    def modules(self) -> Mapping[str, nn.Module]:
        """The loss modules by their place (only PerceptualLoss has weights; they are frozen)."""
        return {f"loss_{place}": loss for place, loss in enumerate(self._losses)}
