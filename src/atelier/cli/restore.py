"""``atelier restore``: a model over pictures, folders and films."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.images.video_encode import Encoding
    from atelier.restore.folder import FolderReport
    from atelier.restore.video import FilmJob

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Text = Optional[str]  # noqa: UP045
_Path = Optional[Path]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045
_Float = Optional[float]  # noqa: UP045

LAUNCHER = Annotated[
    str,
    typer.Option("--launcher", help="none, pytorch under torchrun, or slurm under srun: work is shared out."),
]

#: What FFmpeg's AVRational holds.
_LARGEST_TERM = 2**31 - 1

#: The published pair of which -dn chooses a mixture: one denoises, the other keeps noise.
_DENOISING, _DENOISING_TWIN = "realesr-general-x4v3", "realesr-general-wdn-x4v3"


def restore(
    input: Annotated[
        Path,
        typer.Option(
            "-i",
            "--input",
            help="A picture, a folder (searched recursively), a film, frames/%06d.png, or - (y4m).",
        ),
    ],
    model: Annotated[
        _Path,
        typer.Option(
            "-m",
            "--model",
            "--model-path",
            help="Weights (.pth, .safetensors), or an exported model (.onnx, .xml, .param, .pt2).",
        ),
    ] = None,
    model_name: Annotated[
        _Text,
        typer.Option(
            "-n", "--model-name", help="Looked for in weights/NAME.pth, then experiments/NAME/models/."
        ),
    ] = None,
    denoise_strength: Annotated[
        _Float,
        typer.Option(
            "-dn",
            "--denoise-strength",
            help="Share of the network, 0 to 1; the rest is its twin, --model-b or NAME with -wdn in it.",
        ),
    ] = None,
    model_b: Annotated[
        _Path, typer.Option("--model-b", help="The other network of -dn: the same one with other weights.")
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="Folder of the results, or a file for one picture or film; frames/%06d.png, or - (y4m).",
        ),
    ] = "results",
    outscale: Annotated[
        _Float,
        typer.Option("-s", "--outscale", help="Final size over input size; default: the network's scale."),
    ] = None,
    tile: Annotated[
        int,
        typer.Option("-t", "--tile", min=-1, help="Tile side in input pixels; 0: automatic, -1: never tile."),
    ] = 0,
    overlap: Annotated[
        _Int,
        typer.Option(
            "--tile-pad",
            "--overlap",
            min=0,
            help="Context on each side of a tile; default: exact or 32 pixels.",
        ),
    ] = None,
    pre_pad: Annotated[
        int,
        typer.Option("--pre-pad", min=0, help="Mirrored pixels on the right and below, cut off afterwards."),
    ] = 0,
    suffix: Annotated[
        _Text, typer.Option("--suffix", help="NAME_SUFFIX.ext; default out, empty for none.")
    ] = None,
    ext: Annotated[
        _Text, typer.Option("--ext", help="Pictures: auto (as the input, default), png, jpg, webp or tif.")
    ] = None,
    alpha_upsampler: Annotated[
        str, typer.Option("--alpha-upsampler", help="network (also called realesrgan) or bicubic.")
    ] = "network",
    precision: Annotated[
        _Text,
        typer.Option(
            "--precision", help="fp32, bf16, fp16; default: fp16 where it is safe on a GPU, or fp32."
        ),
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="The same as --precision fp32.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    gpu_id: Annotated[
        _Int, typer.Option("-g", "--gpu-id", min=0, help="The same as --device cuda:N.")
    ] = None,
    face_enhance: Annotated[
        bool, typer.Option("--face-enhance", help="Refused: no face network is part of this program.")
    ] = False,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Module that registers the model's network.")
    ] = None,
    param_key: Annotated[
        _Text, typer.Option("--param-key", help="Entry of the weight file; default: params_ema, then params.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Repeat what is done already; films begin anew.")
    ] = False,
    codec: Annotated[
        _Text, typer.Option("--codec", help="Films: FFmpeg's encoder; default libx264, libvpx-vp9 for .webm.")
    ] = None,
    crf: Annotated[
        _Float, typer.Option("--crf", help="Films: quality, smaller is better; default 18 for libx264.")
    ] = None,
    preset: Annotated[
        _Text, typer.Option("--preset", help="Films: speed against size, as the encoder names it.")
    ] = None,
    pix_fmt: Annotated[
        _Text,
        typer.Option("--pix-fmt", help="Films: FFmpeg's pixel format; default: depth of the source, 4:2:0."),
    ] = None,
    segment: Annotated[
        _Int, typer.Option("--segment", min=1, help="Films: frames that a stop can cost; default 250.")
    ] = None,
    rate: Annotated[
        _Text,
        typer.Option("--rate", help="Frames a second of numbered pictures, such as 24000/1001; default 25."),
    ] = None,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Films: take what decodes of a damaged or cut-off file.")
    ] = False,
    launcher: LAUNCHER = "none",
    engine: Annotated[
        str,
        typer.Option("--engine", help="own, or ray: pictures through Ray Data (docs/cluster.md)."),
    ] = "own",
    workers: Annotated[
        _Int, typer.Option("--workers", min=1, help="With --engine ray: how many processes; default 2.")
    ] = None,
) -> None:
    """Restore a picture, a film or a folder of them; what was stopped goes on with the same command.

    Exit code 1 when single pictures failed, 2 when nothing could be done.
    """
    if face_enhance:
        raise UserError(
            "--face_enhance is not done here: it needs GFPGAN's networks, which are not part of this program; leave it "
            "out, and restore faces with that program"
        )
    if fp32 and precision not in (None, "fp32"):
        raise UserError(f"--fp32 contradicts --precision {precision}")
    if engine not in ("own", "ray"):
        raise UserError(f"--engine {engine}: allowed are own and ray")
    if workers is not None and engine != "ray":
        raise UserError("--workers is for --engine ray; torchrun says itself how many processes there are")
    if gpu_id is not None and device not in ("auto", f"cuda:{gpu_id}"):
        raise UserError(f"-g {gpu_id} contradicts --device {device}")
    weights = find_weights(model, model_name)
    twin = find_twin(weights, model_b, denoise_strength)
    if plugin:
        from atelier.options.read import import_modules

        import_modules(plugin)

    from atelier.images.video_frames import is_pattern
    from atelier.ranks import crew_of
    from atelier.restore.folder import first_gap, names_picture, plan_jobs
    from atelier.restore.recipe import Recipe
    from atelier.restore.video import names_film, plan_film, plan_films, require_folder_name

    tail = "out" if suffix is None else suffix
    film, folder = plan_film(str(input), output, suffix=tail), Path(output)
    one_picture = film is None and input.is_file() and names_picture(output)
    if film is None and not one_picture:
        from atelier.images import IMAGE_SUFFIXES

        require_folder_name(output, *([IMAGE_SUFFIXES] if input.is_file() else []))
    naming = [name for name, value in {"--suffix": suffix, "--ext": ext}.items() if value is not None]
    if naming and (one_picture or names_film(output)):
        raise UserError(f"{', '.join(naming)}: for results in a folder; -o {output} is the whole name")
    if naming and film is not None and is_pattern(str(input)):
        raise UserError(
            f"{', '.join(naming)}: numbered pictures keep their names; -o frames/%06d.png gives others"
        )
    folder_films = plan_films(input, folder, suffix=tail) if film is None and input.is_dir() else []
    films = folder_films if film is None else [film]
    film_options = {
        "--codec": codec,
        "--crf": crf,
        "--preset": preset,
        "--pix-fmt": pix_fmt,
        "--segment": segment,
        "--rate": rate,
        "--allow-damaged": allow_damaged or None,
    }
    given = [name for name, value in film_options.items() if value is not None]
    if not films and given:
        raise UserError(f"{', '.join(given)}: for films only; {input} is read as pictures")
    if film is not None and film.is_done() and not overwrite:
        typer.echo(f"{film.target} is done already, whatever options made it; --overwrite makes it anew")
        return
    jobs = (
        plan_jobs(input, output, suffix=tail, ext=ext or "auto", required=not films) if film is None else []
    )
    if ext is not None and not jobs:
        raise UserError(f"--ext {ext}: for pictures only; a film's result has the kind of its source")
    gap = first_gap(job.source for job in jobs)
    # A codec that is missing is told before a model is loaded.
    for target in {Path(each.target).suffix.lower(): each.target for each in films}.values():
        film_encoding(target, codec, crf, preset, pix_fmt)
    frame_rate = parse_rate(rate)
    recipe = Recipe(
        weights,
        twin,
        device if gpu_id is None else f"cuda:{gpu_id}",
        param_key,
        "fp32" if fp32 else precision or "auto",
        None if tile == -1 else tile,
        overlap,
        outscale,
        "network" if alpha_upsampler == "realesrgan" else alpha_upsampler,
        pre_pad,
        tuple(plugin or ()),
        (str(Path.cwd()),),
    )
    if engine == "ray":
        from atelier.restore.ray_pipeline import restore_with_ray

        if films or launcher != "none":
            what = f"{films[0].source} is a film" if films else "it starts its own processes"
            raise UserError(f"--engine ray restores pictures: {what}; films go with torchrun and --launcher")
        _tell_gap(gap)
        _finish(restore_with_ray(recipe, jobs, folder, workers=workers or 2, overwrite=overwrite))
        return

    with crew_of(launcher, "restore -m MODEL -i FOLDER") as crew:
        if film is not None and not crew.first:
            return  # one film is one process's
        if crew.place.world > 1:
            from atelier.restore.sharing import device_of_process

            recipe = replace(recipe, device=device_of_process(recipe.device, crew.place.local))
        restorer = recipe.load()
        identity = recipe.identity()
        # A film on standard output must not be mixed with words.
        aside = film is not None and film.target == "-"
        if crew.first:
            _tell_gap(gap)
            typer.echo(
                f"{weights}: {restorer.architecture} x{restorer.scale} on {restorer.device}", err=aside
            )
            if twin is not None:
                typer.echo(f"mixed: {twin[1]:g} of it and {1 - twin[1]:g} of {twin[0]}", err=aside)
            elif weights.stem == _DENOISING:
                typer.echo(
                    "note: the network as it is; inference_realesrgan.py mixes it with its twin, as -dn 0.5 does here",
                    err=aside,
                )
        one = recipe.bind(restorer)
        times = outscale if outscale is not None else restorer.scale

        def restore_one(each: FilmJob) -> None:
            from atelier.restore.video import restore_film

            restored = restore_film(
                one,
                each,
                lambda width, height: (max(int(width * times), 1), max(int(height * times), 1)),
                encoding=film_encoding(each.target, codec, crf, preset, pix_fmt),
                options={
                    **identity,
                    "outscale": times,
                    "tile": tile,
                    "overlap": overlap,
                    "pre_pad": pre_pad,
                    "precision": restorer.precision,
                    "device": restorer.device.type,
                },
                segment=segment or 250,
                rate=frame_rate,
                allow_damaged=allow_damaged,
                overwrite=overwrite,
                quiet=not crew.first,
                tell=lambda line: typer.echo(line, err=True),
            )
            typer.echo(f"{each.target}: {restored}", err=aside)

        if film is not None:
            restore_one(film)
            return
        from atelier.restore.sharing import restore_shared

        report = restore_shared(
            one, jobs, films, restore_one, crew, model=json.dumps(identity), overwrite=overwrite
        )
        if report is not None:
            _finish(report)


def _tell_gap(missing: Path | None) -> None:
    if missing is not None:
        from atelier.restore.folder import gap_warning

        typer.echo(gap_warning(missing), err=True)


def _finish(report: FolderReport) -> None:
    typer.echo(str(report), err=bool(report.failed))
    if report.failed:
        raise typer.Exit(1 if report.done or report.skipped else 2)


def film_encoding(
    target: str, codec: str | None, crf: float | None, preset: str | None, pix_fmt: str | None
) -> Encoding:
    """The encoding asked for; a codec that is missing is an error before a model is loaded."""
    from atelier.images.video import require_av
    from atelier.images.video_encode import Encoding, find_encoder

    require_av("restoring a film")
    usual = "libvpx-vp9" if Path(target).suffix.lower() == ".webm" else "libx264"
    return Encoding(find_encoder(codec or usual), crf, preset, pix_fmt or "auto")


def parse_rate(text: str | None) -> Fraction | None:
    """Frames a second: ``25``, ``30000/1001``, or a decimal.

    23.976, 29.97, 59.94 and their shorter and longer forms (23.98, 29.97002997) are the standards' N·1000/1001. Other
    decimals become the nearest fraction with a denominator up to a million.

    Raises:
        UserError: no number, or none that films can have: FFmpeg's rates are two 32-bit integers.
    """
    if text is None:
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--rate {text}: a number such as 25, 23.976 or 24000/1001") from error
    # MP4 counts how long a picture stands in 32 bits, in milliseconds or finer.
    if not Fraction(1, 100_000) <= rate <= 1000:
        raise UserError(f"--rate {text}: from 0.00001 to 1000 frames a second")
    if "/" not in text:
        rate = _nearest(rate, digits=len(text.strip().partition(".")[2]))
    if max(rate.numerator, rate.denominator) > _LARGEST_TERM:
        raise UserError(f"--rate {text}: a number such as 25, 23.976 or 24000/1001")
    return rate


def _nearest(rate: Fraction, digits: int) -> Fraction:
    """What was meant by a decimal with so many digits after the point."""
    for whole in (24, 30, 48, 60, 120):
        standard = Fraction(1000 * whole, 1001)
        if digits > 1 and abs(standard - rate) <= Fraction(1, 2 * 10**digits):
            return standard
    # Of very small numbers a denominator of a million would leave nothing.
    return rate.limit_denominator(10**6) if rate >= Fraction(1, 1000) else rate


def find_twin(
    weights: Path, model_b: Path | None, denoise_strength: float | None
) -> tuple[Path, float] | None:
    """The file that ``-dn`` mixes ``weights`` with and their share; None where nothing is mixed (-dn 1, or neither).

    Left out, ``--model-b`` is the published twin: ``realesr-general-wdn-x4v3`` beside ``realesr-general-x4v3``.
    """
    if denoise_strength is None:
        if model_b is not None:
            raise UserError("--model-b needs -dn, the share of the first network from 0 to 1")
        return None
    if not 0 <= denoise_strength <= 1:
        raise UserError(f"-dn {denoise_strength:g}: the share of the first network is from 0 to 1")
    if denoise_strength == 1:
        return None
    if model_b is None:
        if weights.stem != _DENOISING:
            raise UserError(
                f"-dn mixes {_DENOISING} with its twin; for {weights.name} name the other network: --model-b FILE"
            )
        model_b = weights.with_name(f"{_DENOISING_TWIN}{weights.suffix}")
    if not model_b.is_file():
        raise UserError(
            f"-dn {denoise_strength:g} needs {model_b}, which does not exist; --model-b names another"
        )
    return model_b, denoise_strength


def find_weights(path: Path | None, name: str | None) -> Path:
    """The weight file meant by ``-m`` or ``-n``; a :class:`UserError` lists where it was looked for."""
    if (path is None) == (name is None):
        raise UserError("give one model: -m PATH, or -n NAME for weights/NAME.pth or experiments/NAME")
    if path is not None:
        if not path.is_file():
            raise UserError(
                f"model file {path} does not exist" if not path.exists() else f"{path} is no file"
            )
        return path
    models = Path("experiments") / str(name) / "models"
    places = [Path("weights") / f"{name}.pth", models / "net_g_latest.pth", models / "net_g_best.pth"]
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"no model '{name}'; looked for {', '.join(str(place) for place in places)}")
