"""Which residual groups (RSTBs) of a deeper SwinIR a shallower one keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from atelier.archs.depths import proportional
from atelier.archs.swinir_options import SwinIROptions
from atelier.compress.axes import Carry, Prepare, Rule, State

_GROUP = re.compile(r"layers\.(\d+)\.(.+)")


def kept_groups(old: int, new: int, which: Literal["first", "last", "proportional"]) -> list[int]:
    """Indices (from 0) of the ``old`` groups that the ``new`` ones begin with; all of them where there are no fewer."""
    if new >= old or which == "first":
        return list(range(min(old, new)))
    if which == "last":
        return list(range(old - new, old))
    return [place - 1 for place in proportional(old, new)]


class KeptGroups:
    """The old network as if it had only the groups ``kept``, numbered anew.

    Args:
        old: the whole old network.
        kept: indices of its groups, rising.
    """

    def __init__(self, old: SwinIROptions, kept: Sequence[int]) -> None:
        self._place = {group: place for place, group in enumerate(kept)}
        self._kept = list(kept)
        elsa = old.elsa
        if elsa is not None and isinstance(elsa.where, tuple):
            where = tuple(self._place[group] for group in elsa.where if group in self._place)
            elsa = elsa.model_copy(update={"where": where})
        self.options = old.model_copy(
            update={
                "depths": tuple(old.depths[group] for group in kept),
                "num_heads": tuple(old.num_heads[group] for group in kept),
                "elsa": elsa,
            }
        )

    def state(self, old: State) -> dict[str, Tensor]:
        """The old network's state under the new numbers, without the groups that are not kept."""
        found = {self._renumbered(key): value for key, value in old.items()}
        return {key: value for key, value in found.items() if key is not None}

    def rule(self, rule: Rule) -> Rule:
        """A rule about the network as it seems, as one about the old network as it is."""
        if not isinstance(rule, Carry):
            return rule
        match = _GROUP.fullmatch(rule.key)
        key = f"layers.{self._kept[int(match[1])]}.{match[2]}" if match else rule.key
        return replace(rule, key=key, prepare=self._prepare(rule.prepare))

    def _prepare(self, prepare: Prepare | None) -> Prepare | None:
        if prepare is None:
            return None

        def translated(value: Tensor, old: State) -> Tensor:
            return prepare(value, self.state(old))

        return translated

    def _renumbered(self, key: str) -> str | None:
        match = _GROUP.fullmatch(key)
        if match is None:
            return key
        place = self._place.get(int(match[1]))
        return None if place is None else f"layers.{place}.{match[2]}"
