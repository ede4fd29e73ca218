"""The report's part about the weights a run began with: what was carried over, and what was not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier.archs.load_report import LoadReport

#: Tensors listed one by one; the file has them all.
MOST_ROWS = 300


@dataclass(frozen=True)
class Beginning:
    """What ``models/load_report.json`` tells, arranged for reading.

    Attributes:
        headline: the file and how much of the network came from it.
        facts: label and value.
        notes: what changed, and what the first look at the new network found.
        rules: (rule, tensors) of inherited tensors, the commonest first.
        rows: (tensor, shape in the file, shape in the network, its fate) of all that was not loaded as it was.
        more: how many rows are left out.
    """

    headline: str
    facts: list[tuple[str, str]]
    notes: list[str]
    rules: list[tuple[str, int]]
    rows: list[tuple[str, str, str, str]]
    more: int


def read_beginning(run: Path) -> Beginning | None:
    """The beginning of the run in folder ``run``; None where it drew fresh weights, or the file cannot be read."""
    try:
        stored = json.loads((run / "models" / "load_report.json").read_text("utf-8"))
        report = LoadReport.from_json(stored)
        changes, lines = list(map(str, stored.get("changes", []))), list(map(str, stored.get("lines", [])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return beginning_of(report, changes, lines)


def beginning_of(report: LoadReport, changes: Sequence[str] = (), lines: Sequence[str] = ()) -> Beginning:
    """``report`` arranged for reading; ``changes`` of the options and ``lines`` of the log that belong to it."""
    entry = f", entry {report.param_key}" if report.param_key else ""
    facts = [
        ("Mode", report.mode),
        ("Loaded as they are", f"{len(report.loaded):,} of {report.tensors:,} tensors"),
    ]
    if report.inherited:
        facts.append(("Inherited", f"{len(report.inherited):,} tensors"))
    fresh = [key for key in (*report.mismatched, *report.missing) if key not in report.inherited]
    facts.append(("Freshly drawn", f"{len(fresh):,} tensors"))
    if report.unexpected:
        facts.append(("Not used", f"{len(report.unexpected):,} tensors of the file"))
    if report.optimizer is not None:
        restored, reset = report.optimizer["restored"], report.optimizer["reset"]
        facts.append(
            ("Optimiser", f"moments of {len(restored):,} tensors kept, {len(reset):,} start at zero")
        )
    if report.iteration is not None:
        facts.append(("Counting from step", f"{report.iteration:,}"))
    rows = _rows(report)
    return Beginning(
        headline=f"From {report.source}{entry}. Learned parameters reused: {report.reuse()}.",
        facts=facts,
        notes=[
            *([f"changed: {', '.join(changes)}"] if changes else []),
            # Lists of parameters are in the table below.
            *(line.splitlines()[0].rstrip(":") for line in lines),
        ],
        rules=Counter(each.rule for each in report.inherited.values()).most_common(),
        rows=rows[:MOST_ROWS],
        more=max(0, len(rows) - MOST_ROWS),
    )


def _rows(report: LoadReport) -> list[tuple[str, str, str, str]]:
    rows = []
    for key, each in report.inherited.items():
        rows.append((key, _shape(each.old), _shape(each.new), each.rule))
    for key, (old, new) in report.mismatched.items():
        if key not in report.inherited:
            rows.append((key, _shape(old), _shape(new), "freshly drawn"))
    rows += [(key, "–", "", "freshly drawn") for key in report.missing if key not in report.inherited]
    rows += [(key, "", "–", "not used") for key in report.unexpected]
    return rows


def _shape(shape: tuple[int, ...] | None) -> str:
    return "–" if shape is None else " × ".join(map(str, shape)) or "one number"
