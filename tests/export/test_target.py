"""Folders for devices: what is in them, what is said of budgets and operators."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.cli.main import main
from atelier.errors import UserError
from atelier.export.int8 import runner
from atelier.export.target import peak_activations, prepare_target
from atelier.export.target_options import find_target
from atelier.files import sha256_of
from atelier.restore.exported import open_exported
from exports import network, pictures, save_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def _prepare(tmp_path: Path, name: str = "qcs8550", source: str = "compact", **options: Any) -> list[str]:
    weights = tmp_path / f"{source}.pth"
    if not weights.exists():
        save_network(source, tmp_path)
    settings = {"size": "24x40", **options}
    prepared = prepare_target(weights, tmp_path / "device", name, pictures(), pictures(), **settings)
    over = [line for line in prepared.lines if line.startswith("  over budget: ")]
    assert over == ([f"  over budget: {', '.join(prepared.over)}"] if prepared.over else [])
    return list(prepared.lines)


def test_a_folder_for_the_tool_chain(tmp_path: Path) -> None:
    lines = _prepare(tmp_path, concat_skip=True)
    folder = tmp_path / "device"
    model = onnx.load(folder / "model.onnx")
    given = model.graph.input[0].type.tensor_type.shape.dim
    assert [each.dim_value for each in given] == [1, 3, 24, 40]
    kinds = {node.op_type for node in model.graph.node}
    assert kinds - {"QuantizeLinear", "DequantizeLinear"} == {
        "Add",
        "Concat",
        "Conv",
        "DepthToSpace",
        "PRelu",
    }
    # Every activation that a node takes comes out of a DequantizeLinear: nothing is left to float32.
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    inside = [node for node in model.graph.node if not node.op_type.endswith("Linear")]
    assert {made[node.input[0]] for node in inside} == {"DequantizeLinear"}
    listed = (folder / "input_list.txt").read_text().split()
    raw = np.fromfile(folder / listed[0], "<f4").reshape(1, 3, 24, 40)
    assert 0 <= raw.min() < raw.max() <= 1
    x = torch.from_numpy(raw)
    with torch.no_grad():
        expected = network("compact")(x)
    assert float((runner(onnx.load(folder / "model_float.onnx"))(x) - expected).abs().max()) < 1e-5
    assert float((runner(model)(x) - expected).abs().max()) < 0.1
    readme = (folder / "README.md").read_text()
    assert "Untried" in readme
    assert "qairt-converter --input_network model.onnx" in readme
    assert "not run here: the device" in readme
    report = json.loads((folder / "report.json").read_text())
    assert report["measured"]["parameters"] == sum(each.numel() for each in network("compact").parameters())
    assert report["measured"]["file_bytes"] == (folder / "model.onnx").stat().st_size
    assert report["size"] == [24, 40]
    assert report["over_budget"] == []
    for name, precision in (("model.onnx", "int8"), ("model_float.onnx", "fp32")):
        told: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        inside = {each.key: each.value for each in onnx.load(folder / name).metadata_props}
        assert {**json.loads(inside["atelier"]), "files": told["files"]} == told
        assert (told["precision"], told["size"]) == (precision, [24, 40])
        assert told["files"] == {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        }
    assert any("parameters" in line and "within 307,000" in line for line in lines)
    assert any("not measured" in line and "33" in line for line in lines)
    assert not any("over budget" in line for line in lines)


def _targets(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yml"
    path.write_text(text)
    return path


def test_targets_of_ones_own(tmp_path: Path) -> None:
    mine = _targets(
        tmp_path,
        "small:\n  extends: qcs8550\n  raw_layout: NHWC\n  budget: {parameters: 100, macs: 7}\n"
        "plain:\n  description: convolutions alone\n  size: 8x8\n  operators: [Conv, Add]\n",
    )
    lines = _prepare(tmp_path, "small", targets=mine)
    assert any("parameters" in line and "OVER 100" in line for line in lines)
    assert any("macs" in line and "OVER 7" in line for line in lines)
    assert "  over budget: parameters, macs" in lines
    assert any("file bytes" in line and "within 50,000,000" in line for line in lines)
    raw = np.fromfile(tmp_path / "device" / "calibration" / "000.raw", "<f4").reshape(24, 40, 3)
    # Neighbours within a channel are more alike than channels are.
    assert np.abs(np.diff(raw[..., 0], axis=1)).mean() < np.abs(raw[..., 0] - raw[..., 2]).mean()
    with pytest.raises(UserError, match=r"plain does not run the operators DepthToSpace, PRelu, Resize that"):
        prepare_target(
            tmp_path / "compact.pth", tmp_path / "other", "plain", pictures(), pictures(), targets=mine
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "qcs855", "unknown target 'qcs855'; allowed: qcs8550; did you mean 'qcs8550'"),
        ("a: {size: 8x8}", "a", "a: description: Field required; operators: Field required"),
        ("a: {extends: b}", "a", "extends 'b', which is no other target"),
        ("a: {extends: b}\nb: {extends: a}", "a", "which is no other target"),
        ("a: {extends: qcs8550, size: small}", "a", "size: .*given 'small'"),
        ("- a", "a", "names of targets with their settings"),
        ("a: [", "a", "no YAML"),
    ],
)
def test_targets_that_cannot_be(tmp_path: Path, text: str | None, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_target(name, _targets(tmp_path, text) if text else None)


def test_a_shipped_target_may_be_changed_under_its_name(tmp_path: Path) -> None:
    mine = _targets(tmp_path, "qcs8550: {extends: qcs8550, size: 64x64}")
    assert find_target("qcs8550", mine).size == "64x64"
    assert find_target("qcs8550", mine).operators == find_target("qcs8550").operators


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="writes a new folder"):
        _prepare(tmp_path)
    assert [each.name for each in (tmp_path / "device").iterdir()] == ["mine.txt"]


def test_braces_that_mean_nothing_leave_no_folder(tmp_path: Path) -> None:
    mine = _targets(tmp_path, 'a: {extends: qcs8550, commands: ["run {file}"]}')
    with pytest.raises(UserError, match=r"'run \{file\}': allowed in braces are model"):
        _prepare(tmp_path, "a", targets=mine)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["compact.pth", "mine.yml"]


def test_peak_memory_counts_what_lives_together() -> None:
    """x (1x1x2x2 = 4) lives to the end; a (4) and b (4) follow each other: 12 at the most, 8 without the long life."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [1, 1, 2, 2]) for name in ("x", "y")]

    def peak(last: str) -> int:
        nodes = [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Neg", ["a"], ["b"]),
            helper.make_node("Add", ["b", last], ["y"]),
        ]
        return peak_activations(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])))

    assert peak("x") == 12
    assert peak("b") == 8


def test_windows_at_one_size(tmp_path: Path) -> None:
    listed = (
        "Add, Cast, Concat, Conv, DepthToSpace, Div, Gather, Gelu, Gemm, LayerNormalization, MatMul, Mul, Reshape, "
        "Slice, Softmax, Squeeze, Sub, TopK, Transpose, Unsqueeze"
    )
    mine = _targets(tmp_path, f"all:\n  description: all\n  size: 24x40\n  operators: [{listed}]\n")
    lines = _prepare(tmp_path, "all", "swinir", targets=mine, activations=16)
    assert any("int8 to float32" in line for line in lines)
    assert open_exported(tmp_path / "device" / "model_float.onnx").facts.size == (24, 40)


def test_gelu_takes_its_own_opset_where_the_target_runs_it(tmp_path: Path) -> None:
    said: list[str] = []
    listed = ", ".join(each for each in find_target("qcs8550").operators if each != "Gelu")
    mine = _targets(
        tmp_path,
        "new: {extends: qcs8550, size: 24x40}\n"
        f"old: {{extends: qcs8550, size: 24x40, operators: [{listed}]}}",
    )
    with pytest.raises(UserError, match=r"old does not run the operators Erf that SwinIR"):
        _prepare(tmp_path, "old", "swinir", targets=mine)
    _prepare(tmp_path, "new", "swinir", targets=mine, say=said.append)
    assert said[0].startswith("opset 20 in place of 18: new runs Gelu")
    for name in ("model.onnx", "model_float.onnx"):
        model = onnx.load(tmp_path / "device" / name)
        assert model.opset_import[0].version == 20
        kinds = {node.op_type for node in model.graph.node}
        assert "Gelu" in kinds and "Erf" not in kinds
    assert json.loads((tmp_path / "device" / "report.json").read_text())["opset"] == 20


def test_over_budget_is_exit_code_one_with_the_folder_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = _targets(tmp_path, "small: {extends: qcs8550, size: 24x40, budget: {parameters: 100}}")
    calibration = tmp_path / "lq"
    calibration.mkdir()
    for picture in pictures():
        shutil.copy(picture, calibration)
    arguments = ["export", str(save_network("compact", tmp_path)), "--calibration", str(calibration)]
    arguments += ["--targets", str(mine), "--target"]
    for name, code in (("small", 1), ("qcs8550", 0)):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, name, "--size", "24x40", "-o", str(tmp_path / name)])
        assert ended.value.code == code
        assert ("over budget: parameters" in capsys.readouterr().out) == bool(code)
        assert (tmp_path / name / "model.onnx").is_file()
