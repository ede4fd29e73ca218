"""``atelier transfer``: a trained Compact network into one of another size, judged against its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Path = Optional[Path]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045


def transfer(
    source: Annotated[Path, typer.Argument(help="Weights of an SRVGGNetCompact.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new file, .pth or .safetensors.")],
    num_feat: Annotated[int, typer.Option("--num-feat", min=1, help="Features of the new network.")] = 32,
    num_conv: Annotated[int, typer.Option("--num-conv", min=0, help="Its inner convolutions.")] = 32,
    method: Annotated[
        str, typer.Option("--method", help="l2, l2-aligned, activation or least-squares.")
    ] = "least-squares",
    calibration: Annotated[
        _Path,
        typer.Option(
            "--calibration",
            help="Folder of pictures like those to be restored; default: bundled photographs.",
        ),
    ] = None,
    grow: Annotated[
        str, typer.Option("--grow", help="identity, duplicate, or split (allows more features).")
    ] = "identity",
    where: Annotated[str, typer.Option("--where", help="even or end: places of added layers.")] = "even",
    folded_scale: Annotated[
        _Int, typer.Option("--folded-scale", min=1, help="First fold the source to this scale, exactly.")
    ] = None,
    sweeps: Annotated[
        int,
        typer.Option("--sweeps", min=0, help="least-squares: solves of all layers together."),
    ] = 4,
    polish: Annotated[
        int, typer.Option("--polish", min=0, help="Adam steps towards the source's output.")
    ] = 0,
    grey: Annotated[bool, typer.Option("--grey", help="First make the source a 1-channel network.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    gt: Annotated[
        _Path, typer.Option("--gt", help="Held-out clean pictures; they are reduced to make inputs.")
    ] = None,
    compare_methods: Annotated[
        bool, typer.Option("--compare-methods", help="Measure every method; DST is that of --method.")
    ] = False,
    sheet: Annotated[_Path, typer.Option("--sheet", help="PNG of one held-out picture, every way.")] = None,
) -> None:
    """Make a smaller or larger network out of a trained one, and say how near it is to its source."""
    from atelier.cli.transfer_run import run_transfer

    choices = {
        "num_feat": num_feat,
        "num_conv": num_conv,
        "method": method,
        "grow": grow,
        "where": where,
        "sweeps": sweeps,
        "polish": polish,
        "seed": seed,
    }
    run_transfer(
        source,
        output,
        choices,
        calibration=calibration,
        folded_scale=folded_scale,
        grey=grey,
        gt=gt,
        compare_methods=compare_methods,
        sheet=sheet,
        say=typer.echo,
    )
