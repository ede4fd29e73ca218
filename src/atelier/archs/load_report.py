"""What became of every tensor of a weight file and of a network when the one was loaded into the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Shape = tuple[int, ...]
LoadMode = Literal["strict", "flexible", "inherit"]
# A message that lists more is not read. A log is searched, so it may be longer.
_LISTED, _LOGGED = 10, 200


@dataclass(frozen=True)
class Inherited:
    """How one tensor of the network was made out of a tensor of another shape, or so that it changes nothing.

    Attributes:
        rule: what was done, in words.
        old: shape in the file; None where the file has no such tensor.
        new: shape in the network.
        elements: how many of the network's numbers come from the file.
    """

    rule: str
    old: Shape | None
    new: Shape
    elements: int


@dataclass(frozen=True)
class LoadReport:
    """Names are compared by name and shape, never by order.

    Constants of the architecture (masks, indices) count nowhere but in ``ignored``.

    Attributes:
        path: the weight file, None for a state that came from memory.
        sha256: of that file.
        param_key: the entry of the file that was read; None for a bare file.
        mode: "strict" (everything must fit), "flexible" (what fits was loaded) or "inherit" (what does not fit was
            carried over).
        loaded: keys whose tensors are those of the file, bit for bit.
        mismatched: key -> (shape in the file, shape in the network); in "inherit" also those that were carried over.
        missing: in the network, not in the file (or there with another meaning).
        unexpected: in the file, not in the network (or there with another meaning).
        ignored: key -> why; constants that the network computes itself.
        elements_total, elements_loaded: numbers of the network's state, and how many of them were loaded.
        inherited: key -> how its tensor was made; "inherit" only.
        elements_inherited: numbers that were carried over into tensors of ``inherited``.
        iteration: the step the weights were saved at, where it is known.
        optimizer: plain values, ``{"restored": [...], "reset": [...]}``: keys whose moments survived or start anew;
            None where no optimiser was restored.
    """

    path: Path | None
    sha256: str | None
    param_key: str | None
    mode: LoadMode
    loaded: tuple[str, ...]
    mismatched: Mapping[str, tuple[Shape, Shape]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: Mapping[str, str]
    elements_total: int
    elements_loaded: int
    inherited: Mapping[str, Inherited] = field(default_factory=dict)
    elements_inherited: int = 0
    iteration: int | None = None
    optimizer: Mapping[str, Any] | None = None

    @property
    def source(self) -> str:
        """The file's path, or that there is none."""
        return str(self.path) if self.path is not None else "a state in memory"

    @property
    def complete(self) -> bool:
        """Every tensor of the network was loaded, and nothing was left over."""
        return not (self.mismatched or self.missing or self.unexpected or self.inherited)

    @property
    def reused(self) -> float:
        """Share in [0, 1] of the network's numbers that come from the file."""
        return (self.elements_loaded + self.elements_inherited) / max(1, self.elements_total)

    @property
    def tensors(self) -> int:
        """Tensors in the network's state."""
        others = {*self.mismatched, *self.missing, *self.inherited} - set(self.loaded)
        return len(self.loaded) + len(others)

    def text(self, role: str = "G") -> str:
        """The report as lines for a log, in the words users search for; ``role`` is "G" or "E" (the average)."""
        lines = [f"Loading model for {role} [{self.source}] ..."]
        if self.mismatched:
            lines += self._mismatches()
        if self.missing:
            lines += [
                "",
                f"Keys in model but not in checkpoint ({len(self.missing)}):",
                *_listed(self.missing),
            ]
        lines += [""] * (not self.complete)
        lines.append(f"Loaded {len(self.loaded)}/{self.tensors} parameters from checkpoint")
        if not self.complete:
            lines.append(f"Mismatched: {len(self.mismatched)}, Missing: {len(self.missing)}")
            lines.append(f"Unexpected in checkpoint: {len(self.unexpected)}")
            if self.inherited:
                lines.append(f"Inherited: {self._rules()}")
            lines.append(f"Learned parameters reused: {self.reuse()}")
        if note := self._note():
            lines.append(note)
        return "\n".join(lines)

    def reuse(self) -> str:
        """How much of the network comes from the file: tensors, numbers, per cent."""
        tensors = len(self.loaded) + sum(each.elements > 0 for each in self.inherited.values())
        elements = self.elements_loaded + self.elements_inherited
        return (
            f"{tensors:,} of {self.tensors:,} tensors, {elements:,} of {self.elements_total:,} elements "
            f"({100 * self.reused:.2f} %)"
        )

    def problems(self) -> list[str]:
        """One line for each tensor that does not fit, at most ten of a kind."""
        groups = (
            (
                "Size mismatch",
                [
                    f"{key}: checkpoint {_size(old)} vs model {_size(new)}"
                    for key, (old, new) in self.mismatched.items()
                ],
            ),
            ("Keys in model but not in checkpoint", self.missing),
            ("Keys in checkpoint but not in model", self.unexpected),
        )
        lines: list[str] = []
        for title, entries in groups:
            if entries:
                lines += [f"{title} ({len(entries)}):", *_listed(entries)]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``load_report.json``; :meth:`from_json` reads them."""
        return {
            "path": str(self.path) if self.path is not None else None,
            "sha256": self.sha256,
            "param_key": self.param_key,
            "mode": self.mode,
            "loaded": list(self.loaded),
            "inherited": [
                {
                    "key": key,
                    "rule": each.rule,
                    "from": list(each.old) if each.old is not None else None,
                    "to": list(each.new),
                    "elements": each.elements,
                }
                for key, each in self.inherited.items()
            ],
            "mismatched": [
                {"key": key, "checkpoint": list(old), "model": list(new)}
                for key, (old, new) in self.mismatched.items()
            ],
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "ignored": [{"key": key, "why": why} for key, why in self.ignored.items()],
            "elements_total": self.elements_total,
            "elements_loaded": self.elements_loaded,
            "elements_inherited": self.elements_inherited,
            "iteration": self.iteration,
            "optimizer": dict(self.optimizer) if self.optimizer is not None else None,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LoadReport:
        """The report that :meth:`to_json` wrote."""
        return cls(
            path=Path(stored["path"]) if stored["path"] is not None else None,
            sha256=stored["sha256"],
            param_key=stored["param_key"],
            mode=stored["mode"],
            loaded=tuple(stored["loaded"]),
            mismatched={
                each["key"]: (tuple(each["checkpoint"]), tuple(each["model"]))
                for each in stored["mismatched"]
            },
            missing=tuple(stored["missing"]),
            unexpected=tuple(stored["unexpected"]),
            ignored={each["key"]: each["why"] for each in stored["ignored"]},
            elements_total=stored["elements_total"],
            elements_loaded=stored["elements_loaded"],
            inherited={
                each["key"]: Inherited(
                    each["rule"],
                    tuple(each["from"]) if each["from"] is not None else None,
                    tuple(each["to"]),
                    each["elements"],
                )
                for each in stored["inherited"]
            },
            elements_inherited=stored["elements_inherited"],
            iteration=stored["iteration"],
            optimizer=stored["optimizer"],
        )

    def _mismatches(self) -> list[str]:
        lines = []
        for key, (old, new) in self.mismatched.items():
            made = self.inherited.get(key)
            fate = f"inherited ({made.rule})" if made is not None else "using random initialization"
            lines.append(f"Size mismatch for {key}: checkpoint {_size(old)} vs model {_size(new)}, {fate}")
        return _shortened(lines, _LISTED if self.mode == "inherit" else _LOGGED)

    def _rules(self) -> str:
        """How often each rule was used, the commonest first."""
        counts = Counter(each.rule for each in self.inherited.values())
        return ", ".join(f"{count} {rule}" for rule, count in counts.most_common())

    def _note(self) -> str:
        parts = [f"Entry '{self.param_key}' was read"] if self.param_key else []
        if self.ignored:
            reasons = sorted(set(self.ignored.values()))
            parts.append(f"{len(self.ignored)} constants were ignored ({'; '.join(reasons)})")
        return "; ".join(parts)


def _listed(entries: Sequence[str]) -> list[str]:
    return _shortened([f"  - {entry}" for entry in entries], _LISTED)


def _shortened(lines: list[str], most: int) -> list[str]:
    more = len(lines) - most
    return [*lines[:most], f"  ... and {more} more"] if more > 0 else lines


def _size(shape: Shape) -> str:
    """As torch prints it."""
    return f"torch.Size({list(shape)})"
