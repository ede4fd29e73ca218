"""From losses to one logged, differentiable part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from atelier.objectives.base import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from atelier.losses.module import Loss


def named_terms(
    losses: Iterable[Loss], prediction: Tensor, target: Tensor, known: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Every term of every loss after those ``known``, graph attached; a name that comes again gets ``_2`` ..."""
    terms = dict(known or {})
    for loss in losses:
        for name, value in loss(prediction, target).items():
            unique, count = name, 1
            while unique in terms:
                count += 1
                unique = f"{name}_{count}"
            terms[unique] = value
    return terms


def part_of(role: str, terms: dict[str, Tensor]) -> Part:
    """The part that trains ``role`` on the sum of ``terms`` (at least one), logged as ``l_<role>_<term>``."""
    first, *others = terms.values()
    total = first
    for value in others:
        total = total + value
    return Part(role, total, {f"l_{role}_{name}": value.detach() for name, value in terms.items()})


def unsynchronised(net: nn.Module) -> AbstractContextManager[object]:
    """Under DDP: what is computed within does not start an exchange of gradients in its backward pass."""
    no_sync = getattr(net, "no_sync", nullcontext)
    context: AbstractContextManager[object] = no_sync()
    return context
