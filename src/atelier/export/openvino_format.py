"""OpenVINO's intermediate representation: a graph (``.xml``) and its weights (``.bin``), made from the ONNX graph."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from atelier.errors import UserError
from atelier.export.base import ExportFormat, Precision
from atelier.export.onnx_format import to_onnx

if TYPE_CHECKING:
    from atelier.export.trace import Traced

_OPSET = 18


class OpenVinoFormat(ExportFormat):
    """With fp16 the weights are stored as float16; the device's plug-in chooses the arithmetic (float32 on CPUs)."""

    suffixes: ClassVar[tuple[str, ...]] = (".xml", ".bin")
    packages: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")
    half_graph: ClassVar[bool] = False

    type: Literal["openvino"] = "openvino"

    def write(self, traced: Traced, main: Path, metadata: Mapping[str, Any], precision: Precision) -> None:
        """Two files; metadata in the ``.xml`` as runtime information."""
        import openvino

        from atelier.export.trace import first_line
        from atelier.restore.exported import METADATA_KEY

        graph = to_onnx(traced, _OPSET).SerializeToString()
        try:
            model = openvino.Core().read_model(graph)
        except Exception as error:  # openvino raises RuntimeErrors of private types
            raise UserError(f"OpenVINO cannot take this network: {_reason(error)}") from error
        model.set_rt_info(json.dumps(metadata), [METADATA_KEY])
        try:
            openvino.save_model(model, str(main), compress_to_fp16=precision == "fp16")
        except RuntimeError as error:
            # OpenVINO's message does not tell a full disk from anything else.
            if shutil.disk_usage(main.parent).free < len(graph):
                raise OSError(errno.ENOSPC, "full", main.name) from error
            raise UserError(f"OpenVINO cannot write {main.name}: {first_line(error)}") from error

    def facts(self) -> dict[str, Any]:
        """The opset of the ONNX graph in between."""
        return {"opset": _OPSET}


def _reason(error: BaseException) -> str:
    """OpenVINO begins with places in its own source; what it lacks stands in the line that names operations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "operation" in line.lower() or "operator" in line.lower()]
    return (named or lines or [type(error).__name__])[-1][:300]
