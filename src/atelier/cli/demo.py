"""``atelier demo``: the main job on bundled photographs, or colouring a film."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

#: The word that chooses films; without it: pictures.
_COLORIZE = "colorize"


def demo(
    words: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads the annotation at run time
        typer.Argument(
            help="colorize: a film in place of pictures. Overrides of the option file (options/demo.yml, "
            "options/colorize/tiny.yml), for example train.total_iter=100",
            metavar="[colorize] [KEY=VALUE]...",
        ),
    ] = None,
) -> None:
    """Train a small x2 network on bundled photographs, validate, restore, report: two minutes on two CPU cores.

    demo colorize: train a small colorizer, colour a grey film that it never saw, report.
    """
    asked = list(words or [])
    if asked[:1] == [_COLORIZE]:
        from atelier.demo_colorize import run_colorize_demo

        result = run_colorize_demo(asked[1:])
    else:
        from atelier.demo import run_demo

        result = run_demo(asked)
    typer.echo(result.text)
    raise typer.Exit(result.exit_code)
