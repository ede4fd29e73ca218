"""The range of every activation of an ONNX graph, found by running it on pictures.

An 8-bit activation is ``(q - zero_point) * scale`` with q of 0 to 255, so everything outside a range is clipped and
everything inside is rounded to a step of ``range / 255``. ``minmax`` clips nothing; ``percentile`` clips the rarest
values; ``mse`` takes the range that loses least in the mean square (Jacob et al., CVPR 2018, arXiv 1712.05877;
Nagel et al., "A White Paper on Neural Network Quantization", arXiv 2106.08295, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.export.proof import read_picture

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

METHODS: Final = ("percentile", "mse", "minmax")

CROP = 128
"""Side of a calibration crop in pixels, at most."""
CROPS = 32
"""How many crops, spread evenly over the pictures."""

_KEPT = 2**18
_KEPT_FOR_MSE = 2**15
_PERCENTILE = 0.01  # per cent clipped at each end
_SHARES = np.linspace(0.2, 1.0, 41)

Range = tuple[float, float]


def calibration_crops(
    paths: Sequence[Path], channels: int, size: tuple[int, int] | None = None
) -> list[Tensor]:
    """Inputs [1, C, h, w] in [0, 1] for the network, cut from pictures as they are.

    Args:
        paths: pictures of the kind that the network will be given.
        channels: of the network.
        size: height and width that all crops must have, or None: up to :data:`CROP`.

    Raises:
        UserError: no picture is large enough, or one cannot be read.
    """
    each = -(-CROPS // len(paths))
    wanted = (CROP, CROP) if size is None else size
    # More pictures than crops: every n-th one.
    chosen = paths[:: max(1, len(paths) // CROPS)][:CROPS]
    crops: list[Tensor] = []
    for path in chosen:
        picture = read_picture(path, channels)
        height, width = (min(a, b) for a, b in zip(wanted, picture.shape[1:], strict=True))
        if size is not None and (height, width) != size:
            continue
        for place in range(each):
            share = (place + 0.5) / each
            # Places along both diagonals.
            top = round((picture.shape[1] - height) * share)
            left = round((picture.shape[2] - width) * (share if place % 2 else 1 - share))
            crops.append(picture[None, :, top : top + height, left : left + width].contiguous())
    if not crops:
        raise UserError(
            f"--calibration: none of the {len(paths)} pictures has the {wanted[1]}x{wanted[0]} pixels that are needed"
        )
    return crops[:CROPS]


def activation_ranges(
    model: onnx.ModelProto, inputs: Sequence[Tensor], method: str, bits: int
) -> dict[str, Range]:
    """Name -> (lowest, highest) of every float32 activation, the input included.

    Args:
        model: a graph of float32 with one input.
        inputs: what to run it on.
        method: see the module.
        bits: of the activations, for ``mse``.

    Raises:
        UserError: an activation is not finite.
    """
    import onnxruntime

    names = float_activations(model)
    given = model.graph.input[0].name
    session = onnxruntime.InferenceSession(_with_outputs(model, names), _options())
    samples: dict[str, list[NDArray[Any]]] = {name: [] for name in (given, *names)}
    extremes: dict[str, Range] = {}
    for x in inputs:
        results = session.run(names, {given: x.numpy()})
        for name, values in zip((given, *names), (x.numpy(), *results), strict=True):
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise UserError(f"--calibration: {name} is not finite on these pictures")
            before = extremes.get(name, (low, high))
            extremes[name] = (min(low, before[0]), max(high, before[1]))
            flat = values.ravel()
            # A stride that shares no factor with the width, so that all columns are seen.
            samples[name].append(flat[:: max(1, flat.size * len(inputs) // _KEPT) | 1].copy())
    return {name: _range(np.concatenate(samples[name]), extremes[name], method, bits) for name in extremes}


def float_activations(model: onnx.ModelProto) -> list[str]:
    """Names of the float32 tensors that nodes give, in order."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {each.name: each.type.tensor_type.elem_type for each in inferred.graph.value_info}
    kinds |= {each.name: each.type.tensor_type.elem_type for each in inferred.graph.output}
    given = (name for node in model.graph.node for name in node.output)
    return [name for name in given if kinds.get(name) == onnx.TensorProto.FLOAT]


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    import onnx

    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    known = {each.name for each in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return bytes(wider.SerializeToString())


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return options


def _range(values: NDArray[Any], extremes: Range, method: str, bits: int) -> Range:
    if method == "minmax":
        low, high = extremes
    elif method == "percentile":
        low, high = np.percentile(values, (_PERCENTILE, 100 - _PERCENTILE)).tolist()
    else:
        fewer = values[:: max(1, values.size // _KEPT_FOR_MSE) | 1]
        low, high = _least_squares(fewer, extremes, 2**bits - 1)
    # Zero must have a code of its own: padding is made of it.
    return min(low, 0.0), max(high, 0.0)


def _least_squares(values: NDArray[Any], extremes: Range, steps: int) -> Range:
    """Shrink one end after the other to where rounding and clipping together lose least."""
    low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
    for _ in range(2):
        high = min((share * high for share in _SHARES), key=lambda end: _loss(values, low, end, steps))
        low = min((share * low for share in _SHARES), key=lambda end: _loss(values, end, high, steps))
    return low, high


def _loss(values: NDArray[Any], low: float, high: float, steps: int) -> float:
    scale = (high - low) / steps
    if not scale:
        return float(np.square(values).sum())
    zero = np.rint(-low / scale)
    codes = np.clip(np.rint(values / scale) + zero, 0, steps)
    return float(np.square((codes - zero) * scale - values).sum(dtype=np.float64))
