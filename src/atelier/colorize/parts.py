"""From arguments to the parts of a colorizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from atelier.archs.checks import checked
from atelier.archs.fusion_options import FUSIONS, AverageOptions, FusionOptions
from atelier.colorize.flow import FlowBackend
from atelier.colorize.flow_options import FLOWS, FlowOptions
from atelier.colorize.matcher import ExemplarMatcher
from atelier.colorize.matcher_options import EXEMPLARS, ExemplarOptions
from atelier.colorize.system_options import FusionSystemOptions
from atelier.errors import UserError
from atelier.options.base import Component, Registry

C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class Parts:
    """The working parts, and the options that build the same; None where a part came ready-made without options."""

    flow: FlowBackend
    exemplar: ExemplarMatcher
    fusion: nn.Module
    options: FusionSystemOptions | None


def resolve(
    *,
    flow: str | FlowOptions | Mapping[str, Any] | FlowBackend,
    memflow_ckpt: str | Path | None,
    exemplar: str | ExemplarOptions | Mapping[str, Any] | ExemplarMatcher,
    swintexco_ckpt: str | Path | None,
    backbone_weights: str | Path | None,
    freeze_swintexco: bool,
    allow_random_backbone: bool,
    fusion: nn.Module | FusionOptions | None,
    options: FusionSystemOptions | Mapping[str, Any] | None,
) -> Parts:
    """The parts that the arguments of :class:`~atelier.colorize.system.FusionSystem` ask for.

    Raises:
        UserError: arguments that contradict each other, or weights that are missing or do not fit.
    """
    swintexco = {
        "checkpoint": swintexco_ckpt,
        "backbone_weights": backbone_weights,
        "freeze": freeze_swintexco or None,
        "allow_random_backbone": allow_random_backbone or None,
    }
    swintexco = {key: value for key, value in swintexco.items() if value is not None}
    memflow = {} if memflow_ckpt is None else {"weights": memflow_ckpt}
    if options is not None:
        if swintexco or memflow or fusion is not None or flow != "auto" or exemplar != "auto":
            raise UserError(
                "options name all parts of the system; give them alone, or the parts without options"
            )
        given = dict(options) if isinstance(options, Mapping) else options.model_dump()
        whole = checked(FusionSystemOptions, **{**given, "type": "FusionSystem"})
        return Parts(whole.flow.build(), whole.exemplar.build(), whole.fusion.build(), whole)
    if flow == "auto":
        flow = "memflow" if memflow else "dis"
    if exemplar == "auto":
        exemplar = "swintexco"
    flow_part = _part(flow, FLOWS, "flow", "memflow", memflow, ("memflow_ckpt",))
    names = ("swintexco_ckpt", "backbone_weights", "freeze_swintexco", "allow_random_backbone")
    exemplar_part = _part(exemplar, EXEMPLARS, "exemplar", "swintexco", swintexco, names)
    fusion_part: nn.Module | FusionOptions = AverageOptions() if fusion is None else fusion
    flow_net = flow_part.build() if isinstance(flow_part, FlowOptions) else cast(FlowBackend, flow_part)
    exemplar_net = (
        exemplar_part.build()
        if isinstance(exemplar_part, ExemplarOptions)
        else cast(ExemplarMatcher, exemplar_part)
    )
    fusion_net = fusion_part.build() if isinstance(fusion_part, FusionOptions) else fusion_part
    if not isinstance(fusion_net, nn.Module):
        raise UserError(
            f"fusion_net is a network or its options ({', '.join(FUSIONS)}), not {type(fusion_net).__name__}"
        )
    found = [getattr(each, "options", each) for each in (flow_part, exemplar_part, fusion_net)]
    whole_options = None
    if all(isinstance(each, Component) for each in found):
        own_flow, own_exemplar, own_fusion = found
        whole_options = FusionSystemOptions(flow=own_flow, exemplar=own_exemplar, fusion=own_fusion)
    return Parts(flow_net, exemplar_net, fusion_net, whole_options)


def _part(
    given: object,
    registry: Registry[C],
    what: str,
    kind: str,
    arguments: Mapping[str, Any],
    names: tuple[str, ...],
) -> C | nn.Module:
    """The options that ``given`` stands for, with the arguments that belong to its ``kind``; a module as it is."""
    if isinstance(given, str):
        given = {"type": given}
    if isinstance(given, Mapping):
        options = registry.options_class(str(given.get("type", kind)))
        if arguments and options is not registry.options_class(kind):
            raise UserError(
                f"{', '.join(names)} belong to {what} '{kind}', given {what} '{given.get('type')}'"
            )
        return checked(options, **{**given, **arguments})
    if isinstance(given, (Component, nn.Module)):
        if arguments:
            raise UserError(
                f"a ready-made {what} and {', '.join(names)} contradict each other; give one of the two"
            )
        return cast("C | nn.Module", given)
    raise UserError(
        f"{what} is 'auto', {', '.join(registry)}, options or a module, not {type(given).__name__}"
    )
