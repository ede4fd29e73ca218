"""Results side by side as text: for a terminal (rich) and for logs (plain)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atelier.evaluate.results import ValidationResult, check_comparable, format_change, format_value

if TYPE_CHECKING:
    from rich.table import Table


def _rows(results: Mapping[str, ValidationResult]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: one row a picture, the mean last; the first result is what the others are compared with."""
    metrics = check_comparable(results)
    reference, *_ = results.values()
    header = ["picture"]
    for key in metrics:
        header += [f"{reference.metrics[key].protocol}\n{label}" for label in results]
    rows = []
    for image in reference.images:
        row = [image]
        for key in metrics:
            first = reference.images[image][key]
            protocol = reference.metrics[key].protocol
            for result in results.values():
                row.append(_cell(result.images[image][key], first, protocol, result is reference))
        rows.append(row)
    means = [f"mean of {len(reference.images)}"]
    for key in metrics:
        for result in results.values():
            mean, first_mean = result.metrics[key], reference.metrics[key]
            cell = _cell(mean.value, first_mean.value, mean.protocol, result is reference)
            means.append(cell + (f", {mean.excluded} left out" if mean.excluded else ""))
    return header, [*rows, means]


def _cell(value: float, first: float, protocol: str, is_reference: bool) -> str:
    text = format_value(value, protocol)
    return text if is_reference else f"{text} ({format_change(value - first, protocol).removesuffix(' dB')})"


def comparison_table(results: Mapping[str, ValidationResult], title: str | None = None) -> Table:
    """A rich table of ``results`` (label -> result): per metric one column a label, under the metric's protocol.

    Differences in brackets are against the first result.

    Raises:
        UserError: the protocols or the pictures differ.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    header, rows = _rows(results)
    table = Table(title=escape(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for index, text in enumerate(header):
        table.add_column(escape(text), justify="left" if index == 0 else "right")
    for row in rows[:-1]:
        table.add_row(*(escape(cell) for cell in row))
    table.add_section()
    table.add_row(*(escape(cell) for cell in rows[-1]), style="bold")
    return table


def comparison_text(results: Mapping[str, ValidationResult], title: str | None = None) -> str:
    """The same table as plain aligned text."""
    header, rows = _rows(results)
    upper = [text.partition("\n")[0] if "\n" in text else "" for text in header]
    lower = [text.rpartition("\n")[2] for text in header]
    widths = [max(len(line[i]) for line in [upper, lower, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *numbers]).rstrip()

    rule = "-" * len(line(["-" * width for width in widths]))
    lines = [line(upper), line(lower), rule, *(line(row) for row in rows[:-1]), rule, line(rows[-1])]
    return "\n".join(([title] if title else []) + lines)
