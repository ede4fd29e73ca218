"""Exported models through the house's own paths: tiles, other programs' files, files that are wrong."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from atelier.errors import UserError
from atelier.images import read_image
from atelier.restore import RestorationModel, load_model
from atelier.restore.exported import (
    ExportedFacts,
    ExportedNetwork,
    Session,
    facts_path,
    model_files,
    open_exported,
)
from atelier.restore.memory import free_memory
from exports import export_small, network

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small x2 network as .pt2."""
    return export_small("compact", tmp_path_factory.mktemp("exported") / "net.pt2").files[0]


def doubling(
    path: Path, operator: str = "Resize", channels: int | str = 3, element: int = TensorProto.FLOAT
) -> Path:
    """A hand-written ONNX file without metadata: nearest enlargement by two."""
    ends = [
        helper.make_tensor_value_info(name, element, ["n", channels, f"{name}h", f"{name}w"])
        for name in ("in", "out")
    ]
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    node = helper.make_node(
        operator,
        ["in", "", "scales"],
        ["out"],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    graph = helper.make_graph([node], "doubling", ends[:1], ends[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


def told(**changes: object) -> str:
    port = {"range": [0, 255], "channel_order": "BGR"}
    return json.dumps(
        {"scale": 2, "in_channels": 3, "out_channels": 3, "input": port, "output": port} | changes
    )


def test_tiles_and_channels_are_those_of_the_network(program: Path, tmp_path: Path) -> None:
    net = network("compact")
    exported = load_model(program)
    own = RestorationModel(net, exported.facts, device="cpu")
    generator = np.random.default_rng(0)
    for shape in ((45, 71, 3), (40, 33, 1), (20, 21, 4)):
        picture = generator.random(shape, dtype=np.float32)
        for tile in (None, 16):
            difference = np.abs(exported.restore(picture, tile=tile) - own.restore(picture, tile=tile)).max()
            assert difference < 1e-5
    assert exported.facts.receptive_radius == 4


def test_the_automatic_tile_trusts_the_stated_cost(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(program)
    assert isinstance(model.net, ExportedNetwork)
    assert model.net.stated_cost is not None
    steps: list[int] = []
    picture = np.zeros((200, 200, 3), dtype=np.float32)
    model.restore(picture, tile="auto", on_tile=lambda done, total: steps.append(total))
    few = int(model.net.stated_cost.bytes_per_pixel * 100 * 100)
    monkeypatch.setattr("atelier.restore.tiling.free_memory", lambda device: few)
    model.restore(picture, tile="auto", on_tile=lambda done, total: steps.append(total))
    assert steps[0] == 1
    assert steps[-1] > 4
    assert free_memory(torch.device("cpu")) > few


def test_slow_arithmetic_is_told(program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half = export_small("compact", tmp_path / "half.pt2", precision="fp16").files[0]

    def told() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name.startswith("atelier")]

    load_model(program, device="cpu")
    assert not told()
    load_model(half, device="cpu")
    (line,) = told()
    assert "half.pt2 computes in float16, which is many times slower" in line


def test_the_files_of_a_model_are_those_that_its_runtime_reads(program: Path, tmp_path: Path) -> None:
    assert model_files(program) == [program]
    for suffix in (".param", ".xml"):
        main = tmp_path / f"net{suffix}"
        main.write_text("graph")
        assert model_files(main) == [main]
        main.with_suffix(".bin").write_bytes(b"weights")
        facts_path(main).write_text(
            json.dumps({"files": {"net.bin": {}, "absent.bin": {}, "../other.bin": {}}})
        )
        assert model_files(main) == [main, main.with_suffix(".bin")]
        main.with_suffix(".bin").unlink()
    # Two tensors in one file, a third in a file whose name takes two bytes of length.
    long = "w" * 200
    values = [
        onnx.numpy_helper.from_array(np.full((4, 4), index, np.float32), f"t{index}") for index in range(3)
    ]
    for tensor, location in zip(values, ("weights.data", "weights.data", long), strict=True):
        onnx.external_data_helper.set_external_data(tensor, location)
    graph = helper.make_graph([], "g", [], [], values)
    main = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), str(main))
    assert model_files(main) == [main, tmp_path / "weights.data", tmp_path / long]
    (tmp_path / long).unlink()
    assert model_files(main) == [main, tmp_path / "weights.data"]


def test_a_foreign_file_needs_words(tmp_path: Path) -> None:
    path = doubling(tmp_path / "foreign.onnx")
    with pytest.raises(
        UserError, match=r"scale, channels, value range and .* are missing.*foreign.onnx.json"
    ):
        load_model(path)
    facts_path(path).write_text(told())
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    restored = load_model(path).restore(picture)
    assert np.array_equal(restored, picture.repeat(2, 0).repeat(2, 1))


def test_ranges_order_and_normalisation_reach_the_network() -> None:
    seen: list[torch.Tensor] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    facts = ExportedFacts.model_validate(
        json.loads(told(scale=1, normalisation={"mean": [10, 20, 30], "std": [2, 4, 8]}))
        | {"output": {"range": [-1, 1], "channel_order": "RGB"}}
    )
    result = ExportedNetwork(Session(run, "test"), facts)(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1))
    blue, green, red = (255 - 10) / 2, (127.5 - 20) / 4, (0 - 30) / 8
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([blue, green, red]))
    torch.testing.assert_close(result.flatten(), (torch.tensor([blue, green, red]) + 1) / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "foreign.onnx.json: no JSON"),
        ("[]", "a JSON object is expected"),
        ("{}", "scale: Field required"),
        (told(scale=0), "scale: .* given 0"),
        (told(in_channels=1), "in_channels is 1, the model itself has 3"),
        (told(input={"range": [0, 0], "channel_order": "RGB"}), "same value for black and white"),
        (told(input={"range": [0, 1], "channel_order": "GBR"}), "input.channel_order: .* given 'GBR'"),
    ],
)
def test_wrong_words(tmp_path: Path, text: str, message: str) -> None:
    path = doubling(tmp_path / "foreign.onnx")
    facts_path(path).write_text(text)
    with pytest.raises(UserError, match=message):
        open_exported(path)


def test_an_operator_that_onnxruntime_lacks_is_named(tmp_path: Path) -> None:
    path = doubling(tmp_path / "foreign.onnx", operator="Rezize")
    with pytest.raises(UserError, match="onnxruntime lacks the operator Rezize"):
        open_exported(path)


def test_half_precision_ends_are_cast(tmp_path: Path) -> None:
    path = doubling(tmp_path / "half.onnx", element=TensorProto.FLOAT16)
    facts_path(path).write_text(told(input={"range": [0, 1], "channel_order": "RGB"}))
    assert open_exported(path)(torch.rand(1, 3, 2, 2)).dtype == torch.float32


def test_inputs_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = doubling(tmp_path / "bytes.onnx", element=TensorProto.UINT8)
    with pytest.raises(UserError, match=r"input in is tensor\(uint8\)"):
        open_exported(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "precision of .* was chosen when it was exported"),
        ({"param_key": "params"}, "for weight files"),
        ({"blend_with": ("other.pth", 0.5)}, "for weight files"),
    ],
)
def test_what_is_for_weight_files_alone(program: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model(program, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["torn.onnx", "torn.pt2", "torn.xml"])
def test_torn_files(tmp_path: Path, program: Path, name: str) -> None:
    if name.endswith(".xml"):
        pytest.importorskip("openvino")
        (tmp_path / "torn.bin").write_bytes(b"")
    (tmp_path / name).write_bytes(program.read_bytes()[:300])
    with pytest.raises(UserError, match=name):
        open_exported(tmp_path / name)


def test_openvino_needs_both_files(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "net.xml").write_text("<net/>")
    with pytest.raises(UserError, match=r"needs net.bin beside it"):
        open_exported(tmp_path / "net.xml")


class _Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("harm"),)


def test_a_program_that_would_run_code_is_refused(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = tmp_path / "net.pt2"
    for kind in ("sample inputs", "weight"):
        with zipfile.ZipFile(program) as source, zipfile.ZipFile(changed, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if kind == "sample inputs" and "sample_inputs" in name:
                    content = pickle.dumps(_Harmful())
                if kind == "weight" and name.endswith("weights_config.json"):
                    content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
                target.writestr(name, content)
        with pytest.raises(UserError, match="loading it could run code; refused"):
            load_model(changed)
    assert not (tmp_path / "harm").exists()


def test_a_picture_below_the_least_size(tmp_path: Path) -> None:
    facts = ExportedFacts.model_validate(json.loads(told(least_size=3)))
    with pytest.raises(UserError, match="from 3x3 pixels up, not 9x2"):
        ExportedNetwork(Session(lambda x: x, "test"), facts)(torch.zeros(1, 3, 2, 9))


def test_restored_by_the_command(program: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from atelier.cli.main import app
    from atelier.images import write_image

    write_image(tmp_path / "in.png", np.full((10, 12, 3), 90, dtype=np.uint8))
    words = ["restore", "-m", str(program), "-i", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert read_image(tmp_path / "out.png").pixels.shape == (20, 24, 3)


def test_weights_of_another_export_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    export_small("compact", tmp_path / "a.xml")
    assert open_exported(tmp_path / "a.xml").facts.scale == 2
    beside = tmp_path / "a.bin"
    beside.write_bytes(beside.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"a\.bin is not the file that was exported with .*a\.xml"):
        open_exported(tmp_path / "a.xml")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_graph_of_one_size_restores_any_picture(tmp_path: Path, suffix: str) -> None:
    net = network("compact")
    path = tmp_path / "fixed.onnx"
    torch.onnx.export(
        net, (torch.zeros(1, 3, 16, 20),), path, dynamo=True, external_data=False, verbose=False
    )
    if suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        openvino.save_model(openvino.Core().read_model(path), tmp_path / "fixed.xml", compress_to_fp16=False)
        path = tmp_path / "fixed.xml"
    port = {"range": [0, 1], "channel_order": "RGB"}
    told = {
        "scale": 2,
        "in_channels": 3,
        "out_channels": 3,
        "input": port,
        "output": port,
        "receptive_radius": 4,
    }
    facts_path(path).write_text(json.dumps(told))
    exported = open_exported(path)
    assert exported.facts.size == (16, 20)
    x = torch.rand(2, 3, 33, 47)
    with torch.no_grad():
        assert torch.allclose(exported(x), net(x), atol=1e-5)
    facts_path(path).write_text(json.dumps({**told, "size": [16, 16]}))
    with pytest.raises(UserError, match=r"size is \(16, 16\), the model itself has \(16, 20\)"):
        open_exported(path)
