"""The range of every activation of an ONNX graph, found by running it on pictures.

An 8-bit activation is ``(q - zero_point) * scale`` with q of 0 to 255, so everything outside a range is clipped and
everything inside is rounded to a step of ``range / 255``. ``minmax`` clips nothing; ``percentile`` clips the rarest
values; ``mse`` takes the range that loses least in the mean square (Jacob et al., CVPR 2018, arXiv 1712.05877;
Nagel et al., "A White Paper on Neural Network Quantization", arXiv 2106.08295, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

_MARK = "/atelier.watched/"
_SEEN = tuple(f"{_MARK}{each}" for each in ("low", "high", "size", "values"))
"""Of every activation: the ends, the sum of magnitudes (not finite where a value is not), values at even distances."""

Range = tuple[float, float]


def calibration_crops(
    paths: Sequence[Path],
    channels: int,
    size: tuple[int, int] | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> list[Tensor]:
    """Inputs [1, C, h, w] in [0, 1] for the network, cut from pictures as they are.

    Of more pictures than crops those at even distances are taken; of fewer each gives its share.

    Args:
        paths: pictures of the kind that the network will be given.
        channels: of the network.
        size: height and width that all crops must have, or None: up to :data:`CROP`.
        say: is told which pictures are too small.

    Raises:
        UserError: no picture is large enough, or one cannot be read.
    """
    wanted = (CROP, CROP) if size is None else size
    crops: list[Tensor] = []
    small: list[str] = []
    for number, path in enumerate(paths):
        each = (number + 1) * CROPS // len(paths) - number * CROPS // len(paths)
        if not each:
            continue
        picture = read_picture(path, channels)
        height, width = (min(a, b) for a, b in zip(wanted, picture.shape[1:], strict=True))
        if size is not None and (height, width) != size:
            small.append(path.name)
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
    if small:
        named = ", ".join(small[:3]) + (" ..." if small[3:] else "")
        say(
            f"--calibration: smaller than {wanted[1]}x{wanted[0]} and left out: {named} ({len(small)} in all)"
        )
    return crops


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

    given = model.graph.input[0].name
    names = (given, *float_activations(model))
    session = onnxruntime.InferenceSession(_observed(model, names, len(inputs)), _options())
    fetched = [f"{name}{seen}" for name in names for seen in _SEEN]
    samples: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    extremes: dict[str, Range] = {}
    for x in inputs:
        results = session.run(fetched, {given: x.numpy()})
        for place, name in enumerate(names):
            low, high, size, values = results[len(_SEEN) * place : len(_SEEN) * (place + 1)]
            if not np.isfinite((low, high, size)).all():
                raise UserError(f"--calibration: {name} is not finite on these pictures")
            before = extremes.get(name, (low.item(), high.item()))
            extremes[name] = (min(low.item(), before[0]), max(high.item(), before[1]))
            samples[name].append(values)
    return {name: _range(np.concatenate(samples[name]), extremes[name], method, bits) for name in extremes}


def float_activations(model: onnx.ModelProto) -> list[str]:
    """Names of the float32 tensors that nodes give, in order."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {each.name: each.type.tensor_type.elem_type for each in inferred.graph.value_info}
    kinds |= {each.name: each.type.tensor_type.elem_type for each in inferred.graph.output}
    given = (name for node in model.graph.node for name in node.output)
    return [name for name in given if kinds.get(name) == onnx.TensorProto.FLOAT]


def _observed(model: onnx.ModelProto, names: Sequence[str], inputs: int) -> bytes:
    """``model`` with what :data:`_SEEN` lists for each name in place of its outputs.

    The graph itself takes the samples, so that no more than a few activations are in memory at once: of a SwinIR all of
    them together are 16 GB.
    """
    import onnx
    from onnx import TensorProto, helper

    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    constants = {"all": -1, "runs": inputs, "kept": 2 * _KEPT, "two": 2, "one": 1, "begin": 0, "end": 2**62}
    wider.graph.initializer.extend(
        helper.make_tensor(f"{_MARK}{name}", TensorProto.INT64, [1], [value])
        for name, value in constants.items()
    )

    def watched(name: str) -> list[onnx.NodeProto]:
        low, high, size, values = (f"{name}{seen}" for seen in _SEEN)

        def node(kind: str, given: Sequence[str], result: str, **settings: Any) -> onnx.NodeProto:
            known = [f"{_MARK}{each}" if each in constants else each for each in given]
            return helper.make_node(kind, known, [result], **settings)

        count, share, pairs, even, stride, flat = (f"{name}{_MARK}{step}" for step in range(6))
        # An odd stride, that all columns of a picture of even width are seen.
        return [
            node("ReduceMin", [name], low, keepdims=0),
            node("ReduceMax", [name], high, keepdims=0),
            node("ReduceL1", [name], size, keepdims=0),
            node("Size", [name], count),
            node("Mul", [count, "runs"], share),
            node("Div", [share, "kept"], pairs),
            node("Mul", [pairs, "two"], even),
            node("Add", [even, "one"], stride),
            node("Reshape", [name, "all"], flat),
            node("Slice", [flat, "begin", "end", "begin", stride], values),
        ]

    nodes, wanted = list(wider.graph.node), set(names)
    del wider.graph.node[:]
    wider.graph.node.extend(watched(names[0]))
    for each in nodes:
        wider.graph.node.append(each)
        for name in each.output:
            if name in wanted:
                wider.graph.node.extend(watched(name))
    for name in names:
        low, high, size, values = (f"{name}{seen}" for seen in _SEEN)
        wider.graph.output.extend(
            helper.make_tensor_value_info(scalar, TensorProto.FLOAT, []) for scalar in (low, high, size)
        )
        wider.graph.output.append(helper.make_tensor_value_info(values, TensorProto.FLOAT, [None]))
    return bytes(wider.SerializeToString())


def _options() -> Any:
    """Each node as it stands, and what has been watched is let go before the next one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
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
