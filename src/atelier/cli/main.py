"""``atelier``: one command for everything; every user's mistake is one message and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from atelier.allocator import keep_freed_memory
from atelier.cli import data as data_commands
from atelier.cli import options as options_commands
from atelier.cli.colorize import colorize
from atelier.cli.compare import compare
from atelier.cli.demo import demo
from atelier.cli.evaluate import evaluate
from atelier.cli.experiment import experiment
from atelier.cli.export import export
from atelier.cli.info import info
from atelier.cli.restore import restore
from atelier.cli.train import report, train
from atelier.cli.transfer import transfer
from atelier.errors import UserError

app = typer.Typer(
    name="atelier",
    help="A workshop for image and video restoration networks: train, measure and run them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing it with rich costs a third of a second
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="The main job in two minutes, nothing needed.")(demo)
app.command(short_help="Train a network from an option file.")(train)
app.command(short_help="Restore pictures, folders and films.")(restore)
app.command(short_help="Colour for grey films, from colour pictures.")(colorize)
app.command(short_help="Measure a model on pictures.")(evaluate)
app.command(short_help="Measure several models on the same pictures; success criteria; report.")(compare)
app.command(short_help="Arms x seeds: which training is better, with what certainty.")(experiment)
app.command(short_help="A trained network into a smaller or larger one.")(transfer)
app.command(short_help="A network into ONNX, OpenVINO, ncnn or a torch program, proved.")(export)
app.command(short_help="Write the report.html of a run again.")(report)
app.command(short_help="Architecture, size and cost of a weight file.")(info)
app.add_typer(data_commands.app, name="data", help="Data set tools: fetch, extract, crop, check, preview ...")
app.add_typer(options_commands.app, name="options", help="Check or convert an option file; JSON Schema.")

_COLORIZE_LISTS = ("-i", "--input", "--input-dirs", "--reference", "--anchor")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("atelier"))
        raise typer.Exit


def with_dashes(arguments: Sequence[str]) -> list[str]:
    """Accept ``--auto_resume`` for ``--auto-resume``: users of this field type either.

    Only names of long flags are touched, never their values, nor anything after ``--``. ``--force_yml`` takes every
    word up to the next flag, as in BasicSR; so do the lists of ``colorize``.
    """
    changed: list[str] = []
    lists = ("--force-yml", *(_COLORIZE_LISTS if arguments[:1] == ["colorize"] else ()))
    taking, taken = "", 0  # a flag that takes every word, and how many it has taken
    for index, word in enumerate(arguments):
        if word == "--":
            return [*changed, *arguments[index:]]
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
        if word.startswith("-") and word != "-":
            taking, taken = (word if word in lists else ""), 0
        elif taking:
            changed += [taking] if taken else []
            taken += 1
        changed.append(word)
    return changed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # By default OpenMP's threads spin while they wait for each other, which is ruinous where other programs use the
    # cores too. Sleeping costs a little on an idle machine and gains far more on a busy one (benchmarks/waiting.py).
    # Read when torch is loaded, so it must be set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    if "RANK" in os.environ:
        # Where a process that others talk to has gone, torch's store prints a page of its own calls for each of them,
        # and the sentence that says so is lost in it.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        app(args=with_dashes(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        rank = os.environ.get("RANK")
        where = f" on rank {rank}" if rank is not None else ""
        print(f"error{where}: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has left; that is its right.
        sys.stderr.close()
        sys.exit(141)
