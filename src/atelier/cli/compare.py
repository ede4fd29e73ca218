"""``atelier compare`` and what it shares with ``atelier evaluate``."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from atelier.cli.restore import LAUNCHER
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.evaluate.comparison import Comparison

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Text = Optional[str]  # noqa: UP045
_Path = Optional[Path]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045

GT = Annotated[Path, typer.Option("--gt", help="Clean pictures: a folder, an .lmdb folder or one picture.")]
LQ = Annotated[
    _Path, typer.Option("--lq", help="Their degraded versions; left out: made by MATLAB's bicubic.")
]
TEMPLATE = Annotated[
    _Text, typer.Option("--filename-tmpl", help="lq name for the gt name {}; default: {}, then {}xSCALE.")
]
CROP = Annotated[
    _Int, typer.Option("--crop-border", min=0, help="Pixels cut off every side of gt; default: the scale.")
]
SIZE = Annotated[
    str, typer.Option("--size", help="Input height x width for latency, multiply-adds and memory.")
]
LATENCY = Annotated[bool, typer.Option("--latency/--no-latency", help="Measure the time of an inference.")]
TILE = Annotated[
    _Int, typer.Option("-t", "--tile", min=8, help="Tile side in input pixels; default: automatic.")
]
PRECISION = Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16, for the pictures.")]
DEVICE = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
CRITERIA = Annotated[
    _Path,
    typer.Option("--criteria", help="YAML list of success criteria; default: those of a small x2 network."),
]
RUN = Annotated[
    _Path, typer.Option("--run", help="experiments/NAME of the judged model: are its losses stable?")
]
FIGURES = Annotated[
    _Path, typer.Option("--figures", help="YAML of measures taken elsewhere, for example 'device_ms: 31'.")
]
PLUGIN = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--plugin", help="Module that registers a model's network."),
]


def compare(
    models: Annotated[
        list[Path], typer.Option("-m", "--model", help="Weights; repeat -m. Changes are against the first.")
    ],
    gt: GT,
    lq: LQ = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path(
        "comparison"
    ),
    judged: Annotated[
        _Text,
        typer.Option("--judged", help="Name of the model the criteria judge; default: the last but one."),
    ] = None,
    original: Annotated[
        _Text, typer.Option("--original", help="Name of the model it is held against; default: the last.")
    ] = None,
    criteria: CRITERIA = None,
    run: RUN = None,
    figures: FIGURES = None,
    template: TEMPLATE = None,
    crop_border: CROP = None,
    size: SIZE = "128x128",
    latency: LATENCY = True,
    tile: TILE = None,
    precision: PRECISION = "fp32",
    device: DEVICE = "auto",
    plugin: PLUGIN = None,
    launcher: LAUNCHER = "none",
) -> None:
    """Measure several models on the same pictures, beside nearest and bicubic; write a report.

    Exit code 1 when single pictures could not be measured, 2 when nothing could be done.
    """
    measured = measure(
        models,
        gt,
        lq,
        criteria=criteria,
        run=run,
        figures=figures,
        output=output,
        template=template,
        precision=precision,
        device=device,
        plugin=plugin,
        size=size,
        judged=judged,
        original=original,
        crop_border=crop_border,
        timed=latency,
        tile=tile,
        launcher=launcher,
    )
    finish(measured)


def measure(
    models: list[Path],
    gt: Path,
    lq: Path | None,
    *,
    output: Path | None,
    criteria: Path | None,
    run: Path | None,
    figures: Path | None,
    template: str | None,
    precision: str,
    device: str,
    plugin: list[str] | None,
    size: str,
    judge: bool = True,
    launcher: str = "none",
    **options: Any,
) -> Comparison | None:
    """Load, pair, measure, judge, print, write; ``options`` go to :func:`atelier.evaluate.comparison.compare`.

    Several processes (``launcher``) share the pictures; the first judges, prints and writes, the others return None.
    """
    from atelier.cli.restore import find_weights
    from atelier.evaluate.criteria import judge_criteria, read_criteria, read_figures

    # What is quickly found wrong is found before torch is loaded.
    refuse_file(output)
    if template is not None and lq is None:
        raise UserError("--filename-tmpl names the pictures of --lq, which is not given")
    for path in models:
        find_weights(path, None)
    asked = read_criteria(criteria) if judge else []
    given = read_figures(figures) if figures is not None else {}
    if not gt.exists():
        raise UserError(f"--gt: {gt} does not exist")
    if plugin:
        from atelier.options.read import import_modules

        import_modules(plugin)

    from atelier.archs.info import parse_size
    from atelier.cli.pairs import open_pairs
    from atelier.evaluate.comparison import Candidate, common_scale, compare, labels_of
    from atelier.evaluate.comparison_report import FILES, summary_text, write_comparison
    from atelier.files import require_writable, sha256_of
    from atelier.ranks import crew_of
    from atelier.restore.exported import is_exported, model_files
    from atelier.restore.model import load_model
    from atelier.restore.sharing import device_of_process

    height_width = parse_size(size)
    if run is not None:
        from atelier.train.detectors import stability

        alarms, why = stability(run)
    else:
        alarms, why = None, "give the run's folder with --run"
    with crew_of(launcher, "compare -m MODEL --gt FOLDER") as crew:
        if crew.place.world > 1:
            device = device_of_process(device, crew.place.local)
        candidates = [
            Candidate(label, path, load_model(path, device=device, precision=precision))
            for label, path in zip(labels_of(models), models, strict=True)
        ]
        for candidate in candidates:
            candidate.model.check()
        scale = common_scale(candidates)
        if scale == 1 and lq is None:
            raise UserError(
                "--lq is needed: these models keep the size, so degraded pictures cannot be made by bicubic"
            )
        pairs, lonely = open_pairs(gt, lq, scale=scale, template=template)
        if output is not None and crew.first:
            for name in FILES:
                require_writable(output / name)
        if crew.place.world > 1:
            files = [each for path in models for each in (model_files(path) if is_exported(path) else [path])]
            names = [pair.name for pair in pairs] + [sha256_of(path) for path in files]
            digest = sha256("\n".join(names).encode()).hexdigest()[:12]
            crew.require_same(f"{len(pairs)} pictures, digest {digest}", "what is to be measured")
        measured = compare(
            candidates, pairs, where=str(gt), size=height_width, failed=lonely, crew=crew, **options
        )
    if measured is None:
        return None
    if alarms is not None:
        measured.protocol.append(f"Health detectors over the last quarter of {run}: {why or 'silent'}.")
    values = measured.values()
    values[measured.judged] |= given | ({"alarms": float(alarms)} if alarms is not None else {})
    why_not = {"alarms": why, "device_ms": "not measured here; give a figure with --figures"}
    judgements = judge_criteria(
        asked,
        values,
        judged=measured.judged,
        original=measured.original,
        where=str(gt.resolve()),
        why_not=why_not | measured.why_not(measured.judged),
    )
    typer.echo(summary_text(measured, judgements))
    if output is not None:
        for path in write_comparison(measured, judgements, output).values():
            typer.echo(f"wrote {path}")
    return measured


def refuse_file(folder: Path | None) -> None:
    """Raise :class:`~atelier.errors.UserError` where the folder of a report is a file."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder} is a file; the report goes into a folder")


def finish(measured: Comparison | None) -> None:
    """Name the pictures that were left out; exit code 1 where there are any. None: another process does it."""
    if measured is not None and measured.failed:
        typer.echo(f"{len(measured.failed)} could not be measured:", err=True)
        for name, reason in measured.failed:
            typer.echo(f"  {name}: {reason}", err=True)
        raise typer.Exit(1)
