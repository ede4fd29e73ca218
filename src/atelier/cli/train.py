"""``atelier train`` and ``atelier report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from atelier.cli.options import FROM, check_command
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.options.schema import RunOptions

#: Where KAIR's training scripts look when no file is named.
DEFAULT_FILE = Path("options/train_options.json")

OptionFile = Annotated[
    Optional[Path],  # noqa: UP045  typer reads the annotation at run time
    typer.Option(
        "-opt",
        "--opt",
        help="Option file: ours or BasicSR's (YAML), or KAIR's (JSON with // comments). "
        f"Default: {DEFAULT_FILE}, if it exists.",
        show_default=False,
    ),
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  typer reads the annotation at run time
    typer.Argument(help="Overrides, for example train.total_iter=2000", metavar="[KEY=VALUE]..."),
]


def train(
    opt: OptionFile = None,
    overrides: Overrides = None,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Continue from the newest checkpoint.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume although options that decide the past changed.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="A few steps, validation, checkpoint and resume check; then stop.")
    ] = False,
    preflight: Annotated[
        bool,
        typer.Option(
            "--preflight", help="Only check what a run checks before its first step; writes nothing."
        ),
    ] = False,
    build_cache: Annotated[
        bool,
        typer.Option(
            "--build-cache",
            help="Only compute what a distilling run's teachers will be asked (source: plan_cache); trains nothing.",
        ),
    ] = False,
    kair_names: Annotated[
        bool,
        typer.Option("--kair-names", help="Also write checkpoints as N_G.pth, N_E.pth and N_optimizerG.pth."),
    ] = False,
    launcher: Annotated[
        str, typer.Option("--launcher", help="none, pytorch under torchrun, or slurm under srun.")
    ] = "none",
    force_yml: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads the annotation at run time
        typer.Option(
            "--force-yml",
            metavar="KEY:SUB=VALUE...",
            help="BasicSR's overrides: keys of the file as they stand in it, for example train:total_iter=2000.",
            show_default=False,
        ),
    ] = None,
    local_rank: Annotated[Optional[int], typer.Option("--local-rank", hidden=True)] = None,  # noqa: UP045
    command: FROM = None,
) -> None:
    """Train a network: models, logs, pictures and a report under experiments/NAME."""
    if launcher not in {"none", "pytorch", "slurm"}:
        raise UserError(f"--launcher {launcher}: allowed are none, pytorch and slurm")
    if launcher == "slurm":
        import os

        from atelier.slurm import slurm_environment

        # Before the file is read: KAIR's batch is shared out over the processes.
        os.environ.update(slurm_environment(os.environ))
    if command is not None:
        options = _options_of_command(command, opt, overrides or [], kair_names=kair_names, forced=force_yml)
    else:
        options = _options_of_file(opt, overrides or [], kair_names=kair_names, forced=force_yml)
    if sum((preflight, debug, build_cache)) > 1:
        raise UserError(
            "--preflight, --debug and --build-cache each do something else than training: give one"
        )
    if (debug or build_cache) and (auto_resume or accept_changes):
        mode, given = (
            "--debug" if debug else "--build-cache",
            "--auto-resume" if auto_resume else "--accept-changes",
        )
        raise UserError(f"{mode} resumes nothing, so {given} means nothing beside it; leave it out")
    if build_cache:
        from atelier.train.building_caches import build_caches

        raise typer.Exit(build_caches(options, launcher=launcher, say=typer.echo))
    if preflight:
        from atelier.train.run import look_ahead_of

        lines = look_ahead_of(
            options, auto_resume=auto_resume, accept_changes=accept_changes, launcher=launcher
        )
        typer.echo("\n".join([*lines, "preflight: nothing stands in the way"]))
        return
    if debug:
        from atelier.train.debug import debug_run

        typer.echo(debug_run(options, launcher=launcher))
        return
    from atelier.train.run import train as run

    result = run(options, auto_resume=auto_resume, accept_changes=accept_changes, launcher=launcher)
    raise typer.Exit(result.exit_code)


def _options_of_file(
    opt: Path | None, overrides: list[str], *, kair_names: bool, forced: list[str] | None
) -> RunOptions:
    from atelier.options.read import load_run_options

    if opt is None:
        if not DEFAULT_FILE.exists():
            raise UserError(f"name an option file with -opt FILE ({DEFAULT_FILE} does not exist here)")
        opt = DEFAULT_FILE
    # Mistakes in the file are told before torch is loaded.
    return load_run_options(opt, [*overrides, *(["path.layout=kair"] if kair_names else [])], forced or [])


def _options_of_command(
    command: str, opt: Path | None, words: list[str], *, kair_names: bool, forced: list[str] | None
) -> RunOptions:
    from atelier.options.fusion_train import options_of_flags

    check_command(command)
    if opt is not None or kair_names or forced:
        raise UserError(
            f"--from {command} stands for an option file; leave -opt, --kair_names and --force_yml out"
        )
    return options_of_flags(words)


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, experiments/NAME.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: report.html in it.")] = None,
) -> None:
    """Write a run's report.html again (a run writes it when it ends)."""
    from atelier.evaluate.report import write_report

    typer.echo(write_report(run, output))
