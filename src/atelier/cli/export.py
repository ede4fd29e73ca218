"""``atelier export``: a network into a file of another runtime, proved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from atelier.errors import UserError

# typer reads these annotations at run time; Optional[...] is the form all its versions understand.
_Text = Optional[str]  # noqa: UP045
_Path = Optional[Path]  # noqa: UP045
_Int = Optional[int]  # noqa: UP045

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
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="Module that registers the model's network.")
    ] = None,
) -> None:
    """Export a network and prove in its new runtime that it is the same; exit code 2 and no file where it is not."""
    from atelier.export.base import find_format

    if half and precision not in (None, "fp16"):
        raise UserError(f"--half contradicts --precision {precision}")
    asked = "fp16" if half else precision or "fp32"
    if asked not in ("fp32", "fp16"):
        raise UserError(f"--precision {asked}: allowed are fp32 and fp16")
    found = find_format(output, kind, {} if opset is None else {"opset": opset})
    files = _pictures(pictures)
    if plugin:
        from atelier.options.read import import_modules

        import_modules(plugin)

    from atelier.export.exporting import export_model

    exported = export_model(
        model,
        output,
        found,
        files,
        precision="fp16" if asked == "fp16" else "fp32",
        param_key=param_key,
        say=typer.echo,
    )
    for line in exported.proof.lines():
        typer.echo(line)
    typer.echo(f"wrote {', '.join(str(path) for path in exported.files)}")


def _pictures(folder: Path | None) -> list[Path]:
    if folder is None:
        from atelier.data.bundled import bundled_path

        return [bundled_path(name) for name in _BUNDLED]
    from atelier.images import list_images

    found = list_images(folder)
    if not found:
        raise UserError(f"--pictures {folder}: no pictures there")
    return found
