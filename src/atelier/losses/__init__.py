"""Losses, one a file: each compares a prediction with its target and returns weighted, named terms.

The options classes need no torch; :class:`Loss`, the base of the working modules, is loaded when first asked
for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atelier.losses.base import LOSSES, LossOptions

if TYPE_CHECKING:
    from atelier.losses.module import Loss

__all__ = ["LOSSES", "Loss", "LossOptions"]


def __getattr__(name: str) -> Any:
    if name == "Loss":
        from atelier.losses.module import Loss

        return Loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
