"""What became of every tensor of a weight file and of a network when the one was loaded into the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
# A message that lists more is not read.
_LISTED = 10


@dataclass(frozen=True)
class LoadReport:
    """Names are compared by name and shape, never by order.

    Attributes:
        path: the weight file, None for a state that came from memory.
        sha256: of that file.
        param_key: the entry of the file that was read; None for a bare file.
        mode: "strict" (everything must fit) or "partial" (what fits was loaded).
        loaded: keys present on both sides with equal shapes.
        mismatched: key -> (shape in the file, shape in the network).
        missing: in the network, not in the file.
        unexpected: in the file, not in the network.
        ignored: key -> why; constants that the network computes itself.
        elements_total, elements_loaded: numbers of the network's state, and how many of them were loaded.
    """

    path: Path | None
    sha256: str | None
    param_key: str | None
    mode: str
    loaded: tuple[str, ...]
    mismatched: Mapping[str, tuple[Shape, Shape]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: Mapping[str, str]
    elements_total: int
    elements_loaded: int

    @property
    def complete(self) -> bool:
        """Nothing mismatched, missing or unexpected."""
        return not (self.mismatched or self.missing or self.unexpected)

    def text(self) -> str:
        """The report as lines for a log."""
        source = str(self.path) if self.path is not None else "a state in memory"
        key = f" ({self.param_key})" if self.param_key else ""
        total = len(self.loaded) + len(self.mismatched) + len(self.missing)
        share = 100 * self.elements_loaded / self.elements_total if self.elements_total else 100.0
        lines = [
            f"Loaded {len(self.loaded)}/{total} tensors, {self.elements_loaded:,} of {self.elements_total:,} elements "
            f"({share:.2f} %) from {source}{key}"
        ]
        if self.ignored:
            reasons = sorted(set(self.ignored.values()))
            lines.append(f"Ignored {len(self.ignored)} constants ({'; '.join(reasons)})")
        return "\n".join(lines + self.problems())

    def problems(self) -> list[str]:
        """One line for each tensor that does not fit, at most ten of a kind."""
        groups = (
            (
                "Size mismatch",
                [
                    f"{key}: file {list(old)}, network {list(new)}"
                    for key, (old, new) in self.mismatched.items()
                ],
            ),
            ("Missing in the file", list(self.missing)),
            ("Unexpected in the file", list(self.unexpected)),
        )
        lines: list[str] = []
        for title, entries in groups:
            if entries:
                lines.append(f"{title} ({len(entries)}):")
                lines += [f"  - {entry}" for entry in entries[:_LISTED]]
                if len(entries) > _LISTED:
                    lines.append(f"  ... and {len(entries) - _LISTED} more")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``load_report.json``."""
        return {
            "path": str(self.path) if self.path is not None else None,
            "sha256": self.sha256,
            "param_key": self.param_key,
            "mode": self.mode,
            "loaded": list(self.loaded),
            "mismatched": [
                {"key": key, "checkpoint": list(old), "model": list(new)}
                for key, (old, new) in self.mismatched.items()
            ],
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "ignored": [{"key": key, "why": why} for key, why in self.ignored.items()],
            "elements_total": self.elements_total,
            "elements_loaded": self.elements_loaded,
        }
