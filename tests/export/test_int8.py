"""Calibration, quantisation, the search for layers to keep, and the rewritten skip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.archs import SRVGGNetCompact
from atelier.errors import UserError
from atelier.export import calibration
from atelier.export.calibration import _range, activation_ranges, calibration_crops
from atelier.export.int8 import Int8Options, export_int8, runner
from atelier.export.int8_loss import partners_of
from atelier.export.onnx_format import OnnxFormat, to_onnx
from atelier.export.proof import read_picture
from atelier.export.quantise import find_layers, quantised
from atelier.export.skip import concat_nearest_skip
from atelier.export.trace import trace
from atelier.images import from_tensor, write_image
from atelier.restore.exported import facts_path, open_exported
from exports import network, pictures, save_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def graph() -> Callable[[], Any]:
    made = to_onnx(trace(network("compact"), 3, name="compact"), 18).SerializeToString()
    return lambda: onnx.ModelProto.FromString(made)


def test_ranges_are_those_of_the_activations(graph: Callable[[], Any]) -> None:
    x = torch.rand(1, 3, 16, 16)
    found = activation_ranges(graph(), [x], "minmax", 8)
    with torch.no_grad():
        first = network("compact").body[0](x)  # type: ignore[index]
    name = next(node.output[0] for node in graph().graph.node if node.op_type == "Conv")
    assert found[name] == pytest.approx((float(first.min()), float(first.max())), abs=1e-5)
    assert found["data"] == pytest.approx((0.0, float(x.max())))


def test_samples_are_taken_at_even_distances_of_odd_steps(
    graph: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the picture itself, whose values are known; as many of every activation as there is room for."""
    seen: list[Any] = []

    def kept(values: Any, *_: Any) -> tuple[float, float]:
        seen.append(values)
        return 0.0, 1.0

    monkeypatch.setattr(calibration, "_range", kept)
    monkeypatch.setattr(calibration, "_KEPT", 500)
    given = [torch.rand(1, 3, 16, 18), torch.rand(1, 3, 16, 16)]
    activation_ranges(graph(), given, "percentile", 8)
    # 864 and 768 values in two runs with room for 500: every third.
    steps = [max(1, x.numel() * 2 // 500) | 1 for x in given]
    assert steps == [3, 3]
    expected = np.concatenate([x.numpy().ravel()[::step] for x, step in zip(given, steps, strict=True)])
    assert np.array_equal(seen[0], expected)
    assert len(seen) > 6 and all(50 < len(values) < 1000 for values in seen)


def test_an_activation_that_is_not_finite_is_named(graph: Callable[[], Any]) -> None:
    for value in (np.nan, np.inf, -np.inf):
        model = graph()
        convolution = [node for node in model.graph.node if node.op_type == "Conv"][1]
        bias = next(each for each in model.graph.initializer if each.name == convolution.input[2])
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] = value
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        with pytest.raises(UserError, match=rf"--calibration: {convolution.output[0]} is not finite"):
            activation_ranges(model, [torch.rand(1, 3, 16, 16)], "percentile", 8)


def test_methods_clip_as_they_say() -> None:
    values = np.random.default_rng(0).normal(0, 1, 20_000).astype(np.float32)
    values[0] = 40.0
    extremes = float(values.min()), float(values.max())
    assert _range(values, extremes, "minmax", 8)[1] == 40
    assert 3 < _range(values, extremes, "percentile", 8)[1] < 5

    def error(bounds: tuple[float, float]) -> float:
        scale = (bounds[1] - bounds[0]) / 255
        zero = round(-bounds[0] / scale)
        codes = np.clip(np.rint(values / scale) + zero, 0, 255)
        return float(np.square((codes - zero) * scale - values).mean())

    best = error(_range(values, extremes, "mse", 8))
    assert best <= error(extremes)
    assert best <= error((extremes[0], 20.0))
    assert _range(np.float32([1, 2]), (1.0, 2.0), "minmax", 8)[0] == 0


def test_layers_hold_every_convolution_once(graph: Callable[[], Any]) -> None:
    model = graph()
    layers = find_layers(model)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert [each.name for each in layers] == ["1:Conv", "2:Conv", "3:Conv", "4:Conv"]
    assert sorted(kinds[name] for name in layers[-1].nodes) == ["Add", "Conv", "DepthToSpace", "Resize"]
    assert len({name for each in layers for name in each.nodes}) == sum(len(each.nodes) for each in layers)


@pytest.mark.parametrize("bits", [8, 16])
def test_quantised_graphs(graph: Callable[[], Any], bits: int) -> None:
    model = graph() if bits == 8 else to_onnx(trace(network("compact"), 3, name="compact"), 21)
    layers = find_layers(model)
    x = torch.rand(2, 3, 21, 18)
    ranges = activation_ranges(model, [x], "minmax", bits)
    small = quantised(model, ranges, layers, bits)
    error = (runner(small)(x) - runner(model)(x)).abs().max()
    assert 0 < float(error) < (0.05 if bits == 8 else 0.02)
    weights = {each.name: each for each in small.graph.initializer}
    scales = [node for node in small.graph.node if node.op_type == "DequantizeLinear"]
    kinds = [weights[node.input[2]].data_type for node in scales if node.input[0] in weights]
    assert kinds.count(onnx.TensorProto.INT8) == 4
    by_channel = [
        node for node in scales if node.input[0] in weights and len(weights[node.input[0]].dims) == 4
    ]
    assert all(weights[n.input[1]].dims[0] == weights[n.input[0]].dims[0] for n in by_channel)
    # Symmetric weights: no zero point but 0.
    assert all(not onnx.numpy_helper.to_array(weights[node.input[2]]).any() for node in by_channel)
    activations = {weights[n.input[2]].data_type for n in small.graph.node if n.op_type == "QuantizeLinear"}
    assert activations == {onnx.TensorProto.UINT8 if bits == 8 else onnx.TensorProto.UINT16}
    none = quantised(model, ranges, [], bits)
    assert torch.equal(runner(none)(x), runner(model)(x))


def test_the_concatenated_skip_is_the_same_network(graph: Callable[[], Any]) -> None:
    model = graph()
    x = torch.rand(2, 3, 9, 14)
    before = runner(model)(x)
    concat_nearest_skip(model)
    kinds = [node.op_type for node in model.graph.node]
    assert "Resize" not in kinds
    assert kinds[-3:] == ["Concat", "Add", "DepthToSpace"]
    assert torch.equal(runner(model)(x), before)
    with pytest.raises(UserError, match="--concat-skip: this network does not end in"):
        concat_nearest_skip(model)


def test_the_skip_is_an_option_of_the_format() -> None:
    traced = trace(network("grey"), 1, name="grey")
    graph = OnnxFormat(concat_skip=True).graph(traced)
    x = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(runner(graph)(x), network("grey")(x), atol=1e-5)


def _own_answers(folder: Path) -> dict[str, dict[str, Path]]:
    """Pairs whose truth is what the float32 network makes: whatever int8 changes is a loss."""
    pairs: dict[str, dict[str, Path]] = {"validation": {}, "validation_lq": {}}
    for path in pictures():
        lq = read_picture(path, 3)[None, :, 40:88, 40:100]
        with torch.no_grad():
            gt = network("compact")(lq).clamp(0, 1)
        for kind, values in (("validation", gt), ("validation_lq", lq)):
            (folder / kind).mkdir(exist_ok=True)
            pairs[kind][path.stem] = folder / kind / f"{path.stem}.png"
            write_image(pairs[kind][path.stem], from_tensor(values[0], "uint8"))
    return pairs


def _export(tmp_path: Path, **options: Any) -> tuple[Path, Any, list[str]]:
    said: list[str] = []
    output = tmp_path / "net.onnx"
    settings = Int8Options(pictures(), **options)
    _, report = export_int8(save_network("compact", tmp_path), output, settings, pictures(), say=said.append)
    return output, report, said


def test_a_file_with_its_report(tmp_path: Path) -> None:
    output, report, _ = _export(tmp_path, keep_ends=True)
    assert report.kept == ("1:Conv", "4:Conv")
    told = json.loads(facts_path(output).read_text())
    assert told["precision"] == "int8"
    assert told["quantisation"]["int8"]["psnr"] == report.int8.psnr
    assert len(told["quantisation"]["sensitivity"]) == report.layers == 4
    assert all(error > 0 for error in report.sensitivity.values())
    assert "worst layers, each alone in int8" in "\n".join(report.lines())
    assert "CALIBRATION" in "\n".join(report.lines())
    assert report.int8.to_float is not None
    assert report.int8.to_float > 30
    assert report.bytes_float32 > 0 < report.milliseconds_int8
    net = open_exported(output)
    assert net(torch.rand(1, 3, 9, 11)).shape == (1, 3, 18, 22)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["compact.pth", "net.onnx", "net.onnx.json"]


def test_layers_are_kept_until_the_loss_is_small_enough(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range far too small spoils one layer."""
    from atelier.export import int8

    ranges = int8.activation_ranges

    def spoilt(model: Any, *rest: Any) -> Any:
        found = ranges(model, *rest)
        conv = [node for node in model.graph.node if node.op_type == "Conv"][1]
        low, high = found[conv.output[0]]
        found[conv.output[0]] = (low / 1000, high / 1000)
        return found

    pairs = _own_answers(tmp_path_factory.mktemp("pairs"))
    _, clean, _ = _export(tmp_path, **pairs)
    monkeypatch.setattr(int8, "activation_ranges", spoilt)
    output, report, said = _export(tmp_path, max_drop=clean.drop, **pairs)
    assert 0 < report.drop <= clean.drop
    assert report.kept[0] == "2:Conv"
    assert max(report.sensitivity, key=lambda name: report.sensitivity[name]) == "2:Conv"
    assert any("2:Conv in float32 (1 of 4)" in line for line in said)
    assert "2 validation pictures" in report.lines()[1]
    assert output.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "entropy"}, "--calibrate entropy: allowed are percentile, mse, minmax"),
        ({"activations": 4}, "--activations 4: allowed are 8 and 16"),
        ({"max_drop": 0.0}, "--max-drop 0.0: a number of dB above 0"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Int8Options(pictures(), **options)


def test_inputs_may_carry_the_scale_in_their_names() -> None:
    def below(root: str, *names: str) -> dict[str, Path]:
        return {name: Path(root, f"{name}.png") for name in names}

    true, given = below("gt", "A/1", "B/1"), below("lq", "B/1", "A/1x2", "A/2")
    assert partners_of(true, given, 2) == [Path("lq/A/1x2.png"), Path("lq/B/1.png")]
    with pytest.raises(UserError, match=r"no picture for A/1: .* \(A/1x3.png\)"):
        partners_of(true, given, 3)


def test_a_limit_that_cannot_be_kept_writes_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pairs = _own_answers(tmp_path_factory.mktemp("pairs"))
    with pytest.raises(UserError, match=r"--max-drop 1e-09: no layer can be int8"):
        _export(tmp_path, max_drop=1e-9, **pairs)
    assert [each.name for each in tmp_path.iterdir()] == ["compact.pth"]


def test_networks_of_scale_one_need_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --validation and --validation-lq"):
        export_int8(save_network("dncnn", tmp_path), tmp_path / "a.onnx", Int8Options(pictures()), pictures())


def test_each_picture_gives_its_share_of_the_crops(tmp_path: Path) -> None:
    """Of many pictures those at even distances, the last ones too; of few all, about equally often."""
    paths = [tmp_path / f"{level:03d}.png" for level in range(100)]
    for level, path in enumerate(paths):
        write_image(path, np.full((20, 20, 3), level, np.uint8))
    for count in (3, 20, 25, 32, 40, 63, 100):
        levels = [round(255 * float(each.mean())) for each in calibration_crops(paths[:count], 3)]
        shares = [levels.count(level) for level in range(count)]
        assert len(levels) == 32 and max(shares) - min(shares) <= 1
        used = [level for level, share in enumerate(shares) if share]
        assert np.diff(used).max(initial=1) <= max(1, -(-count // 32)) and used[-1] == count - 1


def test_pictures_that_are_too_small_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "tiny.png", np.zeros((8, 8, 3), np.uint8))
    said: list[str] = []
    crops = calibration_crops([*pictures(), tmp_path / "tiny.png"], 3, (40, 64), say=said.append)
    assert 16 <= len(crops) < 32
    assert said == ["--calibration: smaller than 64x40 and left out: tiny.png (1 in all)"]


def test_ends_of_a_network_that_has_nothing_else(tmp_path: Path) -> None:
    net = SRVGGNetCompact(num_feat=4, num_conv=0, upscale=2)
    torch.save(net.state_dict(), tmp_path / "two.pth")
    with pytest.raises(UserError, match="--keep-ends: the network has only 2 layers"):
        export_int8(
            tmp_path / "two.pth", tmp_path / "a.onnx", Int8Options(pictures(), keep_ends=True), pictures()
        )
    assert not (tmp_path / "a.onnx").exists()


def test_crops_are_spread_and_of_one_size() -> None:
    crops = calibration_crops(pictures(), 3, (40, 64))
    assert {tuple(each.shape) for each in crops} == {(1, 3, 40, 64)}
    assert len({float(each.sum()) for each in crops}) > len(crops) // 2
    with pytest.raises(UserError, match="none of the 2 pictures has the 9000x9000"):
        calibration_crops(pictures(), 3, (9000, 9000))
