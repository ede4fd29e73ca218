"""``atelier restore``: a model over pictures and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from atelier.errors import UserError

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Text = Optional[str]  # noqa: UP045
_Path = Optional[Path]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045
_Float = Optional[float]  # noqa: UP045


def restore(
    input: Annotated[
        Path, typer.Option("-i", "--input", help="A picture or a folder (searched recursively).")
    ],
    model: Annotated[
        _Path, typer.Option("-m", "--model", "--model-path", help="Weights: .pth, .safetensors.")
    ] = None,
    model_name: Annotated[
        _Text,
        typer.Option(
            "-n", "--model-name", help="Looked for in weights/NAME.pth, then experiments/NAME/models/."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the results; for one picture also a file name.")
    ] = Path("results"),
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
    suffix: Annotated[str, typer.Option("--suffix", help="NAME_SUFFIX.ext; empty for none.")] = "out",
    ext: Annotated[str, typer.Option("--ext", help="auto (as the input), png, jpg, webp or tif.")] = "auto",
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
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Module that registers the model's network.")
    ] = None,
    param_key: Annotated[
        _Text, typer.Option("--param-key", help="Entry of the weight file; default: params_ema, then params.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Repeat pictures that are done already.")
    ] = False,
) -> None:
    """Restore a picture or a folder. Exit code 1 when single pictures failed, 2 when nothing could be done."""
    if fp32 and precision not in (None, "fp32"):
        raise UserError(f"--fp32 contradicts --precision {precision}")
    if gpu_id is not None and device not in ("auto", f"cuda:{gpu_id}"):
        raise UserError(f"-g {gpu_id} contradicts --device {device}")
    weights = find_weights(model, model_name)
    if plugin:
        from atelier.options.read import import_modules

        import_modules(plugin)

    from atelier.restore.folder import plan_jobs, restore_folder

    jobs = plan_jobs(input, output, suffix=suffix, ext=ext)

    from atelier.restore.model import load_model

    restorer = load_model(
        weights,
        device=device if gpu_id is None else f"cuda:{gpu_id}",
        param_key=param_key,
        precision="fp32" if fp32 else precision or "auto",
    )
    upsampler = "network" if alpha_upsampler == "realesrgan" else alpha_upsampler
    restorer.check(outscale=outscale, alpha_upsampler=upsampler)
    typer.echo(f"{weights}: {restorer.architecture} x{restorer.scale} on {restorer.device}")
    report = restore_folder(
        lambda pixels, on_tile: restorer.restore(
            pixels,
            tile=None if tile == -1 else tile,
            overlap=overlap,
            outscale=outscale,
            alpha_upsampler=upsampler,
            on_tile=on_tile,
        ),
        jobs,
        overwrite=overwrite,
    )
    typer.echo(str(report), err=bool(report.failed))
    if report.failed:
        raise typer.Exit(1 if report.done or report.skipped else 2)


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
