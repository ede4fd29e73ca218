"""``atelier data``: look at data sets before training on them, and prepare them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from atelier.options.schema import RunOptions

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
)

OptionFile = Annotated[Path, typer.Option("-opt", "--opt", help="Option file of a run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value overrides, e.g. datasets.train.gt_size=96")
]


def _train_data_options(opt: Path, overrides: list[str] | None) -> RunOptions:
    from atelier.options.read import load_run_options

    return load_run_options(opt, overrides or [])


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder with (clean) pictures, or an .lmdb.")],
    lq: Annotated[Path | None, typer.Option(help="Folder with their degraded versions.")] = None,
    scale: Annotated[int | None, typer.Option(help="gt side / lq side; needed with --lq.")] = None,
    filename_tmpl: Annotated[str, typer.Option(help="lq name without suffix for the gt name {}.")] = "{}",
    smallest: Annotated[int, typer.Option(help="Report gt pictures with a side below this.")] = 32,
) -> None:
    """Decode every picture and list unreadable, truncated, tiny, mixed, duplicate and badly paired ones.

    Exit code 1 when something must be mended; duplicates alone are only told.
    """
    from atelier.data.checking import check_folder

    report = check_folder(folder, lq=lq, scale=scale, filename_tmpl=filename_tmpl, smallest=smallest)
    typer.echo("\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def crop(
    source: Annotated[Path, typer.Argument(help="Folder with pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the sub-images.")],
    crop_size: Annotated[int, typer.Option("--crop", help="Side of a sub-image.")] = 480,
    step: Annotated[int, typer.Option(help="Distance between sub-images.")] = 240,
    thresh: Annotated[int, typer.Option(help="Up to this many left-over pixels get no extra one.")] = 0,
    filename_tmpl: Annotated[
        str, typer.Option(help="For lq pictures: how their names follow gt's, as {}x4.")
    ] = "{}",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Cut pictures into overlapping sub-images NAME_s001.png; continues where a stopped run left off."""
    from atelier.data.cropping import crop_subimages

    report = crop_subimages(
        source, output, crop=crop_size, step=step, thresh=thresh, filename_tmpl=filename_tmpl, dry_run=dry_run
    )
    typer.echo("\n".join(report.lines(dry_run)))
    if report.failed:
        raise typer.Exit(1)


@app.command()
def preview(
    opt: OptionFile,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The sheet to write.")] = Path("preview.png"),
    step: Annotated[int, typer.Option(min=1, help="First training step to show.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="How many steps.")] = 1,
) -> None:
    """Write a contact sheet of lq/gt pairs of a run, exactly as its network will see them."""
    from atelier.data.loader import TrainingData
    from atelier.data.preview import preview_sheet

    options = _train_data_options(opt, overrides)
    train = options.datasets.train
    data = TrainingData(
        train.model_copy(update={"num_worker_per_gpu": 0}),
        scale=options.scale,
        degradation=None if train.dataroot_lq else options.effective_degradation.build(options.scale),
        seed=options.manual_seed,
        global_batch=train.batch_size_per_gpu,
        in_channels=options.network_g.in_channels,
        cache=options.cache,
    )
    try:
        count = preview_sheet(data, output, steps=range(step, step + steps))
    finally:
        data.close()
    typer.echo(f"{count} samples of step {step}{f' to {step + steps - 1}' if steps > 1 else ''}: {output}")


@app.command()
def shards(opt: OptionFile, overrides: Overrides = None) -> None:
    """Build the shard cache of a run's training pictures ahead of training."""
    from atelier.data.pairs import open_pictures
    from atelier.data.shards import ShardCache, ShardReader
    from atelier.errors import UserError

    options = _train_data_options(opt, overrides)
    if not options.cache.enabled:
        raise UserError(f"{opt}: cache.enabled is false, so this run uses no shards")
    cache = ShardCache(options.cache)
    pictures = open_pictures(
        options.datasets.train, scale=options.scale, in_channels=options.network_g.in_channels
    )
    pairs = [(pictures.gt, pictures.gt_shapes)]
    if pictures.lq is not None:
        pairs.append((pictures.lq, pictures.lq_shapes))
    for source, shapes in pairs:
        there = cache.lookup(source) is not None
        reader = cache.open(source, shapes)
        if isinstance(reader, ShardReader):
            size = reader.index.size / 1e9
            state = "there already" if there else "built"
            typer.echo(
                f"{source.title}: {len(source)} pictures, {size:.3f} GB, {state}: {reader.index.folder}"
            )
        reader.close()
