"""``atelier experiment``: several arms, several seeds, one verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

_Arms = Optional[list[str]]  # noqa: UP045  typer reads the annotation at run time


def experiment(
    file: Annotated[Path, typer.Argument(help="Study file: base, arms, seeds, budget, test sets.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print plan, disk and hours.")] = False,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--jobs", help="Runs at once; CPU threads are divided. Default: one per device, else 1."
        ),
    ] = None,
    devices: Annotated[str, typer.Option("--devices", help="CUDA devices to share out, such as 0,1.")] = "",
    only: Annotated[_Arms, typer.Option("--only", help="Train this arm alone (may be repeated).")] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write results and report of what is done.")
    ] = False,
    restart: Annotated[
        _Arms, typer.Option("--restart", help="Train this arm anew (may be repeated); its runs are kept.")
    ] = None,
) -> None:
    """Train every arm with every seed, measure on the test sets, and say what may be concluded.

    The same command goes on after any interruption. Exit code 1 when runs failed, 2 when nothing could be done.
    """
    from atelier.experiment.study import run

    result = run(
        file,
        dry_run=dry_run,
        report_only=report_only,
        jobs=jobs,
        devices=[each.strip() for each in devices.split(",") if each.strip()],
        only=only or [],
        restart=restart or [],
        say=typer.echo,
    )
    raise typer.Exit(result.exit_code)
