"""Studies: the same training by several arms and seeds, and what may be concluded from it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.experiment.options import StudyOptions, load_study
    from atelier.experiment.study import StudyResult, run

__all__ = ["StudyOptions", "StudyResult", "load_study", "run"]

_HOMES = {"StudyOptions": "options", "load_study": "options", "StudyResult": "study", "run": "study"}


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that importing this room costs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
