"""One way to fill a template: escaped in pages, plain in Markdown, style and script from the same files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


def fill_template(name: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The template ``name`` with ``values``; an unknown name in it is an error, never an empty place.

    ``filters`` are added to Jinja's. Pages (``.html.j2``) escape every value; ``style`` and ``script`` are there too.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    # The two files are our own text; everything else goes through autoescape.
    return environment.get_template(name).render(
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((_TEMPLATES / "report.js").read_text(encoding="utf-8")),
        **values,
    )


def flat_rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as ``packages.torch`` rows."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flat_rows(value, f"{prefix}{key}.")
        else:
            rows.append(
                (f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            )
    return rows
