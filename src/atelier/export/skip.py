"""The nearest-neighbour skip of a super-resolution network without a Resize.

``DepthToSpace(conv) + Resize(x)`` equals ``DepthToSpace(conv + repeat(x))``: nearest enlargement by s is a pixel
shuffle of every channel taken s² times. In the order of mode DCR (k*C + c, k the place in the square) the
repetition is one Concat of x with itself; the rows of the last convolution are put in that order once and for all.
Every output value is the same sum of the same two numbers. Accelerators have Concat where they often lack Resize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atelier.errors import UserError

if TYPE_CHECKING:
    import onnx


def concat_nearest_skip(model: onnx.ModelProto) -> None:
    """Rewrite ``model`` in place.

    Raises:
        UserError: it does not end in the sum of a pixel-shuffled convolution and its enlarged input.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    last = made.get(graph.output[0].name)
    parts = {made[name].op_type: made[name] for name in (last.input if last else ()) if name in made}
    shuffle, resize = parts.get("DepthToSpace"), parts.get("Resize")
    conv = made.get(shuffle.input[0]) if shuffle else None
    fits = (
        last is not None
        and last.op_type == "Add"
        and shuffle is not None
        and resize is not None
        and conv is not None
        and conv.op_type == "Conv"
        and resize.input[0] == graph.input[0].name
        and _attribute(shuffle, "mode") == b"CRD"
        and _attribute(resize, "mode") == b"nearest"
        and len([1 for node in graph.node if conv.output[0] in node.input]) == 1
    )
    if not fits:
        raise UserError(
            "--concat-skip: this network does not end in a pixel-shuffled convolution plus its input enlarged by "
            "nearest neighbour, as Compact networks do"
        )
    assert last is not None and shuffle is not None and resize is not None and conv is not None
    factor = next(each.i for each in shuffle.attribute if each.name == "blocksize")
    squares = factor * factor
    for tensor in graph.initializer:
        if tensor.name in conv.input[1:]:
            values = numpy_helper.to_array(tensor)
            # Row c*s² + k of mode CRD goes to k*C + c.
            rows = values.reshape(-1, squares, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows), tensor.name))
    concat = onnx.helper.make_node(
        "Concat", [graph.input[0].name] * squares, ["skip"], name="repeat_channels", axis=1
    )
    total = onnx.helper.make_node("Add", [conv.output[0], "skip"], ["skipped"], name="add_skip")
    final = onnx.helper.make_node(
        "DepthToSpace",
        ["skipped"],
        [graph.output[0].name],
        name="pixel_shuffle_skip",
        blocksize=factor,
        mode="DCR",
    )
    gone = {last.name, shuffle.name, resize.name}
    kept = [node for node in graph.node if node.name not in gone]
    del graph.node[:]
    graph.node.extend([*kept, concat, total, final])
    used = {name for node in graph.node for name in node.input}
    left = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    onnx.checker.check_model(model)


def _attribute(node: onnx.NodeProto, name: str) -> object:
    import onnx

    found = [each for each in node.attribute if each.name == name]
    return onnx.helper.get_attribute_value(found[0]) if found else None
