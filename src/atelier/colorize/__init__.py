"""Colour for grey films: flow, matching with references, and their fusion. Names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.colorize.confidence import cycle_confidence, photometric_confidence
    from atelier.colorize.references import Anchor, References

_HOME = {
    "Anchor": "references",
    "References": "references",
    "cycle_confidence": "confidence",
    "photometric_confidence": "confidence",
}

__all__ = [
    "Anchor",
    "References",
    "cycle_confidence",
    "photometric_confidence",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
