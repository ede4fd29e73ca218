"""Run a model over pictures and folders: tiles, memory, channels, files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.restore.folder import FolderReport as FolderReport
    from atelier.restore.folder import restore_folder as restore_folder
    from atelier.restore.model import RestorationModel as RestorationModel
    from atelier.restore.model import load_model as load_model
    from atelier.restore.tiling import restore_tensor as restore_tensor

_PUBLIC = {
    "FolderReport": "folder",
    "RestorationModel": "model",
    "load_model": "model",
    "restore_folder": "folder",
    "restore_tensor": "tiling",
}


def __getattr__(name: str) -> Any:
    """Public names load their module, and with it torch, on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
