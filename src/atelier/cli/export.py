"""``atelier export``: a network into a file of another runtime, proved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.export.base import ExportFormat

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Text = Optional[str]  # noqa: UP045
_Path = Optional[Path]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045
_Float = Optional[float]  # noqa: UP045

#: Bundled photographs that the proof uses where no folder is given.
_BUNDLED = ("astronaut", "chelsea", "coffee")


def export(
    model: Annotated[Path, typer.Argument(help="Weights: .pth, .safetensors.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Main file: *.onnx, *.xml or *.param (with *.bin), *.pt2.")
    ],
    kind: Annotated[
        _Text,
        typer.Option("--format", help="onnx, openvino, ncnn or torch; default: by the name of the file."),
    ] = None,
    precision: Annotated[
        _Text, typer.Option("--precision", help="fp32 or fp16, of the weights; pictures stay float32.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="The same as --precision fp16.")] = False,
    opset: Annotated[_Int, typer.Option("--opset", help="ONNX operator set, 18 to 23; default: 18.")] = None,
    pictures: Annotated[
        _Path,
        typer.Option("--pictures", help="Folder of pictures for the proof; default: bundled photographs."),
    ] = None,
    param_key: Annotated[
        _Text, typer.Option("--param-key", help="Entry of the weight file; default: params_ema, then params.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to int8 (ONNX, QDQ form).")] = False,
    calibration: Annotated[
        _Path,
        typer.Option("--calibration", help="Folder of pictures as the network will be given; for int8."),
    ] = None,
    calibrate: Annotated[
        _Text, typer.Option("--calibrate", help="percentile, mse or minmax; default: percentile.")
    ] = None,
    activations: Annotated[_Int, typer.Option("--activations", help="8 or 16 bits; default: 8.")] = None,
    keep_ends: Annotated[
        bool, typer.Option("--keep-ends", help="Leave the first and the last layer in float32.")
    ] = False,
    max_drop: Annotated[
        _Float,
        typer.Option("--max-drop", help="Most dB of PSNR to lose; layers stay float32 until it is so."),
    ] = None,
    validation: Annotated[
        _Path, typer.Option("--validation", help="Folder of true pictures to measure int8 on.")
    ] = None,
    validation_lq: Annotated[
        _Path,
        typer.Option(
            "--validation-lq", help="Their inputs, NAME or NAMExSCALE; default: reduced bicubically."
        ),
    ] = None,
    target: Annotated[
        _Text, typer.Option("--target", help="Prepare a folder -o for a device, such as qcs8550.")
    ] = None,
    targets: Annotated[_Path, typer.Option("--targets", help="YAML file with targets of your own.")] = None,
    size: Annotated[
        _Text,
        typer.Option(
            "--size",
            help="HEIGHTxWIDTH: a file for pictures of this size alone; with --target: not its own; not with --int8.",
        ),
    ] = None,
    skip: Annotated[
        bool,
        typer.Option("--concat-skip", help="Write a nearest skip as repeated channels before DepthToSpace."),
    ] = False,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Module that registers the model's network.")
    ] = None,
) -> None:
    """Export a network and prove in its new runtime that it is the same; exit code 2 and no file where it is not.

    With --target exit code 1 means: the folder is written, but the network is over the target's budget.
    """
    if half and precision not in (None, "fp16"):
        raise UserError(f"--half contradicts --precision {precision}")
    asked = "fp16" if half else precision or "fp32"
    if asked not in ("fp32", "fp16"):
        raise UserError(f"--precision {asked}: allowed are fp32 and fp16")
    for flag, value, owner, there in (
        ("--calibration", calibration, "--int8 or --target", int8 or target),
        ("--calibrate", calibrate, "--int8 or --target", int8 or target),
        ("--activations", activations, "--int8 or --target", int8 or target),
        ("--keep-ends", keep_ends, "--int8", int8),
        ("--max-drop", max_drop, "--int8", int8),
        ("--validation", validation, "--int8", int8),
        ("--validation-lq", validation_lq, "--validation", validation),
        ("--targets", targets, "--target", target),
        ("--opset", opset, "a single file; --target chooses its own", not target),
        ("--format", kind, "a single file; --target prepares a folder", not target),
    ):
        if value is not None and value is not False and not there:
            raise UserError(f"{flag} belongs to {owner}")
    if (int8 or target) and calibration is None:
        raise UserError(
            f"{'--int8' if int8 else '--target'} needs --calibration DIR, pictures as the network will see"
        )
    if int8 and target:
        raise UserError("--target prepares int8 by itself; leave --int8 out")
    if (int8 or target) and asked == "fp16":
        raise UserError("--precision fp16 contradicts --int8 and --target")
    if int8 and size:
        raise UserError(
            "--size does not go with --int8, which leaves the size open; --target prepares int8 at one size"
        )
    files = _pictures(pictures)
    if plugin:
        from atelier.options.read import import_modules

        import_modules(plugin)

    over: tuple[str, ...] = ()
    if calibration is not None:
        given = _listed(calibration, "--calibration")
        if target:
            from atelier.export.target import prepare_target

            prepared = prepare_target(
                model,
                output,
                target,
                given,
                files,
                targets=targets,
                size=size,
                method=calibrate or "percentile",
                activations=activations,
                concat_skip=skip,
                param_key=param_key,
                say=typer.echo,
            )
            lines, over = list(prepared.lines), prepared.over
        else:
            from atelier.export.int8 import Int8Options, export_int8

            if found_format(output, kind, opset, skip).type != "onnx":
                raise UserError(f"-o {output}: --int8 writes ONNX; a file is called *.onnx")
            settings = Int8Options(
                given,
                _named(validation, "--validation") if validation else {},
                _named(validation_lq, "--validation-lq") if validation_lq else {},
                calibrate or "percentile",
                8 if activations is None else activations,
                keep_ends,
                max_drop,
            )
            made, report = export_int8(
                model,
                output,
                settings,
                files,
                opset=opset or 18,
                concat_skip=skip,
                param_key=param_key,
                say=typer.echo,
            )
            lines = [*report.lines(), f"wrote {', '.join(str(path) for path in made.files)}"]
    else:
        from atelier.archs.info import parse_size
        from atelier.export.exporting import export_model

        exported = export_model(
            model,
            output,
            found_format(output, kind, opset, skip),
            files,
            precision="fp16" if asked == "fp16" else "fp32",
            size=None if size is None else parse_size(size),
            param_key=param_key,
            say=typer.echo,
        )
        lines = [*exported.proof.lines(), f"wrote {', '.join(str(path) for path in exported.files)}"]
    for line in lines:
        typer.echo(line)
    if over:
        raise typer.Exit(1)


def found_format(output: Path, kind: str | None, opset: int | None, skip: bool) -> ExportFormat:
    """The format that these flags mean."""
    from atelier.export.base import find_format

    options: dict[str, object] = {} if opset is None else {"opset": opset}
    if skip:
        options["concat_skip"] = True
    return find_format(output, kind, options)


def _pictures(folder: Path | None) -> list[Path]:
    if folder is None:
        from atelier.data.bundled import bundled_path

        return [bundled_path(name) for name in _BUNDLED]
    return _listed(folder, "--pictures")


def _listed(folder: Path, flag: str) -> list[Path]:
    from atelier.images import list_images

    found = list_images(folder)
    if not found:
        raise UserError(f"{flag} {folder}: no pictures there")
    return found


def _named(folder: Path, flag: str) -> dict[str, Path]:
    """Pictures by their path below ``folder``, without suffix."""
    named: dict[str, Path] = {}
    for path in _listed(folder, flag):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise UserError(f"{flag}: {named[name]} and {path.name} have the same name; remove one")
        named[name] = path
    return named
