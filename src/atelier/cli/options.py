"""``atelier options check|convert|schema``: look at an option file before running it. Nothing here loads torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from atelier.data.options import DatasetOptions
    from atelier.options.schema import RunOptions

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

#: Whose command's flags follow ``--``.
FROM = Annotated[
    Optional[str],  # noqa: UP045  typer reads the annotation at run time
    typer.Option(
        "--from",
        metavar="PROGRAM",
        help="fusion-train: what follows -- are flags of that training command (docs/colorize-training.md).",
        show_default=False,
    ),
]


@app.command()
def check(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... [KEY=VALUE]...",
            help="Option files, and overrides that go for all of them, for example train.total_iter=2000.",
            show_default=False,
        ),
    ],
) -> None:
    """Check option files: OK with a summary, or every mistake with its file and line (exit code 2).

    Pictures and weights that are not there are warnings: they may be made before the run.
    """
    from atelier.errors import UserError
    from atelier.options.absent import absent_data, absent_weights
    from atelier.options.read import load_run_options

    files, overrides = split_arguments(arguments)
    failed = False
    for file in files:
        try:
            options = load_run_options(file, overrides)
        except UserError as error:
            failed = True
            typer.echo(str(error), err=True)
            continue
        typer.echo(f"{file}: OK\n{summary(options)}")
        for warning in [*options.warnings(), *absent_data(options), *absent_weights(options)]:
            typer.echo(f"{file}: warning: {warning}")
    if failed:
        raise typer.Exit(2)


@app.command()
def convert(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE [KEY=VALUE]...",
            help="KAIR's or BasicSR's option file, and overrides by our names, for example train.total_iter=2000. "
            "With --from: its flags, after --.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="YAML file to write; default: print it.", show_default=False),
    ] = None,
    command: FROM = None,
) -> None:
    """A KAIR or BasicSR option file as YAML of ours; what there is to know about it goes to standard error.

    In a file of ours a distillation recipe is written out. Training flags: --from fusion-train -- FLAGS.
    """
    from atelier.errors import UserError

    if command is not None:
        from atelier.options.fusion_train import text_of_flags

        check_command(command)
        text, notes = text_of_flags(arguments)
    else:
        from atelier.options.foreign_text import converted_text

        files, overrides = split_arguments(arguments)
        if len(files) != 1:
            raise UserError(f"options convert takes one file, given {len(files)}: {', '.join(files)}")
        text, notes = converted_text(files[0], overrides)
    for note in notes:
        typer.echo(note, err=True)
    if output is None:
        typer.echo(text, nl=False)
        return
    from atelier.files import atomic_write

    atomic_write(output, text)
    typer.echo(f"wrote {output}")


@app.command()
def schema(
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; default: print it.", show_default=False),
    ] = None,
) -> None:
    """The JSON Schema (draft 2020-12) of an option file, for completion and checks in editors."""
    from atelier.options.json_schema import json_schema_text

    text = json_schema_text()
    if output is None:
        typer.echo(text, nl=False)
        return
    from atelier.files import atomic_write

    atomic_write(output, text)
    typer.echo(f"wrote {output}")


def check_command(name: str) -> None:
    """Raise :class:`~atelier.errors.UserError` for a ``--from`` that nobody reads."""
    from atelier.errors import UserError, did_you_mean
    from atelier.options.fusion_train import PROGRAM

    if name != PROGRAM:
        raise UserError(f"--from {name}: allowed is {PROGRAM}{did_you_mean(name, [PROGRAM])}")


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Files and overrides; a word with ``=`` is a file only when there is one of that name."""
    from atelier.errors import UserError

    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    files = [word for word in arguments if word not in overrides]
    if not files:
        raise UserError("name at least one option file: atelier options check FILE... [key=value]")
    return files, overrides


def summary(options: RunOptions) -> str:
    """What the run would do, in a few lines: network, data, losses, steps."""
    train = options.datasets.train
    terms = list(options.objective.own_terms)
    terms = terms or [(loss.type, loss.loss_weight) for loss in options.train.all_losses]
    if options.train.gan_opt is not None:
        terms.append((options.train.gan_opt.type, options.train.gan_opt.loss_weight))
    losses = ", ".join(f"{name} x {weight:g}" for name, weight in terms)
    optimizer = options.train.optim_g
    rate = getattr(optimizer, "lr", None)
    rows = {
        "distill": _distillation(options),
        "network": f"{options.network_g.type}, x{options.scale}, "
        f"{options.network_g.in_channels} -> {options.network_g.out_channels} channels",
        "train": f"{_source(train)}, {train.batch_size_per_gpu} {train.sample_size} a step and process",
        "lq": f"made by {options.effective_degradation.type}" if train.needs_degradation else "",
        "val": "; ".join(f"{key}: {_source(data)}" for key, data in options.datasets.validation.items())
        or "none",
        "losses": losses,
        "steps": f"{options.train.total_iter}, {optimizer.type}{f' lr {rate:g}' if rate is not None else ''}, "
        f"{options.train.scheduler.type}",
    }
    return "\n".join(f"  {name:8} {text}" for name, text in rows.items() if text)


def _distillation(options: RunOptions) -> str:
    """Recipe, teachers, mapping, and each term in full; nothing for other objectives."""
    if options.objective.type != "distill":
        return ""
    given = options.objective.model_dump(mode="json", exclude_none=True)
    teachers = ", ".join(teacher["weights"] for teacher in given["teacher"]) or "none"
    from atelier.options.write import dump_yaml

    terms = given["terms"]
    start = f", start {given['start']}" if given["start"] != "none" else ""
    lines = [f"{given.get('recipe', 'no recipe')}, teacher {teachers}, mapping {given['mapping']}{start}"]
    lines += dump_yaml(terms).splitlines() if terms else ["no terms"]
    return f"\n{' ':11}".join(lines)


def _source(data: DatasetOptions) -> str:
    from atelier.data.options import ImagesOptions

    if not isinstance(data, ImagesOptions):
        return data.summary()
    roots = data.dataroot_gt
    text = ", ".join(str(root) for root in roots) if isinstance(roots, list) else str(roots)
    if data.meta_info is not None and data.meta_info.is_file():
        from atelier.data.meta_info import read_meta_info

        names = read_meta_info(data.meta_info, pairs=data.dataroot_lq is not None)
        text += f" ({len(names):,} names in {data.meta_info.name})"
    return f"{text} (pairs)" if data.dataroot_lq is not None else text
