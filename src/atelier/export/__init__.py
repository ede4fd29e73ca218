"""Networks into files of other runtimes, with the proof that they compute the same."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.export.base import FORMATS as FORMATS
    from atelier.export.base import ExportFormat as ExportFormat
    from atelier.export.exporting import Exported as Exported
    from atelier.export.exporting import export_model as export_model
    from atelier.export.proof import Proof as Proof

_PUBLIC = {
    "FORMATS": "base",
    "ExportFormat": "base",
    "Exported": "exporting",
    "Proof": "proof",
    "export_model": "exporting",
}


def __getattr__(name: str) -> Any:
    """Public names load their module, and with it torch where it needs it, on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
