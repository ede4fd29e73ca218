"""Static quantisation of an ONNX graph in QDQ form (Jacob et al., CVPR 2018, arXiv 1712.05877).

Weights are int8, symmetric, with a scale for each output channel; activations uint8 or uint16, asymmetric, with ranges
fixed beforehand.

QDQ form keeps the operators and puts pairs of QuantizeLinear and DequantizeLinear between them, which onnxruntime fuses
into integer kernels where it has them and other tool chains read as the encodings of tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atelier.errors import UserError
from atelier.export.calibration import Range, float_activations

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BETWEEN = ("Relu", "LeakyRelu", "Add", "Concat", "DepthToSpace", "Resize", "Split")
#: With one scale for all slopes of a layer they lose much, and onnxruntime has no integer kernel for them anyway.
_WHERE_ALL_IS_INTEGER = ("PRelu",)
#: Graphs with these keep all but products in float32: a long residual stream in 8 bit loses too much.
_TRANSFORMER = ("LayerNormalization", "Softmax")

SIXTEEN_BIT_OPSET = 21
"""The first opset whose QuantizeLinear knows 16 bit."""


@dataclass(frozen=True)
class Layer:
    """A product with weights and what follows it up to the next one: quantised together, or kept together."""

    name: str
    nodes: tuple[str, ...]


def find_layers(model: onnx.ModelProto, *, slopes: bool = False) -> list[Layer]:
    """The layers of a graph in order; every node that can be quantised is in one of them. Names nodes without a name.

    ``slopes``: PReLU with its slopes too, which devices without float32 need.

    Raises:
        UserError: there is nothing to quantise.
    """
    constants = {each.name for each in model.graph.initializer}
    floats = {*float_activations(model)}
    kinds = {node.op_type for node in model.graph.node}
    allowed: tuple[str, ...] = WEIGHTED if kinds & set(_TRANSFORMER) else WEIGHTED + _BETWEEN
    if slopes:
        allowed += _WHERE_ALL_IS_INTEGER
    heads: dict[str, str] = {}  # tensor -> layer it comes from
    members: dict[str, list[str]] = {}
    homeless: dict[str, list[str]] = {}  # tensor that comes from the input without a product -> nodes
    for place, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{place}"
        activations = [name for name in node.input if name and name not in constants]
        weighted = node.op_type in WEIGHTED and any(name in constants for name in node.input[1:])
        if weighted:
            home: str | None = f"{len(members) + 1}:{node.op_type}"
        else:
            home = next((heads[name] for name in activations if name in heads), None)
        usable = node.op_type in allowed and all(name in floats for name in node.output)
        if home is None:
            waiting = [each for name in activations for each in homeless.pop(name, [])]
            homeless[node.output[0]] = waiting + ([node.name] if usable else [])
            continue
        nodes = members.setdefault(home, [])
        for name in activations:
            nodes += homeless.pop(name, [])
        if usable:
            nodes.append(node.name)
        heads.update(dict.fromkeys(node.output, home))
    layers = [Layer(name, tuple(nodes)) for name, nodes in members.items() if nodes]
    if not layers:
        raise UserError("--int8: this network has no convolutions or products that could be quantised")
    return layers


def quantised(
    model: onnx.ModelProto, ranges: Mapping[str, Range], layers: Collection[Layer], bits: int
) -> onnx.ModelProto:
    """A copy of ``model`` with these layers in int8 and the rest in float32.

    Args:
        model: float32, nodes named as by :func:`find_layers`.
        ranges: of all activations.
        layers: to quantise.
        bits: 8 or 16, of the activations.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not layers:
        return copy
    data = {
        name: TensorData(lowest=np.asarray(low, np.float32), highest=np.asarray(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        # Its own shape inference marks the model; without the mark it would write files of its own.
        _marked(copy),
        True,
        False,
        QuantType.QInt8,
        QuantType.QUInt8 if bits == 8 else QuantType.QUInt16,
        TensorsData(CalibrationMethod.MinMax, data),
        [name for layer in layers for name in layer.nodes],
        [],
        sorted({*WEIGHTED, *_BETWEEN, *_WHERE_ALL_IS_INTEGER}),
        {"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(result)
    return result


def _marked(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    onnx.helper.set_model_props(inferred, {"onnx.infer": "onnxruntime.quant"})
    return inferred
