"""ncnn files: what they hold, that they compute the network, and what is said where they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.archs import RRDBNet
from atelier.errors import RunStopped, UserError
from atelier.export.base import FORMATS, find_format
from atelier.export.exporting import export_model
from atelier.export.ncnn_format import renamed_ends
from atelier.export.ncnn_unshuffle import GatheredRRDBNet
from atelier.export.trace import trace
from atelier.restore import load_model
from atelier.restore.exported import facts_path, open_exported
from exports import export_small, network, pictures, save_network

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

Exports = Callable[[str, str], Path]


def test_compact_at_any_size(exported: Exports) -> None:
    net, reference = open_exported(exported("compact", ".param"), "cpu"), network("compact")
    for batch, height, width in ((1, 12, 20), (3, 7, 9), (1, 1, 1)):
        x = torch.rand(batch, 3, height, width)
        # Another order of strides: ncnn's own matrix type would read it wrongly.
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            with torch.no_grad():
                assert float((net(given) - reference(x)).abs().max()) < 1e-5


def test_names_and_layout_are_the_fields(exported: Exports) -> None:
    path = exported("compact", ".param")
    lines = path.read_text().splitlines()
    layers = [line.split() for line in lines[2:]]
    assert lines[0] == "7767517"
    assert [int(each) for each in lines[1].split()] == [
        len(layers),
        len({b for w in layers for b in _given(w)}),
    ]
    assert layers[0][0] == "Input"
    assert _given(layers[0]) == ["data"]
    assert _given(layers[-1]) == ["output"]
    assert not {"in0", "out0"} & {word for words in layers for word in words}
    convolutions = [words for words in layers if words[0] == "Convolution"]
    assert len(convolutions) == 4
    # A flag and weights in float32, padding none: 4 bytes a number.
    net = network("compact")
    numbers = sum(each.numel() for each in net.parameters()) + len(convolutions)
    assert path.with_suffix(".bin").stat().st_size == 4 * numbers


def _given(words: list[str]) -> list[str]:
    start = 4 + int(words[2])
    return words[start : start + int(words[3])]


def test_the_proof_asks_for_half_arithmetic_too(exported: Exports) -> None:
    told = json.loads(facts_path(exported("compact", ".param")).read_text())
    proof = told["proof"]
    assert len(proof["half_runtime"]) == len(proof["runs"]) == 6
    assert proof["half_arithmetic"]["largest"] > 1e-6
    assert proof["half_problem"] is None
    assert told["open_axes"] == ["height", "width"]


def test_half_storage_halves_the_weights(exported: Exports, tmp_path: Path) -> None:
    made = export_small("compact", tmp_path / "half.param", precision="fp16")
    whole = exported("compact", ".param").with_suffix(".bin").stat().st_size
    assert 0.4 * whole < made.files[1].stat().st_size < 0.6 * whole
    assert 1e-6 < max(run.largest for run in made.proof.runs) < 1e-2


@pytest.mark.parametrize(("precision", "stops"), [("fp32", False), ("fp16", True)])
def test_an_overflow_in_half_precision(tmp_path: Path, precision: str, stops: bool) -> None:
    source = save_network("compact", tmp_path)
    file = torch.load(source, weights_only=True)
    for layer, factor in (("0", 2e3), ("2", 2e3), ("4", 1 / 4e6)):
        file["params"][f"body.{layer}.weight"].mul_(factor)
        file["params"][f"body.{layer}.bias"].zero_()
    torch.save(file, source)
    output = tmp_path / "net.param"
    kind = find_format(output, None, {})
    if stops:
        with pytest.raises(RunStopped, match="NaN or infinity"):
            export_model(source, output, kind, pictures(), precision="fp16")
        assert not list(tmp_path.glob("net.*"))
    else:
        made = export_model(source, output, kind, pictures())
        assert "pictures turn black" in (made.proof.half_problem or "")
        assert any("warning" in line for line in made.proof.lines())


@pytest.mark.parametrize("name", ["swinir", "elsa"])
def test_windows_are_refused_before_any_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("atelier.export.exporting.trace", None)
    with pytest.raises(
        UserError, match=r"ncnn has no form for SwinIR .* multiple of 4 .*export it to ONNX or"
    ):
        export_small(name, tmp_path / "net.param")
    assert [each.name for each in tmp_path.iterdir()] == [f"{name}.pth"]


class _OnSizes(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.index_select(2, torch.arange(x.shape[2] // 2))


def test_steps_on_sizes_are_refused_before_pnnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pnnx

    traced = trace(_OnSizes(), 3, name="halves")
    metadata = {"architecture": "halves", "in_channels": 3, "size_multiple": 1}
    monkeypatch.setattr(pnnx, "EXEC_PATH", "/nowhere")
    with pytest.raises(UserError, match=r"no form for halves .*computes with the size .*\(.*Range.*\)"):
        FORMATS.options_class("ncnn")().write(traced, tmp_path / "net.param", metadata, "fp32")
    assert not list(tmp_path.iterdir())


def test_a_converter_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pnnx

    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\nexec sleep 60\n")
    endless.chmod(0o755)
    monkeypatch.setattr(pnnx, "EXEC_PATH", str(endless))
    monkeypatch.setattr("atelier.export.ncnn_format._PATIENCE", 0.3)
    with pytest.raises(UserError, match=r"pnnx found none in 0.005 minutes and was stopped"):
        export_small("compact", tmp_path / "net.param")
    assert not list(tmp_path.glob("net.*"))


@pytest.mark.parametrize("name", ["rrdb", pytest.param("rrdb1", marks=pytest.mark.slow)])
def test_squares_as_channels_at_any_size(exported: Exports, name: str) -> None:
    net, reference = open_exported(exported(name, ".param"), "cpu"), network(name)
    least = net.facts.least_size
    assert least == {"rrdb": 2, "rrdb1": 4}[name]
    for height, width in ((8, 12), (17, 30), (13, 11), (6, 7), (least, least + 1)):
        x = torch.rand(1, 3, height, width)
        with torch.no_grad():
            assert float((net(x) - reference(x)).abs().max()) < 1e-5
    with pytest.raises(UserError, match=f"from {least}x{least} pixels up"):
        net(torch.rand(1, 3, least - 1, 8))


def test_squares_as_channels_need_as_many_channels_out() -> None:
    with pytest.raises(UserError, match="no form for RRDBNet x2 from 3 to 1 channels"):
        GatheredRRDBNet(RRDBNet(num_out_ch=1, scale=2, num_feat=8, num_block=1, num_grow_ch=4))


def test_restoring_in_tiles_is_restoring_at_once(exported: Exports) -> None:
    model = load_model(exported("compact", ".param"))
    picture = np.random.default_rng(0).integers(0, 256, (40, 37, 3), np.uint8)
    whole = model.restore(picture, tile=0)
    assert whole.shape == (80, 74, 3)
    assert np.array_equal(model.restore(picture, tile=16), whole)


def test_only_blobs_are_renamed() -> None:
    text = "7767517\n2 2\nInput in0 0 1 in0\nReLU out0x 1 1 in0 out0 0=0.1\n"
    assert [line.split() for line in renamed_ends(text).splitlines()[2:]] == [
        ["Input", "data", "0", "1", "data"],
        ["ReLU", "out0x", "1", "1", "data", "output", "0=0.1"],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("7767517", "7767518"), "the first line is not 7767517"),
        (lambda text: "\n".join(text.splitlines()[:-2]), "cut short"),
        (lambda text: text.replace("PixelShuffle", "PixelRuffle "), "ncnn lacks the operators PixelRuffle"),
        (lambda text: text.replace(" data 1 2", " date 1 2"), "takes the blob date, which no layer"),
        (lambda text: text.replace("0 1 data", "0 x data"), "line 3 is no layer"),
    ],
)
def test_damaged_graphs(
    exported: Exports, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    path = exported("compact", ".param")
    (tmp_path / "net.param").write_text(change(path.read_text()))
    (tmp_path / "net.bin").write_bytes(path.with_suffix(".bin").read_bytes())
    with pytest.raises(UserError, match=message):
        open_exported(tmp_path / "net.param")


def test_weights_that_are_missing_or_cut_short(exported: Exports, tmp_path: Path) -> None:
    path = exported("compact", ".param")
    (tmp_path / "net.param").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"needs net.bin beside it"):
        open_exported(tmp_path / "net.param")
    (tmp_path / "net.bin").write_bytes(path.with_suffix(".bin").read_bytes()[:100])
    with pytest.raises(UserError, match="ncnn cannot open it"):
        open_exported(tmp_path / "net.param")
    (tmp_path / "net.bin").write_bytes(path.with_suffix(".bin").read_bytes())
    with pytest.raises(UserError, match="does not say what it takes"):
        open_exported(tmp_path / "net.param")
