"""OpenVINO IR (``.xml`` with its ``.bin``), on the CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.restore.exported import METADATA_KEY, Session


def files_of(path: Path) -> list[Path]:
    """See :func:`atelier.restore.exported.model_files`."""
    return [path, path.with_suffix(".bin")]


def open_session(path: Path, device: str) -> Session:
    """See :func:`atelier.restore.exported.open_exported`. Arithmetic in float32, whatever the weights' format."""
    try:
        import openvino
    except ImportError:
        raise UserError(f"running {path} needs openvino: pip install 'atelier[export]'") from None
    if device not in ("auto", "cpu"):
        raise UserError(f"OpenVINO models run on the CPU here, not on '{device}'; use --device cpu")
    if not (weights := files_of(path)[1]).is_file():
        raise UserError(f"{path} needs {weights.name} beside it, which does not exist")
    core = openvino.Core()
    # On CPUs with bfloat16 units the plugin would choose bfloat16 by itself.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        model = core.read_model(str(path))
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as error:
        raise UserError(_why(path, error)) from None
    if len(model.inputs) != 1 or len(model.input(0).partial_shape) != 4:
        listed = ", ".join(f"{each.any_name} {each.partial_shape}" for each in model.inputs)
        raise UserError(f"{path}: one input N×C×H×W is expected; it has {listed}")

    def run(x: Tensor) -> Tensor:
        try:
            return torch.from_numpy(compiled(x.numpy())[0].copy()).float()
        except Exception as error:
            text = str(error)
            if "bad_alloc" in text or "allocate" in text:
                raise MemoryError(text) from None
            raise UserError(f"{path}: OpenVINO stopped at {tuple(x.shape)}: {_last_line(text)}") from None

    return Session(
        run,
        f"OpenVINO {openvino.__version__.partition('-')[0]} (CPU)",
        model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info(METADATA_KEY) else None,
        _fixed(model.input(0).partial_shape),
        _fixed(model.output(0).partial_shape),
        _size(model.input(0).partial_shape),
    )


def _fixed(shape: Any) -> int | None:
    return shape[1].get_length() if len(shape) == 4 and shape[1].is_static else None


def _size(shape: Any) -> tuple[int, int] | None:
    static = shape[2].is_static and shape[3].is_static
    return (shape[2].get_length(), shape[3].get_length()) if static else None


def _why(path: Path, error: Exception) -> str:
    text = str(error)
    found = re.search(r"Cannot create (\S+) layer|Unsupported operation of type: (\S+)", text)
    if found:
        return f"{path}: OpenVINO lacks the operator {found[1] or found[2]} that this model uses"
    return f"{path}: OpenVINO cannot open it: {_last_line(text)}"


def _last_line(text: str) -> str:
    """OpenVINO begins with places in its own source; the reason comes last."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1][:300]
