"""Results side by side as text: for a terminal (rich) and for logs (plain)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atelier.evaluate.results import (
    ValidationResult,
    check_comparable,
    format_change,
    format_value,
    is_decibel,
)

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class _Comparison:
    """What both renderings show: per metric its protocol with unit, the labels, one row a picture, the means."""

    protocols: list[str]
    labels: list[str]
    rows: list[list[str]]
    means: list[str]


def _compare(results: Mapping[str, ValidationResult]) -> _Comparison:
    """The first result is what the others are compared with."""
    metrics = check_comparable(results)
    reference, *_ = results.values()
    rows = []
    for image in reference.images:
        row = [image]
        for key in metrics:
            first = reference.images[image][key]
            protocol = reference.metrics[key].protocol
            row += [
                _cell(result.images[image][key], first, protocol, result is reference)
                for result in results.values()
            ]
        rows.append(row)
    means = [f"mean of {len(reference.images)}"]
    for key in metrics:
        for result in results.values():
            mean, first_mean = result.metrics[key], reference.metrics[key]
            cell = _cell(mean.value, first_mean.value, mean.protocol, result is reference)
            means.append(cell + (f", {mean.excluded} left out" if mean.excluded else ""))
    protocols = [reference.metrics[key].protocol for key in metrics]
    return _Comparison(
        [protocol + (", dB" if is_decibel(protocol) else "") for protocol in protocols],
        list(results),
        rows,
        means,
    )


def _cell(value: float, first: float, protocol: str, is_reference: bool) -> str:
    text = format_value(value, protocol).removesuffix(" dB")
    change = format_change(value - first, protocol).removesuffix(" dB")
    return text if is_reference else f"{text} ({change})"


def comparison_table(results: Mapping[str, ValidationResult], title: str | None = None) -> Table:
    """A rich table of ``results`` (label -> result): per metric one column a label, the protocols named below.

    Differences in brackets are against the first result.

    Raises:
        UserError: the protocols or the pictures differ.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    compared = _compare(results)
    short = [protocol.partition(" (")[0] for protocol in compared.protocols]
    if len(set(short)) < len(short):
        short = compared.protocols
    table = Table(
        title=escape(title) if title else None,
        caption=escape("\n".join(compared.protocols)),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("picture")
    for name in short:
        for label in compared.labels:
            table.add_column(escape(f"{name}\n{label}"), justify="right")
    for row in compared.rows:
        table.add_row(*(escape(cell) for cell in row))
    table.add_section()
    table.add_row(*(escape(cell) for cell in compared.means), style="bold")
    return table


def comparison_text(results: Mapping[str, ValidationResult], title: str | None = None) -> str:
    """The same table as plain aligned text, each protocol written over its columns."""
    compared = _compare(results)
    per_metric = len(compared.labels)
    lower = ["picture", *(compared.labels * len(compared.protocols))]
    widths = [
        max(len(line[i]) for line in [lower, *compared.rows, compared.means]) for i in range(len(lower))
    ]
    upper = " " * widths[0]
    for index, protocol in enumerate(compared.protocols):
        first = 1 + index * per_metric
        lacking = len(protocol) - sum(widths[first : first + per_metric]) - 2 * (per_metric - 1)
        widths[first] += max(0, lacking)
        upper += "  " + protocol.rjust(sum(widths[first : first + per_metric]) + 2 * (per_metric - 1))

    def line(cells: list[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *numbers]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [upper, line(lower), rule, *(line(row) for row in compared.rows), rule, line(compared.means)]
    return "\n".join(([title] if title else []) + lines)
