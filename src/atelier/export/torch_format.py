"""A program of ``torch.export`` (``.pt2``): runs in any PyTorch, without this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from atelier.export.base import ExportFormat, Precision

if TYPE_CHECKING:
    from atelier.export.trace import Traced


class TorchFormat(ExportFormat):
    """``torch.export.load(FILE).module()`` is the network."""

    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    type: Literal["torch"] = "torch"

    def write(self, traced: Traced, main: Path, metadata: Mapping[str, Any], precision: Precision) -> None:
        """One file, metadata as an extra file inside it."""
        import io

        import torch

        from atelier.restore.exported import METADATA_KEY

        # Torch's own writer ends the whole process where a disk is full.
        content = io.BytesIO()
        torch.export.save(traced.program, content, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})
        main.write_bytes(content.getbuffer())
