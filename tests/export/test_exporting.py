"""Every network of the house leaves through one door; what comes out is the same network, or nothing comes out."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from atelier.archs import load_network
from atelier.errors import RunStopped, UserError
from atelier.export import export_model
from atelier.export.base import find_format
from atelier.files import sha256_of
from atelier.restore.exported import ExportedNetwork, facts_path, open_exported
from atelier.restore.memory import Cost
from exports import export_small, network, pictures, save_network
from support import SHARED

Exports = Callable[[str, str], Path]
#: One window or less, padded, one pixel; batches of one, two and three.
SIZES = [(1, 12, 20), (2, 7, 9), (1, 1, 1), (3, 33, 21), (1, 4, 4)]


def disagreement(path: Path, name: str, sizes: list[tuple[int, int, int]] = SIZES) -> float:
    exported, net = open_exported(path, "cpu"), network(name)
    worst = 0.0
    for batch, height, width in sizes:
        x = torch.rand(batch, exported.facts.in_channels, height, width)
        with torch.no_grad():
            worst = max(worst, float((exported(x) - net(x)).abs().max()))
    return worst


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_convolution_chain_at_any_size(exported: Exports, suffix: str) -> None:
    assert disagreement(exported("compact", suffix), "compact") < 1e-5


def test_windows_at_any_size(exported: Exports) -> None:
    assert disagreement(exported("swinir", ".onnx"), "swinir") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("name", ["grey", "swinir", "elsa", "rrdb", "dncnn", "msrresnet"])
def test_every_network_in_every_format(exported: Exports, name: str, suffix: str) -> None:
    path = exported(name, suffix)
    least = open_exported(path, "cpu").facts.least_size
    # The tracer cannot rule out half a pixel where squares of 2x2 become channels; runtimes have no such doubt.
    assert least == (3 if name == "rrdb" else 1)
    sizes = [size for size in SIZES if min(size[1:]) >= least]
    assert disagreement(path, name, sizes) < (5e-5 if name == "msrresnet" else 1e-5)


def test_the_json_beside_it_says_all_that_a_runner_needs(exported: Exports) -> None:
    path = exported("swinir", ".onnx")
    told = json.loads(facts_path(path).read_text())
    assert told["input"] == {
        "name": "data",
        "layout": "NCHW",
        "dtype": "float32",
        "range": [0, 1],
        "channel_order": "RGB",
    }
    assert told["output"]["name"] == "output"
    assert (told["scale"], told["in_channels"], told["out_channels"]) == (2, 3, 3)
    assert (told["size_multiple"], told["receptive_radius"]) == (4, None)
    assert (told["opset"], told["precision"]) == (18, "fp32")
    assert told["normalisation"] == {"mean": [0.0], "std": [1.0]}
    assert told["source"]["sha256"] == sha256_of(path.with_name("swinir.pth"))
    assert told["files"][path.name]["sha256"] == sha256_of(path)
    assert {"atelier", "torch", "onnx", "onnxruntime"} <= set(told["versions"])
    assert told["parameters"] == sum(each.numel() for each in network("swinir").parameters())
    assert told["memory"]["bytes_per_pixel"] > 8 * 4


def test_the_proof_has_three_sizes_and_two_batches(exported: Exports) -> None:
    proof = json.loads(facts_path(exported("compact", ".onnx")).read_text())["proof"]
    sizes = {tuple(run["size"]) for run in proof["runs"]}
    assert len(sizes) >= 3
    assert any(height % 2 and width % 2 for height, width in sizes)
    assert {run["batch"] for run in proof["runs"]} == {1, 2}
    assert all(0 <= run["mean"] <= run["largest"] <= proof["tolerance"]["largest"] for run in proof["runs"])
    assert "onnxruntime" in proof["runtime"]


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_the_file_itself_holds_the_facts(exported: Exports, tmp_path: Path, suffix: str) -> None:
    path = exported("compact", suffix)
    for part in path.parent.glob(f"{path.stem}.*"):
        if part.suffix not in (".json", ".pth"):
            (tmp_path / part.name).write_bytes(part.read_bytes())
    facts = open_exported(tmp_path / path.name).facts
    assert (facts.architecture, facts.scale, facts.receptive_radius) == ("SRVGGNetCompact", 2, 4)


def test_onnx_operators_are_those_that_runtimes_read(exported: Exports) -> None:
    import onnx

    model = onnx.load(exported("compact", ".onnx"), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert sorted(set(kinds)) == ["Add", "Conv", "DepthToSpace", "PRelu", "Resize"]
    attributes = {
        node.op_type: {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        for node in model.graph.node
    }
    assert attributes["DepthToSpace"]["mode"] == b"CRD"
    resize = attributes["Resize"]
    assert resize["mode"] == b"nearest"
    assert resize["coordinate_transformation_mode"] == b"asymmetric"
    assert resize["nearest_mode"] == b"floor"
    slopes = {node.input[1] for node in model.graph.node if node.op_type == "PRelu"}
    shapes = {each.name: list(each.dims) for each in model.graph.initializer}
    assert all(shapes[slope] == [8, 1, 1] for slope in slopes)
    assert all(each.data_location == onnx.TensorProto.DEFAULT for each in model.graph.initializer)
    ends = [*model.graph.input, *model.graph.output]
    assert [each.name for each in ends] == ["data", "output"]
    assert [each.dim_param for each in ends[0].type.tensor_type.shape.dim] == ["batch", "", "height", "width"]


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".xml", marks=pytest.mark.slow)])
def test_half_precision_halves_the_file_and_keeps_the_ends(tmp_path: Path, suffix: str) -> None:
    made = export_small("compact", tmp_path / f"half{suffix}", precision="fp16")
    assert made.proof.half_arithmetic is not None
    assert 0 < made.proof.half_arithmetic.largest < made.proof.tolerance.largest
    worst = max(run.largest for run in made.proof.runs)
    assert 1e-6 < worst < 1e-2
    assert json.loads(facts_path(made.files[0]).read_text())["precision"] == "fp16"
    x = torch.rand(1, 3, 9, 11)
    assert open_exported(made.files[0])(x).dtype == torch.float32


def test_half_precision_of_swinir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fp16 is not safe for SwinIR: .*; use fp32$"):
        export_small("swinir", tmp_path / "half.onnx", precision="fp16")
    assert not list(tmp_path.glob("half*"))


class _Off(ExportedNetwork):
    """A runtime with a fault."""

    change: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return type(self).change(super().forward(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y + 2e-4, "not the same network: 6 runs"),
        (lambda y: y.flip(1), "not the same network"),
        (lambda y: torch.where(y == y.max(), torch.nan, y), "NaN or infinity for 1 of"),
        (lambda y: y[..., :-1], r"gives \(1, 3, 96, 127\), PyTorch \(1, 3, 96, 128\)"),
    ],
    ids=["shifted", "channels", "nan", "shape"],
)
def test_another_network_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor], message: str
) -> None:
    from atelier.export import exporting

    def open_wrongly(path: Path, device: str) -> ExportedNetwork:
        right = open_exported(path, device)
        wrong = _Off(right.session, right.facts)
        monkeypatch.setattr(_Off, "change", staticmethod(change), raising=False)
        return wrong

    monkeypatch.setattr(exporting, "open_exported", open_wrongly)
    source = save_network("compact", tmp_path)
    output = tmp_path / "net.pt2"
    output.write_bytes(b"older")
    with pytest.raises(RunStopped, match=message):
        export_model(source, output, find_format(output, None, {}), pictures())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["compact.pth", "net.pt2"]
    assert output.read_bytes() == b"older"


def test_an_overflow_in_half_precision_is_an_error_of_its_own(tmp_path: Path) -> None:
    """The runtime computes in float32 on this processor and would not show it."""
    source = save_network("compact", tmp_path)
    file = torch.load(source, weights_only=True)
    for layer, factor in (("0", 2e3), ("2", 2e3), ("4", 1 / 4e6)):
        file["params"][f"body.{layer}.weight"].mul_(factor)
    torch.save(file, source)
    output = tmp_path / "net.onnx"
    with pytest.raises(RunStopped, match=r"float16 arithmetic.*NaN or infinity.*--precision fp32"):
        export_model(source, output, find_format(output, None, {}), pictures(), precision="fp16")
    assert not output.exists()


@pytest.mark.parametrize(
    ("output", "kind", "options", "message"),
    [
        ("net.tflite", None, {}, r"no export format is known by '\.tflite'; allowed: .*\.onnx"),
        ("net.onnx", "openvin", {}, "unknown export format 'openvin'; did you mean 'openvino'"),
        ("net.onnx", "openvino", {}, r"a file of --format openvino is called \*.xml"),
        ("net.pt2", None, {"opset": 18}, "format torch has no such option"),
        ("net.onnx", None, {"opset": 9}, "opset 9"),
    ],
)
def test_wrong_formats(output: str, kind: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_format(Path(output), kind, options)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("atelier.export.base.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs openvino, onnx, onnxscript: pip install 'atelier\[export\]'"):
        export_small("compact", tmp_path / "net.xml")


def test_a_place_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    source = save_network("compact", tmp_path)
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        export_model(source, tmp_path / "net.onnx", find_format(Path("a.onnx"), None, {}), pictures())
    with pytest.raises(UserError, match="export the weight file"):
        export_model(tmp_path / "b.onnx", tmp_path / "c.onnx", find_format(Path("a.onnx"), None, {}), [])


def test_channels_that_are_no_picture(tmp_path: Path) -> None:
    from atelier.archs import DnCNN, save_weights

    net = DnCNN(in_nc=4, out_nc=4, nc=4, nb=3)
    options = net.options.model_dump(mode="json", exclude={"type"})
    save_weights(tmp_path / "four.pth", {"params": net.state_dict()}, {"arch": "DnCNN", "options": options})
    output = tmp_path / "four.pt2"
    with pytest.raises(UserError, match="takes 4 channels"):
        export_model(tmp_path / "four.pth", output, find_format(output, None, {}), pictures())


def test_an_operator_that_onnx_lacks_is_named() -> None:
    from atelier.export.onnx_format import to_onnx
    from atelier.export.trace import trace

    class Waves(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(UserError, match=r"ONNX lacks the operator prims.bessel_j0"):
        to_onnx(trace(Waves(), 3, name="Waves"), 18)


def test_what_depends_on_the_size_is_refused() -> None:
    from atelier.export.trace import trace

    class Choosy(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.mean() > 0 else x

    with pytest.raises(UserError, match="Choosy cannot be exported with open height and width"):
        trace(Choosy(), 3, name="Choosy")


def test_the_cost_of_a_pixel_is_the_files(exported: Exports) -> None:
    net = open_exported(exported("compact", ".onnx"))
    assert isinstance(net.stated_cost, Cost)
    # At least the 8 features, the 12 channels before the shuffle and the picture itself are alive at some time.
    assert net.stated_cost.bytes_per_pixel >= 4 * 12


@pytest.mark.slow
def test_the_published_network(tmp_path: Path) -> None:
    weights = SHARED / "weights" / "realesr-animevideox2v3.pth"
    if not weights.is_file():
        pytest.skip(f"{weights.name} is not there")
    for name, limit in (("net.onnx", 5e-6), ("net.xml", 5e-6), ("net.pt2", 5e-6)):
        made = export_model(weights, tmp_path / name, find_format(Path(name), None, {}), pictures())
        assert max(run.largest for run in made.proof.runs) < limit
    half = export_model(
        weights,
        tmp_path / "half.onnx",
        find_format(Path("half.onnx"), None, {}),
        pictures(),
        precision="fp16",
    )
    assert half.files[0].stat().st_size < 0.55 * (tmp_path / "net.onnx").stat().st_size
    assert load_network(weights).facts.scale == 2


@pytest.mark.parametrize(("first", "second"), [(".param", ".xml"), (".xml", ".param")])
def test_second_files_of_another_format_stay(tmp_path: Path, first: str, second: str) -> None:
    (tmp_path / f"a{first}").write_text("main")
    (tmp_path / "a.bin").write_text("weights")
    with pytest.raises(UserError, match=rf"a{second} would write over a\.bin, which belongs to .*a{first}"):
        export_small("compact", tmp_path / f"a{second}")
    assert (tmp_path / "a.bin").read_text() == "weights"


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_files_that_may_not_grow(tmp_path: Path, suffix: str) -> None:
    """As on a full disk; torch's own writer would abort the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save_network("compact", tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(
            UserError, match=rf"cannot write .*a{re.escape(suffix)}: the file system allows no"
        ):
            export_model(
                tmp_path / "compact.pth",
                tmp_path / f"a{suffix}",
                find_format(Path(f"a{suffix}"), None, {}),
                pictures(),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [each.name for each in tmp_path.iterdir()] == ["compact.pth"]


def test_openvino_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")

    def save_model(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", save_model)
    with pytest.raises(UserError, match=r"cannot write a\.xml: RuntimeError: basic_ios"):
        export_small("compact", tmp_path / "a.xml")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"cannot write .*a\.xml: the disk is full"):
        export_small("compact", tmp_path / "a.xml")
