"""ncnn models (``.param`` with its ``.bin``), on the CPU, one picture at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.restore.exported import Session

MAGIC: Final = "7767517"
_OUT_OF_MEMORY = -100


def files_of(path: Path) -> list[Path]:
    """See :func:`atelier.restore.exported.model_files`."""
    return [path, path.with_suffix(".bin")]


def open_session(path: Path, device: str, *, half: bool = False) -> Session:
    """See :func:`atelier.restore.exported.open_exported`.

    With ``half`` ncnn is asked for float16 storage and arithmetic; it does so where the processor can.
    """
    try:
        import ncnn
    except ImportError:
        raise UserError(f"running {path} needs ncnn: pip install 'atelier[export]'") from None
    if device not in ("auto", "cpu"):
        raise UserError(f"ncnn models run on the CPU here, not on '{device}'; use --device cpu")
    if not (weights := files_of(path)[1]).is_file():
        raise UserError(f"{path} needs {weights.name} beside it, which does not exist")
    # ncnn answers a damaged graph with a crash or with nonsense, so it is looked at first.
    text = path.read_text(encoding="utf-8", errors="replace")
    if problem := _problem(text):
        raise UserError(f"{path}: {problem}")
    if lacking := unknown_layers(text):
        raise UserError(f"{path}: ncnn lacks the operators {', '.join(lacking)} that this model uses")
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    if net.load_param(str(path)) or net.load_model(str(weights)):
        raise UserError(f"{path}: ncnn cannot open it; {path.name} and {weights.name} do not belong together")
    takes, gives = net.input_names(), net.output_names()
    if len(takes) != 1 or len(gives) != 1:
        raise UserError(
            f"{path}: one input and one output are expected; it has {', '.join(takes)} and {', '.join(gives)}"
        )

    def run(x: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(one(picture)) for picture in x.numpy()])

    def one(picture: Any) -> Any:
        extractor = net.create_extractor()
        # ncnn.Mat ignores strides.
        extractor.input(takes[0], ncnn.Mat(np.ascontiguousarray(picture)))
        code, result = extractor.extract(gives[0])
        if code == _OUT_OF_MEMORY:
            raise MemoryError("ncnn could not allocate memory")
        values = None if code else np.array(result, dtype=np.float32)
        if values is None or values.ndim != 3:
            raise UserError(f"{path}: ncnn stopped at {picture.shape} (code {code})")
        return values

    arithmetic = ", float16 arithmetic asked for" if half else ""
    return Session(run, f"ncnn {ncnn.__version__} (CPU{arithmetic})")


def unknown_layers(param: str) -> list[str]:
    """Types of layers in the text of a ``.param`` that the installed ncnn does not know, sorted."""
    import ncnn

    types = {line.split()[0] for line in param.splitlines()[2:] if line.strip()}
    return sorted(each for each in types if ncnn.layer_to_index(each) < 0)


def _problem(param: str) -> str | None:
    """What is wrong with the text of a ``.param``; None: nothing that shows."""
    lines = [line.split() for line in param.splitlines() if line.strip()]
    if not lines or lines[0] != [MAGIC]:
        return f"no ncnn graph: the first line is not {MAGIC}"
    counts = lines[1] if len(lines) > 1 else []
    if len(counts) != 2 or not all(each.isdigit() for each in counts):
        return "the second line must hold the numbers of layers and blobs"
    layers = lines[2:]
    if len(layers) != int(counts[0]):
        return f"{len(layers)} layers, but {counts[0]} are announced; the file is cut short or was changed"
    known: set[str] = set()
    for number, words in enumerate(layers, start=3):
        if len(words) < 4 or not (words[2].isdigit() and words[3].isdigit()):
            return f"line {number} is no layer: {' '.join(words)[:80]}"
        end = 4 + int(words[2])
        takes, gives = words[4:end], words[end : end + int(words[3])]
        if len(gives) != int(words[3]) or any("=" in each for each in takes + gives):
            return f"line {number} names fewer blobs than it announces"
        if missing := [each for each in takes if each not in known]:
            return f"line {number} takes the blob {missing[0]}, which no layer before it gives"
        known.update(gives)
    if len(known) != int(counts[1]):
        return f"{len(known)} blobs, but {counts[1]} are announced"
    return None
