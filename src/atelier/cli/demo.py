"""``atelier demo``: the main job on bundled photographs."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def demo(
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads the annotation at run time
        typer.Argument(
            help="Overrides of options/demo.yml, for example train.total_iter=100", metavar="[KEY=VALUE]..."
        ),
    ] = None,
) -> None:
    """Train a small x2 network on bundled photographs, validate, restore, report: two minutes on two CPU cores."""
    from atelier.demo import run_demo

    result = run_demo(overrides or [])
    typer.echo(result.text)
    raise typer.Exit(result.exit_code)
