"""ONNX files through onnxruntime."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.restore.exported import METADATA_KEY, Session

_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


# An entry of TensorProto.external_data (onnx.proto3): key "location", then the value's tag and length, a varint.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]*[\x00-\x7f])", re.DOTALL)


def files_of(path: Path) -> list[Path]:
    """See :func:`atelier.restore.exported.model_files`.

    Files of external data are named in the graph. Only these entries are looked for, since parsing would bring all
    weights into memory and need a package that running does without.
    """
    found = [path]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for entry in _LOCATION.finditer(data):
            length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(entry[1]))
            name = data[entry.end() : entry.end() + length].decode("utf-8", "replace")
            found.append(path.parent / name.replace("\0", ""))
    return list(dict.fromkeys(found))


def open_session(path: Path, device: str) -> Session:
    """See :func:`atelier.restore.exported.open_exported`."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"running {path} needs onnxruntime: pip install 'atelier[export]'") from None
    provider = _provider(onnxruntime.get_available_providers(), device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        inner = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no type of their own in common
        raise UserError(_why(path, error)) from None
    inputs, outputs = inner.get_inputs(), inner.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        listed = ", ".join(f"{each.name} {each.shape}" for each in inputs)
        raise UserError(f"{path}: one input N×C×H×W is expected; it has {listed}")
    if inputs[0].type not in _TYPES:
        raise UserError(f"{path}: input {inputs[0].name} is {inputs[0].type}; allowed: {', '.join(_TYPES)}")
    dtype = _TYPES[inputs[0].type]

    def run(x: Tensor) -> Tensor:
        try:
            result = inner.run([outputs[0].name], {inputs[0].name: x.to(dtype).numpy()})[0]
        except Exception as error:
            text = str(error)
            if "bad_alloc" in text or "Failed to allocate" in text:
                raise MemoryError(text) from None
            raise UserError(f"{path}: onnxruntime stopped at {tuple(x.shape)}: {_first_line(text)}") from None
        return torch.from_numpy(result).float()

    return Session(
        run,
        f"onnxruntime {onnxruntime.__version__} ({provider})",
        inner.get_modelmeta().custom_metadata_map.get(METADATA_KEY),
        _fixed(inputs[0].shape),
        _fixed(outputs[0].shape),
        _size(inputs[0].shape),
    )


def _fixed(shape: list[Any]) -> int | None:
    return shape[1] if len(shape) == 4 and isinstance(shape[1], int) else None


def _size(shape: list[Any]) -> tuple[int, int] | None:
    height, width = shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _provider(available: list[str], device: str) -> Any:
    if device in ("auto", "cpu") or not device.startswith("cuda"):
        if device not in ("auto", "cpu"):
            raise UserError(f"onnxruntime is used on cpu or cuda, not on '{device}'")
        if device == "auto" and "CUDAExecutionProvider" in available:
            return "CUDAExecutionProvider"
        return "CPUExecutionProvider"
    if "CUDAExecutionProvider" not in available:
        raise UserError(
            f"device '{device}' was asked for, but the installed onnxruntime has {', '.join(available)}; "
            "install onnxruntime-gpu, or use --device cpu"
        )
    return ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)})


def _why(path: Path, error: Exception) -> str:
    text = str(error)
    for pattern in (
        r"Could not find an implementation for ([\w.:]+)\(",
        r"(?:error|Error)[: ]+([\w.:]+)\(-?\d+\) is not a registered function/op",
        r"No [Oo]p registered for ([\w.:]+)",
    ):
        found = re.search(pattern, text)
        if found:
            return f"{path}: onnxruntime lacks the operator {found[1]} that this model uses"
    return f"{path}: onnxruntime cannot open it: {_first_line(text)}"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:300]
