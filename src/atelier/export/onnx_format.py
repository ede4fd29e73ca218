"""ONNX: one file with its weights inside.

Pixel shuffle becomes DepthToSpace in mode CRD, nearest enlargement a Resize with asymmetric coordinates and floor,
slopes of PReLU are [C, 1, 1]: what the runtimes of this field read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from atelier.errors import UserError
from atelier.export.base import ExportFormat, Precision

if TYPE_CHECKING:
    import onnx

    from atelier.export.trace import Traced


class OnnxFormat(ExportFormat):
    """``opset``: version of the operator set, from 18 (older runtimes) to 23.

    ``concat_skip``: a nearest-neighbour skip as repeated channels before DepthToSpace, see :mod:`atelier.export.skip`.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    type: Literal["onnx"] = "onnx"
    opset: int = Field(18, ge=18, le=23)
    concat_skip: bool = False

    def write(self, traced: Traced, main: Path, metadata: Mapping[str, Any], precision: Precision) -> None:
        """One file, weights inside, metadata under ``metadata_props``."""
        save_onnx(self.graph(traced), main, metadata)

    def graph(self, traced: Traced) -> onnx.ModelProto:
        """The program as ONNX with these options."""
        from atelier.export.skip import concat_nearest_skip

        model = to_onnx(traced, self.opset)
        if self.concat_skip:
            concat_nearest_skip(model)
        return model

    def facts(self) -> dict[str, Any]:
        """``opset``."""
        return {"opset": self.opset}


def save_onnx(model: onnx.ModelProto, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``model`` with ``metadata`` inside; the model given stays as it is but for that."""
    import onnx

    from atelier.restore.exported import METADATA_KEY

    model.producer_name, model.producer_version = "atelier", metadata["versions"]["atelier"]
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(metadata)
    try:
        onnx.save_model(model, str(path))
    except ValueError as error:  # protobuf allows 2 GiB a file
        raise UserError(f"{path.name}: too large for one ONNX file ({error})") from None


def to_onnx(traced: Traced, opset: int) -> onnx.ModelProto:
    """The traced program as a checked ONNX model with input ``data`` and output ``output``.

    Raises:
        UserError: ONNX has no form for an operator of the program.
    """
    import onnx
    import torch

    from atelier.export.trace import AXES, INPUT, OUTPUT, causes, first_line, quiet

    try:
        with quiet():
            program = torch.onnx.export(
                traced.program,
                (traced.example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                dynamo=True,
                external_data=False,
                dynamic_shapes=None if traced.fixed else (AXES,),
                custom_translation_table=_translations(),
                verbose=False,
            )
    except Exception as error:  # the exporter's own types are private
        text = "\n".join(causes(error))
        found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
        if found:
            raise UserError(
                f"ONNX lacks the operator {found[1].replace('.default', '')} that this network uses"
            ) from error
        place = re.search(r"Error when translating node .*?target=torch\.ops\.([\w.]+)", text)
        where = f"the operator {place[1]}" if place else "this network"
        last = error
        while last.__cause__ is not None:
            last = last.__cause__  # type: ignore[assignment]
        raise UserError(f"ONNX (opset {opset}) has no form for {where}: {first_line(last)}") from error
    assert program is not None
    model = program.model_proto
    _trim_slopes(model)
    onnx.checker.check_model(model)
    return model


def _trim_slopes(model: onnx.ModelProto) -> None:
    """Slopes of PReLU as [C, 1, 1]: the exporter writes [1, C, 1, 1], which some converters refuse."""
    slopes = {node.input[1] for node in model.graph.node if node.op_type == "PRelu"}
    for tensor in model.graph.initializer:
        if tensor.name in slopes and len(tensor.dims) == 4 and tensor.dims[0] == 1:
            del tensor.dims[0]
    # The exporter has written down the shapes of constants too; those of slopes would now contradict them.
    kept = [each for each in model.graph.value_info if each.name not in slopes]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators that the exporter knows for constants alone: here a size of the picture may be an operand."""
    import torch
    from onnxscript import opset18 as op

    def remainder(self: Any, other: Any) -> Any:
        other = op.CastLike(other, self)
        if self.dtype.is_integer():
            return op.Mod(self, other)
        return op.Sub(self, op.Mul(op.Floor(op.Div(self, other)), other))

    return {torch.ops.aten.remainder.Scalar: remainder}
