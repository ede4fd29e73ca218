"""Colour for grey films: flow, matching with references, and their fusion. Names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.colorize.confidence import cycle_confidence, photometric_confidence
    from atelier.colorize.flow import FlowBackend, FlowResult
    from atelier.colorize.flow_options import FLOWS
    from atelier.colorize.matcher import ExemplarMatcher, ReferenceCache
    from atelier.colorize.matcher_options import EXEMPLARS
    from atelier.colorize.model_files import LoadedSystem, load_system
    from atelier.colorize.references import Anchor, References
    from atelier.colorize.state import ClipFlow, SequenceOutput, SequenceState, Teacher
    from atelier.colorize.system import FusionSystem, PreparedReferences
    from atelier.colorize.system_options import FusionSystemOptions

_HOME = {
    "EXEMPLARS": "matcher_options",
    "FLOWS": "flow_options",
    "Anchor": "references",
    "ClipFlow": "state",
    "ExemplarMatcher": "matcher",
    "FlowBackend": "flow",
    "FlowResult": "flow",
    "FusionSystem": "system",
    "FusionSystemOptions": "system_options",
    "LoadedSystem": "model_files",
    "PreparedReferences": "system",
    "ReferenceCache": "matcher",
    "References": "references",
    "SequenceOutput": "state",
    "SequenceState": "state",
    "Teacher": "state",
    "cycle_confidence": "confidence",
    "load_system": "model_files",
    "photometric_confidence": "confidence",
}

__all__ = [
    "EXEMPLARS",
    "FLOWS",
    "Anchor",
    "ClipFlow",
    "ExemplarMatcher",
    "FlowBackend",
    "FlowResult",
    "FusionSystem",
    "FusionSystemOptions",
    "LoadedSystem",
    "PreparedReferences",
    "ReferenceCache",
    "References",
    "SequenceOutput",
    "SequenceState",
    "Teacher",
    "cycle_confidence",
    "load_system",
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
