"""``atelier info MODEL``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(
    model: Annotated[Path, typer.Argument(help="A weight file (.pth, .safetensors).")],
    size: Annotated[str, typer.Option("--size", help="Input height x width for MACs and memory.")] = "64x64",
    param_key: Annotated[str | None, typer.Option("--param-key", help="Entry of the file to read.")] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Module that registers its network.")
    ] = None,
) -> None:
    """What a weight file holds: architecture, scale, channels, parameters, MACs, memory."""
    from atelier.archs.info import describe_lines, parse_size
    from atelier.options.read import import_modules

    import_modules(plugin or [])

    for line in describe_lines(model, size=parse_size(size), param_key=param_key):
        typer.echo(
            line
        )  # flushes: on a large network the first costs come seconds after what is known at once
