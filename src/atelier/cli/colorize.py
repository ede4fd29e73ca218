"""``atelier colorize``: colour for grey films from colour pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from atelier.cli.restore import film_encoding, parse_rate
from atelier.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atelier.restore.video import FilmJob

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Text = Optional[str]  # noqa: UP045
_Path = Optional[Path]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045
_Float = Optional[float]  # noqa: UP045
_Pair = Optional[tuple[int, int]]  # noqa: UP045

_MODES = ("fused", "average", "flow", "exemplar")


def colorize(
    input: Annotated[
        list[str] | None,
        typer.Option(
            "-i", "--input", "--input-dirs", help="Films, folders of frames, frames/%06d.png, or - (y4m)."
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", "--output-dir", help="A film, DIR/ for PNG frames, frames/%06d.png, or - (y4m)."
        ),
    ] = "results",
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference", help="Colour pictures or folders; PICTURE@FRAME is that frame in true colours."
        ),
    ] = None,
    anchor: Annotated[
        list[str] | None, typer.Option("--anchor", help="FRAME=PICTURE, the same as PICTURE@FRAME.")
    ] = None,
    model: Annotated[_Path, typer.Option("-m", "--model", help="A trained system (net_g_best.pth).")] = None,
    memflow: Annotated[
        _Path, typer.Option("--memflow-ckpt", help="MemFlow's weights; flow becomes memflow.")
    ] = None,
    swintexco: Annotated[
        _Path, typer.Option("--swintexco-ckpt", help="SwinTExCo's folder; the exemplar becomes swintexco.")
    ] = None,
    fusion: Annotated[
        _Path, typer.Option("--fusion-ckpt", help="A fusion network; without one, the average.")
    ] = None,
    backbone: Annotated[
        _Path, typer.Option("--backbone-weights", help="Weights of SwinTExCo's Swin transformer.")
    ] = None,
    flow: Annotated[_Text, typer.Option("--flow", help="dis (default), memflow or raft.")] = None,
    exemplar: Annotated[_Text, typer.Option("--exemplar", help="tiny (default) or swintexco.")] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="Whose colours: fused, average, flow or exemplar.")
    ] = "fused",
    exemplar_head: Annotated[
        str, typer.Option("--exemplar-head", help="With --mode exemplar: warp, or SwinTExCo's colornet.")
    ] = "warp",
    short_side: Annotated[
        _Int,
        typer.Option(
            "--short-side", help="Shorter side at which colours are found, a multiple of 32; default 256."
        ),
    ] = None,
    target_size: Annotated[
        _Pair, typer.Option("--target-size", help="HEIGHT WIDTH: the smaller one is --short-side.")
    ] = None,
    scene_cut: Annotated[
        str,
        typer.Option("--scene-cut", help="auto, content (PySceneDetect), off, or a file of frame numbers."),
    ] = "auto",
    per_scene: Annotated[
        str,
        typer.Option(
            "--reference-per-scene", help="Those alike to its first frame, the best one, or all references."
        ),
    ] = "alike",
    chroma_upsample: Annotated[
        str, typer.Option("--chroma-upsample", help="bilinear, or guided by the edges of lightness.")
    ] = "bilinear",
    saturation: Annotated[
        float, typer.Option("--reference-saturation", min=0, help="Factor of the references' chroma.")
    ] = 1.0,
    max_reference_keys: Annotated[
        _Int,
        typer.Option(
            "--max-reference-keys", min=1, help="Positions compared with at once; default 4 frames' worth."
        ),
    ] = None,
    codec: Annotated[
        _Text, typer.Option("--codec", help="FFmpeg's encoder; default libx264, libvpx-vp9 for .webm.")
    ] = None,
    crf: Annotated[
        _Float, typer.Option("--crf", help="Quality, smaller is better; default 18 for libx264.")
    ] = None,
    preset: Annotated[
        _Text, typer.Option("--preset", help="Speed against size, as the encoder names it.")
    ] = None,
    pix_fmt: Annotated[
        _Text, typer.Option("--pix-fmt", help="FFmpeg's pixel format; default: depth of the source, 4:2:0.")
    ] = None,
    segment: Annotated[int, typer.Option("--segment", min=1, help="Frames that a stop can cost.")] = 500,
    rate: Annotated[
        _Text, typer.Option("--rate", help="Frames a second of numbered pictures; default 25.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on after a stop; the same command does so without it as well."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, and repeat what is done already.")
    ] = False,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Take what decodes of a damaged or cut-off file.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    summary: Annotated[_Path, typer.Option("--summary", help="Write what was done as JSON.")] = None,
) -> None:
    """Colour grey films from colour pictures: full resolution, lightness, sound and timestamps stay as they are.

    Works without any trained weights for references of the same scene; a film that was stopped goes on with the same
    command.
    """
    if not input:
        raise UserError("-i names the film, a folder of frames, or several of them")
    if resume and overwrite:
        raise UserError("--resume goes on, --overwrite begins anew; give one of the two")
    _among("--mode", mode, _MODES)
    _among("--exemplar-head", exemplar_head, ("warp", "colornet"))
    _among("--reference-per-scene", per_scene, ("alike", "best", "all"))
    _among("--chroma-upsample", chroma_upsample, ("bilinear", "guided"))
    side = _short_side(short_side, target_size)
    jobs = plan_films(input, output)

    from atelier.colorize.reference_files import find_references

    references = find_references(reference or [], anchor or [])
    pinned = [str(each) for each in references if each.frame is not None]
    if pinned and len(jobs) > 1:
        raise UserError(
            f"{pinned[0]} pins a frame of one film, but there are {len(jobs)}; colour them one by one"
        )
    frame_rate = parse_rate(rate)
    waiting: list[tuple[FilmJob, Any]] = []
    films: list[dict[str, Any]] = []
    # A film on standard output must not be mixed with words.
    aside = any(job.target == "-" for job in jobs)
    for job in jobs:
        if job.is_done() and not overwrite:
            typer.echo(
                f"{job.target} is done already, whatever options made it; --overwrite makes it anew",
                err=aside,
            )
            films.append(_told_before(summary, job))
        else:
            waiting.append((job, _encoding(job, codec, crf, preset, pix_fmt)))
    if summary is not None:
        from atelier.files import require_writable

        require_writable(summary)
        if not waiting:
            _write_summary(summary, films)
    if not waiting:
        return

    from atelier.colorize.opening import WeightFiles, open_system

    files = WeightFiles(model, memflow, swintexco, backbone, fusion, flow, exemplar)
    files.check()

    from atelier.restore.model import find_device

    where = find_device(device)
    opened = open_system(files, where)
    typer.echo(
        "; ".join([*(f"{name}: {what}" for name, what in opened.parts.items()), f"mode {mode}, on {where}"]),
        err=aside,
    )
    for note in opened.notes:
        typer.echo(f"note: {note}", err=aside)

    from atelier.colorize.coloured import ColorizeOptions
    from atelier.colorize.runner import colorize_film
    from atelier.restore.folder import gap_warning

    options: dict[str, Any] = {
        "mode": mode,
        "exemplar_head": exemplar_head,
        "per_scene": per_scene,
        "chroma_upsample": chroma_upsample,
    }
    chosen = ColorizeOptions(
        **options,
        short_side=side,
        scene_cut=scene_cut,
        saturation=saturation,
        max_reference_keys=max_reference_keys,
        segment=segment,
        allow_damaged=allow_damaged,
        overwrite=overwrite,
        rate=frame_rate,
    )
    for job, encoding in waiting:
        if (missing := job.gap()) is not None:
            typer.echo(gap_warning(missing), err=aside)
        report = colorize_film(
            opened,
            job.source,
            job.target,
            references,
            chosen,
            encoding=encoding,
            device=where,
            tell=lambda line: typer.echo(line, err=aside),
        )
        typer.echo(str(report), err=aside)
        films.append(report.summary())
        if summary is not None:
            _write_summary(summary, films)


def _told_before(summary: Path | None, job: FilmJob) -> dict[str, Any]:
    """The entry of a film that is done already: what ``summary`` says of it from the run that made it, if it does."""
    names = {"source": job.source, "output": job.target}
    try:
        entries = json.loads(summary.read_text(encoding="utf-8"))["films"] if summary is not None else []
        found = [entry for entry in entries if names.items() <= entry.items()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        found = []  # no summary, or a file of another kind
    return {**names, **(found[-1] if found else {}), "done_already": True}


def _write_summary(path: Path, films: list[dict[str, Any]]) -> None:
    from atelier.files import atomic_write

    atomic_write(path, json.dumps({"films": films}, indent=1) + "\n")


def plan_films(inputs: Sequence[str], output: str) -> list[FilmJob]:
    """What is read and written: frames from folders of frames and where ``output`` ends in ``/``, else films.

    Several inputs have names of their own in ``output``.

    Raises:
        UserError: inputs that are no films, or an output that cannot take them.
    """
    from atelier.images.video import PIPE, VIDEO_SUFFIXES
    from atelier.images.video_frames import is_pattern
    from atelier.restore.video import FilmJob, names_film, plan_film, require_folder_name

    single = names_film(output)
    if single and len(inputs) > 1:
        raise UserError(f"{len(inputs)} inputs need a folder: -o DIR/, not -o {output}")
    if not single:
        require_folder_name(output)
    as_pictures = output.endswith("/")
    jobs = []
    for source in inputs:
        path = Path(source)
        frames = is_pattern(source) or path.is_dir()
        if not frames and source != PIPE and path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{source} is no film: {', '.join(VIDEO_SUFFIXES)}, or a folder of frames")
        if single or not (frames or as_pictures):
            job = plan_film(source, output, suffix="colour")
            assert job is not None  # everything it would refuse to call a film was refused above
            jobs.append(job)
            continue
        if source != PIPE and not frames and not path.exists():
            raise UserError(f"input {source} does not exist")
        own = path.parent.name if is_pattern(source) else path.stem if path.is_file() else path.resolve().name
        folder = Path(output) / own if len(inputs) > 1 else Path(output)
        jobs.append(FilmJob(source, str(folder / path.name) if is_pattern(source) else f"{folder}/"))
    targets = [job.target for job in jobs]
    twice = sorted({target for target in targets if targets.count(target) > 1})
    if twice:
        raise UserError(f"two inputs would be written to {twice[0]}; colour them one by one")
    return jobs


def _encoding(
    job: FilmJob, codec: str | None, crf: float | None, preset: str | None, pix_fmt: str | None
) -> Any:
    """The encoding of a film; None for pictures, which have none."""
    from atelier.images.video_frames import is_pattern

    if is_pattern(job.target) or job.target.endswith("/"):
        given = {"--codec": codec, "--crf": crf, "--preset": preset, "--pix-fmt": pix_fmt}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise UserError(f"{', '.join(unused)}: for films only; {job.target} is pictures")
        return None
    return film_encoding(job.target, codec, crf, preset, pix_fmt)


def _among(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UserError(f"{option} {given}: allowed are {', '.join(known)}{did_you_mean(given, known)}")


def _short_side(short_side: int | None, target_size: tuple[int, int] | None) -> int:
    if short_side is not None and target_size is not None:
        raise UserError("--target-size is another form of --short-side; give one of the two")
    side = min(target_size) if target_size is not None else 256 if short_side is None else short_side
    if side < 32 or side % 32:
        name = f"--target-size {target_size[0]} {target_size[1]}" if target_size else f"--short-side {side}"
        raise UserError(f"{name}: the shorter side must be a multiple of 32, such as 224 or 256")
    return side
