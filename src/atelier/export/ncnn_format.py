"""ncnn: a graph (``.param``, text) and its weights (``.bin``), converted by pnnx from the ONNX graph.

The ncnn-vulkan programs of this field feed a blob called ``data`` and read one called ``output``; pnnx calls them
``in0`` and ``out0``. The text has the magic number 7767517, then the counts of layers and blobs, then one line a layer:
type, name, how many blobs in and out, their names, parameters (https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from atelier.errors import UserError
from atelier.export.base import ExportFormat, Precision
from atelier.export.onnx_format import to_onnx

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from atelier.archs.facts import NetworkFacts
    from atelier.export.trace import Traced

_OPSET = 18

#: Operators of graphs that compute with the size of the picture, for which ncnn has no layers.
_ON_SIZES = ("Shape", "Size", "Range", "Mod", "Gather", "GatherND", "ScatterND", "ConstantOfShape", "Where")

#: Those among them that pnnx never makes anything of; looking for it takes it minutes, or does not end.
_HOPELESS = {"Range", "Mod", "GatherND", "ScatterND"}

#: Seconds for pnnx; the largest RRDBNet takes it a small part of that.
_PATIENCE = 900


class NcnnFormat(ExportFormat):
    """With fp16 the weights of convolutions are stored as float16; the program that runs it chooses the arithmetic."""

    suffixes: ClassVar[tuple[str, ...]] = (".param", ".bin")
    packages: ClassVar[tuple[str, ...]] = ("ncnn", "pnnx", "onnx", "onnxscript")
    half_graph: ClassVar[bool] = False
    may_halve: ClassVar[bool] = True

    type: Literal["ncnn"] = "ncnn"

    def write(self, traced: Traced, main: Path, metadata: Mapping[str, Any], precision: Precision) -> None:
        """Two files; neither can carry text, so the facts stand in ``FILE.json`` alone."""
        from atelier.export.ncnn_unshuffle import cropped

        model = to_onnx(traced, _OPSET)
        with tempfile.TemporaryDirectory(dir=main.parent, prefix="pnnx.") as name:
            folder = Path(name)
            param = _convert(model, folder, metadata, half=precision == "fp16")
            if metadata["size_multiple"] > 1:  # of those that form_of lets pass
                param = cropped(param, metadata["scale"])
            main.write_text(renamed_ends(param), encoding="ascii")
            (folder / "net.ncnn.bin").replace(main.with_suffix(".bin"))

    def facts(self) -> dict[str, Any]:
        """ncnn takes one picture at a time."""
        return {"opset": _OPSET, "open_axes": ["height", "width"]}

    def form_of(self, net: nn.Module, facts: NetworkFacts) -> tuple[nn.Module, int]:
        """RRDBNet at x2 and x1 as :mod:`atelier.export.ncnn_unshuffle` has it; other networks as they are."""
        from atelier.archs.rrdbnet import RRDBNet
        from atelier.export.ncnn_unshuffle import GatheredRRDBNet

        if facts.size_multiple == 1:
            return net, 1
        if isinstance(net, RRDBNet):
            form = GatheredRRDBNet(net).eval()
            return form, form.least_size
        raise _no_form(
            facts.architecture,
            f"it pads every picture to a multiple of {facts.size_multiple} pixels and cuts it into parts of that "
            "side, by the size of the picture (Shape, Range, Mod, Gather), for which ncnn has no operators, and "
            "through arrays of five axes, of which it has four, so that --size does not help",
        )

    def open_in_half(self, main: Path) -> nn.Module:
        """The file with float16 storage and arithmetic asked for, as the ncnn-vulkan programs do by default."""
        from atelier.restore.exported import ExportedNetwork, read_facts
        from atelier.restore.runtime_ncnn import open_session

        session = open_session(main, "cpu", half=True)
        return ExportedNetwork(session, read_facts(main, session))


def _convert(model: onnx.ModelProto, folder: Path, metadata: Mapping[str, Any], *, half: bool) -> str:
    """Run pnnx in ``folder``, where it leaves its files; the text of the ``.param``.

    Raises:
        UserError: it stopped, or left operators that ncnn lacks (named).
    """
    import onnx
    import pnnx

    on_sizes = {node.op_type for node in model.graph.node} & set(_ON_SIZES)
    if on_sizes & _HOPELESS:
        raise _no_form(metadata["architecture"], _on_sizes(on_sizes))
    onnx.save_model(model, str(folder / "net.onnx"))
    channels, step = metadata["in_channels"], metadata["size_multiple"]
    # Two shapes tell pnnx that height and width are open.
    sizes = [metadata["size"]] if "size" in metadata else [(24 * step, 40 * step), (32 * step, 48 * step)]
    shapes = [f"[1,{channels},{height},{width}]" for height, width in sizes]
    command = [
        pnnx.EXEC_PATH,
        "net.onnx",
        *(f"{key}={shape}" for key, shape in zip(("inputshape", "inputshape2"), shapes, strict=False)),
        f"fp16={int(half)}",
    ]
    param = folder / "net.ncnn.param"
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise _no_form(
            metadata["architecture"], f"pnnx found none in {_PATIENCE / 60:g} minutes and was stopped"
        ) from None
    if done.returncode or not param.is_file() or not (folder / "net.ncnn.bin").is_file():
        reason = f"pnnx ended with code {done.returncode}"
        raise _no_form(metadata["architecture"], _on_sizes(on_sizes) if on_sizes else reason)
    text = param.read_text(encoding="ascii", errors="replace")
    if lacking := _lacking(text):
        raise UserError(
            f"ncnn lacks the operators {', '.join(lacking)} that {metadata['architecture']} with these options "
            "uses; export it to ONNX or OpenVINO"
        )
    return text


def _no_form(architecture: str, reason: str) -> UserError:
    return UserError(
        f"ncnn has no form for {architecture} with these options: {reason}; export it to ONNX or OpenVINO"
    )


def _on_sizes(operators: set[str]) -> str:
    return f"it computes with the size of the picture ({', '.join(sorted(operators))}), for which ncnn has no operators"


def _lacking(param: str) -> list[str]:
    """Types of layers that ncnn does not know."""
    from atelier.restore.runtime_ncnn import unknown_layers

    return unknown_layers(param)


def renamed_ends(param: str) -> str:
    """The text of a ``.param`` with its blobs ``in0`` and ``out0`` called ``data`` and ``output``."""
    names = {"in0": "data", "out0": "output"}
    lines = param.splitlines()
    for place, line in enumerate(lines[2:], start=2):
        words = line.split()
        if len(words) < 4:
            continue
        blobs = int(words[2]) + int(words[3])
        words[4 : 4 + blobs] = [names.get(each, each) for each in words[4 : 4 + blobs]]
        # The layer of type Input bears its blob's name.
        words[1] = names.get(words[1], words[1])
        lines[place] = f"{words[0]:<24} {words[1]:<24} {' '.join(words[2:])}"
    return re.sub(r"[ \t]+$", "", "\n".join(lines), flags=re.MULTILINE) + "\n"
