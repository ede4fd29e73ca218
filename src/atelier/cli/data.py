"""``atelier data``: look at data sets before training on them, and prepare them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from atelier.options.schema import RunOptions

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
)

OptionFile = Annotated[Path, typer.Option("-opt", "--opt", help="Option file of a run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value overrides, e.g. datasets.train.gt_size=96")
]

Workers = Annotated[
    int | None, typer.Option("--workers", "--n-thread", min=0, help="Processes; default: one a core.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Level = Annotated[
    int, typer.Option("--compression-level", help="PNG compression of 8-bit pictures, 0 (fast) to 9.")
]
KeepSuffix = Annotated[
    bool, typer.Option("--keep-suffix", help="a.png gives a_png..., so that a.bmp may lie beside it.")
]
Source = Annotated[Path | None, typer.Argument(metavar="SOURCE", help="Folder with pictures.")]
SourceFlag = Annotated[Path | None, typer.Option("-i", "--input", help="The same as SOURCE.")]


class _ManyValues(TyperCommand):
    """Options take several values after one flag (``--input A B``), as the scripts they come from do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the flag before each of its values."""
        many = {flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts}
        spread: list[str] = []
        current: str | None = None
        fresh = False
        for word in args:
            if word.startswith("-"):
                current = word if word in many else None
                fresh = True
            elif current is not None and not fresh:
                spread.append(current)
            else:
                fresh = False
            spread.append(word)
        return super().parse_args(ctx, spread)


def _one_source(source: Path | None, given: Path | None) -> Path:
    from atelier.errors import UserError

    if (source is None) == (given is None):
        raise UserError("give the folder with pictures once: as SOURCE or with --input")
    return source or given or Path()


def _report(lines: Sequence[str], ok: bool) -> None:
    typer.echo("\n".join(lines))
    if not ok:
        raise typer.Exit(1)


def _train_data_options(opt: Path, overrides: list[str] | None) -> RunOptions:
    from atelier.options.read import load_run_options

    return load_run_options(opt, overrides or [])


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="DIV2K, Flickr2K, OST, or any http(s) address.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the archives.")] = Path(
        "datasets/downloads"
    ),
    digest: Annotated[
        str | None, typer.Option(help="sha256:HEX, md5:HEX ... that the one file must have.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the one file, if not the address's last part.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Download archives of data sets; run it again to continue a download that was stopped."""
    from atelier.data.fetch import address_of, file_name, parse_digest
    from atelier.data.fetch import fetch as download
    from atelier.errors import UserError

    if len(names) > 1 and (digest or name):
        raise UserError("--digest and --name belong to one file; fetch one at a time")
    if name and Path(name).name != name:
        raise UserError(f"--name {name}: give a file name; the folder is --output")
    addresses = [address_of(entry) for entry in names]
    if digest:
        parse_digest(digest)
    for url in addresses:
        if dry_run:
            target = output / (name or file_name(url))
            state = "is there already" if target.exists() else f"would come from {url}"
            typer.echo(f"{target} {state}")
        else:
            typer.echo("\n".join(download(url, output, name=name, digest=digest).lines()))


@app.command()
def extract(
    archives: Annotated[list[Path], typer.Argument(help="zip, tar, tar.gz, tar.xz, tar.bz2 files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")],
    flatten: Annotated[
        bool, typer.Option("--flatten", help="No subfolders; equal names get their folder in front.")
    ] = False,
    ext: Annotated[str | None, typer.Option(help="Kinds to take, as png,jpg; default: all pictures.")] = None,
    max_gb: Annotated[float, typer.Option(min=0.0, help="Refuse archives that unpack to more.")] = 200.0,
    max_ratio: Annotated[
        float, typer.Option(min=1.0, help="... or to more than this many times their size.")
    ] = 100.0,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Unpack the pictures of archives (and of archives in them); nothing is overwritten or written elsewhere.

    Pictures are copied byte for byte, not decoded: data check finds those that are none. Exit code 1 when some files
    cannot be read out of their archive.
    """
    from atelier.data.archives import Limits
    from atelier.data.extract import extract_archives

    report = extract_archives(
        archives,
        output,
        flatten=flatten,
        suffixes=ext.split(",") if ext else None,
        limits=Limits(total=int(max_gb * 1e9), ratio=max_ratio),
        workers=workers,
        dry_run=dry_run,
    )
    _report(report.lines(dry_run), not report.failed)


@app.command()
def subset(
    shares: Annotated[
        list[str], typer.Argument(help="FOLDER=NUMBER or FOLDER=all, as datasets/Flickr2K=1500.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the chosen pictures.")],
    seed: Annotated[int, typer.Option(help="Another seed, another choice.")] = 0,
    link: Annotated[
        Literal["hard", "sym", "copy"], typer.Option(help="How files get there; hard falls back to copies.")
    ] = "hard",
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Choose pictures from several folders by a seed, into one folder, with subset.json saying which."""
    from atelier.data.subset import make_subset, parse_share

    report = make_subset(
        [parse_share(share) for share in shares],
        output,
        seed=seed,
        link=link,
        workers=workers,
        dry_run=dry_run,
    )
    _report(report.lines(dry_run), not report.failed)


@app.command(name="meta-info", cls=_ManyValues)
def meta_info(
    folders: Annotated[list[Path], typer.Option("--input", "-i", help="Folders with (gt) pictures.")],
    target: Annotated[Path, typer.Option("--meta-info", "-o", help="The text file to write.")],
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", help="Names are relative to it: one for all or one each; default: the folder above."
        ),
    ] = None,
    input_lq: Annotated[
        list[Path] | None, typer.Option("--input-lq", help="Folders with lq; lines are then: gt, lq.")
    ] = None,
    root_lq: Annotated[
        list[Path] | None, typer.Option("--root-lq", help="The same as --root, for lq.")
    ] = None,
    filename_tmpl: Annotated[str, typer.Option(help="lq name without suffix for the gt name {}.")] = "{}",
    check: Annotated[
        bool, typer.Option("--check", help="Decode each; leave out and list what fails.")
    ] = False,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Write the list of pictures that an option file names as meta_info: sorted, one relative path a line.

    Exit code 1 when pictures had to be left out.
    """
    from atelier.data.meta_info_writer import write_meta_info

    report = write_meta_info(
        folders,
        target,
        roots=root or (),
        lq=input_lq or (),
        roots_lq=root_lq or (),
        filename_tmpl=filename_tmpl,
        check=check,
        workers=workers,
        dry_run=dry_run,
    )
    _report(report.lines(target, dry_run), report.ok)


@app.command()
def crop(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the sub-images.")],
    source: Source = None,
    given: SourceFlag = None,
    crop_size: Annotated[int, typer.Option("--crop-size", "--crop", help="Side of a sub-image.")] = 480,
    step: Annotated[int, typer.Option(help="Distance between sub-images.")] = 240,
    thresh: Annotated[
        int,
        typer.Option("--thresh-size", "--thresh", help="Up to this many left-over pixels get no extra one."),
    ] = 0,
    filename_tmpl: Annotated[
        str, typer.Option(help="For lq pictures: how their names follow gt's, as {}x4.")
    ] = "{}",
    keep_suffix: KeepSuffix = False,
    level: Level = 3,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Cut pictures into overlapping sub-images NAME_s001.png; continues where a stopped run left off.

    Exit code 1 when a picture cannot be read, or nothing was cut.
    """
    from atelier.data.cropping import crop_subimages

    report = crop_subimages(
        _one_source(source, given),
        output,
        crop=crop_size,
        step=step,
        thresh=thresh,
        filename_tmpl=filename_tmpl,
        keep_suffix=keep_suffix,
        level=level,
        workers=workers,
        dry_run=dry_run,
    )
    _report(report.lines(dry_run), report.ok)


@app.command()
def multiscale(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the versions.")],
    source: Source = None,
    given: SourceFlag = None,
    shortest: Annotated[int, typer.Option(help="Shortest edge of T3.")] = 400,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="Make T3 of smaller pictures too.")] = False,
    keep_suffix: KeepSuffix = False,
    level: Level = 3,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Write smaller versions NAMET0.png to NAMET3.png: 0.75, 0.5, 1/3 of the size, and shortest edge 400.

    Exit code 1 when a picture cannot be read.
    """
    from atelier.data.multiscale import make_versions

    report = make_versions(
        _one_source(source, given),
        output,
        shortest=shortest,
        enlarge=enlarge,
        keep_suffix=keep_suffix,
        level=level,
        workers=workers,
        dry_run=dry_run,
    )
    _report(report.lines(dry_run), not report.failed)


@app.command()
def lmdb(
    output: Annotated[Path, typer.Option("-o", "--output", help="The LMDB to make: NAME.lmdb.")],
    source: Source = None,
    given: SourceFlag = None,
    level: Level = 1,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Pack pictures into an LMDB in BasicSR's layout.

    Exit code 1 when a picture cannot be read; there is no LMDB then, and the next run continues.
    """
    from atelier.data.lmdb_writer import write_lmdb

    report = write_lmdb(_one_source(source, given), output, level=level, workers=workers, dry_run=dry_run)
    _report(report.lines(output, dry_run), not report.failed)


@app.command(name="prepare-set5")
def prepare_set5(
    source: Annotated[Path, typer.Argument(help="Folder with the clean pictures of a benchmark.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The benchmark's folder.")],
    scale: Annotated[
        list[int] | None, typer.Option(help="Of LRbicx2 ...; may be repeated; default: 2.")
    ] = None,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Lay out a benchmark as BasicSR's option files expect it: GTmod12 and LRbicx2 (MATLAB's bicubic)."""
    from atelier.data.set5 import prepare_benchmark

    report = prepare_benchmark(source, output, scale or [2], workers=workers, dry_run=dry_run)
    _report(report.lines(dry_run), not report.failed)


def _check_clips(opt: Path, overrides: list[str]) -> None:
    from atelier.data.clip_checking import check_clips
    from atelier.data.clip_options import TrainClipsOptions, ValClipsOptions
    from atelier.errors import UserError

    options = _train_data_options(opt, overrides)
    train, validation = options.datasets.train, options.datasets.validation
    if not isinstance(train, TrainClipsOptions):
        raise UserError(
            f"{opt} trains on {train.type}: give its folder of pictures; option files are for clips"
        )
    films = {key: each for key, each in validation.items() if isinstance(each, ValClipsOptions)}
    typer.echo("\n".join([*options.warnings(), *check_clips(train, films, options.cache)]))


@app.command()
def check(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with (clean) pictures, an .lmdb, or the option file of a run on clips; with an option file, "
            "key=value overrides.",
        ),
    ] = None,
    opt: Annotated[Path | None, typer.Option("-opt", "--opt", help="Option file of a run on clips.")] = None,
    lq: Annotated[Path | None, typer.Option(help="Folder with their degraded versions.")] = None,
    scale: Annotated[int | None, typer.Option(help="gt side / lq side; needed with --lq.")] = None,
    filename_tmpl: Annotated[str, typer.Option(help="lq name without suffix for the gt name {}.")] = "{}",
    smallest: Annotated[int, typer.Option(help="Report gt pictures with a side below this.")] = 32,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the pictures.")] = False,
) -> None:
    """Decode every picture and list unreadable, truncated, tiny, mixed, duplicate and badly paired ones.

    Exit code 1 when something must be mended; duplicates alone are only told. Of a run on clips (datasets.train.type
    clips) it opens all films and tells how many clips take their reference by which rule.
    """
    from atelier.errors import UserError

    words = words or []
    if opt is None and words and Path(words[0]).suffix.lower() in {".yml", ".yaml", ".json"}:
        opt, words = Path(words[0]), words[1:]
    if opt is not None:
        _check_clips(opt, words)
        return
    if len(words) != 1:
        raise UserError(
            f"data check takes one folder, or -opt FILE for a run on clips; given {', '.join(words) or 'neither'}"
        )
    folder = Path(words[0])
    from atelier.data.checking import check_folder
    from atelier.data.sources import open_folders

    if dry_run:
        for root in (folder, lq):
            if root is not None:
                typer.echo(f"{root}: {len(open_folders([root], 'check'))} pictures would be checked")
        return
    report = check_folder(folder, lq=lq, scale=scale, filename_tmpl=filename_tmpl, smallest=smallest)
    _report(report.lines(), report.ok)


@app.command()
def preview(
    opt: OptionFile,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The sheet to write.")] = Path("preview.png"),
    step: Annotated[int, typer.Option(min=1, help="First training step to show.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="How many steps.")] = 1,
) -> None:
    """Write a contact sheet of a run's lq/gt pairs, or clips and references, exactly as its network will see them."""
    from atelier.data.clip_data import ClipData
    from atelier.data.clip_preview import clip_sheet
    from atelier.data.loader import TrainingData
    from atelier.data.preview import preview_sheet, stages_path

    options = _train_data_options(opt, overrides)
    shown = f"of step {step}{f' to {step + steps - 1}' if steps > 1 else ''}: {output}"
    train = options.datasets.train
    data = train.model_copy(update={"num_worker_per_gpu": 0}).open(
        scale=options.scale,
        degradation=options.effective_degradation,
        seed=options.manual_seed,
        global_batch=train.batch_size_per_gpu,
        in_channels=options.network_g.in_channels,
        cache=options.cache,
    )
    with contextlib.closing(data):
        if isinstance(data, ClipData):
            typer.echo(f"{clip_sheet(data, output, steps=range(step, step + steps))} clips {shown}")
            return
        assert isinstance(data, TrainingData)
        typer.echo(f"{preview_sheet(data, output, steps=range(step, step + steps))} samples {shown}")
        if data.assembler.degradation is not None:
            typer.echo(
                f"the first of them after every step, with what was drawn: {stages_path(output)} and .json"
            )


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
        options.datasets.images, scale=options.scale, in_channels=options.network_g.in_channels
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


@app.command(name="cache-verify")
def cache_verify(
    opt: OptionFile,
    overrides: Overrides = None,
    entries: Annotated[
        int, typer.Option("--entries", min=0, help="Forward passes of each cache to compute again.")
    ] = 8,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Processes of the runs that use it.")] = 1,
) -> None:
    """Check a distilling run's stored teacher answers: every file's hash, and a sample against the teacher.

    Exit code 1 when a file is damaged, or answers are not the teacher's for these samples.
    """
    from atelier.train.verifying_caches import verify_caches

    report = verify_caches(_train_data_options(opt, overrides), entries, world=ranks)
    _report(report.lines, report.ok)
