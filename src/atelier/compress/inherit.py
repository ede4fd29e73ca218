"""What was learned by one network, carried into one of another size.

Each family of networks has a function that gives every tensor of the new network a rule
(:mod:`atelier.compress.axes`). The aim of the rules: a larger network starts as close to the old function as its
normalisation allows (Net2Net, Chen et al. 2016; bert2BERT, Chen et al. 2022), a smaller one keeps what matters most.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from atelier.archs.load_report import Inherited
from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.compress.axes import Carry, Drawn, Rule, State
from atelier.compress.options import InheritOptions
from atelier.errors import UserError

Rules = dict[str, Rule]
Family = Callable[[NetworkOptions, NetworkOptions, State, Shapes, InheritOptions], Rules]

FAMILIES: dict[str, str] = {
    "SwinIR": "atelier.compress.inherit_swinir:swinir_rules",
    "SRVGGNetCompact": "atelier.compress.inherit_compact:compact_rules",
}
"""type of a network -> the function that writes its rules."""


@dataclass(frozen=True)
class InheritPlan:
    """A rule for every tensor of the new network; all choices of channels are made.

    Attributes:
        rules: key of the new network -> how its tensor is made.
        old_shapes: key -> shape of every tensor of the old network.
    """

    rules: Mapping[str, Rule]
    old_shapes: Shapes

    @property
    def loaded(self) -> tuple[str, ...]:
        """Keys whose tensors are taken over bit for bit, from the old tensor of the same name."""
        return tuple(key for key, rule in self.rules.items() if _taken(key, rule))

    @property
    def used(self) -> frozenset[str]:
        """Old keys that something is taken from."""
        return frozenset(rule.key for rule in self.rules.values() if isinstance(rule, Carry))

    def apply(self, old: State, fresh: State) -> tuple[dict[str, Tensor], dict[str, Inherited]]:
        """The new network's state, and how each tensor was made that is neither taken over nor freshly drawn.

        Args:
            old: the old network's state, or its average's; constants removed.
            fresh: the new network's state as drawn, on the CPU. The same for network and average, so that both start
                with the same new parts.

        Raises:
            UserError: ``old`` has other tensors than the plan was made for.
        """
        require_shapes(old, self.old_shapes)
        state: dict[str, Tensor] = {}
        made: dict[str, Inherited] = {}
        with torch.no_grad():
            for key, rule in self.rules.items():
                new = fresh[key]
                if isinstance(rule, Drawn):
                    state[key] = new.clone()
                    continue
                state[key] = rule.make(old, new) if isinstance(rule, Carry) else rule.make(new)
                if not _taken(key, rule):
                    shape = self.old_shapes[rule.key] if isinstance(rule, Carry) else None
                    elements = rule.elements if isinstance(rule, Carry) else 0
                    made[key] = Inherited(rule.rule, shape, tuple(new.shape), elements)
        return state, made


def inherit_plan(
    old: NetworkOptions, new: NetworkOptions, old_state: State, options: InheritOptions
) -> InheritPlan:
    """How the network ``old`` becomes the network ``new``.

    Args:
        old, new: both networks.
        old_state: weights of ``old`` without constants of the architecture; where channels must be dropped, they say
            which.
        options: how the dropped ones are chosen, and what becomes of bias tables at another window.

    Raises:
        UserError: the networks are of different kinds, or of a kind without rules, or ``old_state`` is not complete.
    """
    if old.type != new.type:
        raise UserError(
            f"path.load=inherit carries {old.type} into another size of {old.type}; the network here is {new.type}"
        )
    if old.type not in FAMILIES:
        raise UserError(
            f"path.load=inherit knows no rules for {old.type}; it knows {', '.join(FAMILIES)}. "
            "path.load=flexible loads what fits"
        )
    old_shapes = shapes_of(old)
    require_shapes(old_state, old_shapes)
    module, _, name = FAMILIES[old.type].partition(":")
    family = cast(Family, getattr(importlib.import_module(module), name))
    return InheritPlan(family(old, new, old_state, shapes_of(new), options), old_shapes)


def shapes_of(options: NetworkOptions) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the network's own state; no weights are allocated."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in options.build().state_dict().items()}


def require_shapes(state: State, shapes: Shapes) -> None:
    """Every tensor of ``shapes`` is in ``state``; raises :class:`UserError` naming the first that is not."""
    for key, shape in shapes.items():
        found = tuple(state[key].shape) if key in state else None
        if found != shape:
            what = "is missing" if found is None else f"has shape {list(found)}"
            raise UserError(f"the weights to inherit are not complete: {key} {what}, expected {list(shape)}")


def _taken(key: str, rule: Rule) -> bool:
    return isinstance(rule, Carry) and rule.unchanged and rule.key == key
