"""Measure a network on pictures, compare results, write the report of a run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.evaluate.best import Best, best_so_far, is_better
    from atelier.evaluate.report import write_report
    from atelier.evaluate.results import MetricMean, ValidationResult
    from atelier.evaluate.tables import comparison_table, comparison_text
    from atelier.evaluate.validation import Restore, SaveOptions, baseline, restorer, validate

__all__ = [
    "Best",
    "MetricMean",
    "Restore",
    "SaveOptions",
    "ValidationResult",
    "baseline",
    "best_so_far",
    "comparison_table",
    "comparison_text",
    "is_better",
    "restorer",
    "validate",
    "write_report",
]

_HOMES = {
    **dict.fromkeys(("Best", "best_so_far", "is_better"), "best"),
    **dict.fromkeys(("MetricMean", "ValidationResult"), "results"),
    **dict.fromkeys(("comparison_table", "comparison_text"), "tables"),
    **dict.fromkeys(("Restore", "SaveOptions", "baseline", "restorer", "validate"), "validation"),
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for on first use, so that importing this room costs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
