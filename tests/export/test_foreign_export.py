"""Networks that spandrel knows leave through the same door: with open sizes, or for one size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from atelier.archs import load_network
from atelier.cli.main import main
from atelier.errors import UserError
from atelier.export import export_model, exporting
from atelier.export.base import find_format
from atelier.export.trace import SizeMattersError, Traced
from atelier.restore.exported import facts_path, open_exported
from exports import export_small, pictures, save_network

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def saved(net: nn.Module, folder: Path) -> Path:
    path = folder / "foreign.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.slow
def test_a_foreign_network(tmp_path: Path) -> None:
    """RCAN, whose keys are none of ours, and which multiplies its input in place."""
    from spandrel.architectures.RCAN import RCAN

    torch.manual_seed(0)
    source = saved(RCAN(scale=2, n_resgroups=1, n_resblocks=1, n_feats=16, reduction=4), tmp_path)
    output = tmp_path / "foreign.onnx"
    made = export_model(source, output, find_format(output, None, {}), pictures())
    assert max(run.largest for run in made.proof.runs) < 1e-3


@pytest.mark.slow
def test_steps_that_depend_on_the_size_leave_for_one_size(tmp_path: Path) -> None:
    """SAFMN pools to an eighth of its input's size, which the tracer takes for a constant."""
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(0)
    source = saved(SAFMN(dim=8, n_blocks=1, upscaling_factor=2), tmp_path)
    output = tmp_path / "foreign.onnx"
    kind = find_format(output, None, {})
    with pytest.raises(
        UserError,
        match=r"SAFMN cannot be exported with open height and width.*; --size HEIGHTxWIDTH exports it",
    ):
        export_model(source, output, kind, pictures())
    assert [each.name for each in tmp_path.iterdir()] == ["foreign.pth"]
    made = export_model(source, output, kind, pictures(), size=(24, 40))
    assert {run.size for run in made.proof.runs} == {(24, 40)}
    told = json.loads(facts_path(output).read_text())
    assert told["open_axes"] == [] and told["size"] == [24, 40]
    exported, net = open_exported(output, "cpu"), load_network(source).net
    x = torch.rand(2, 3, 24, 40)
    with torch.no_grad():
        assert torch.allclose(exported(x), net(x), atol=1e-5)
        # Another size runs in windows: another picture at their joints, but no other size.
        assert exported(torch.rand(1, 3, 31, 70)).shape == (1, 3, 62, 140)


def test_the_message_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Traced:
        raise SizeMattersError("its steps depend on the size")

    monkeypatch.setattr(exporting, "trace", refused)
    with pytest.raises(UserError, match=r"depend on the size; --size HEIGHTxWIDTH exports it .* in windows"):
        export_small("compact", tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "suffix",
    [".pt2", pytest.param(".onnx", marks=pytest.mark.slow), pytest.param(".param", marks=pytest.mark.slow)],
)
def test_weights_that_are_merged_at_every_call_are_merged_once(suffix: str, tmp_path: Path) -> None:
    """SPAN writes a weight at every call. Nothing of it asks for the size, so that it leaves with any."""
    from spandrel.architectures.SPAN import SPAN

    pytest.importorskip("ncnn" if suffix == ".param" else "torch")
    torch.manual_seed(0)
    net = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)
    for convolution in net.modules():
        if hasattr(convolution, "eval_conv"):  # what the file holds there is written over
            nn.init.zeros_(convolution.eval_conv.weight)
    source = saved(net, tmp_path)
    output = tmp_path / f"foreign{suffix}"
    export_model(source, output, find_format(output, None, {}), pictures())
    exported, loaded = open_exported(output, "cpu"), load_network(source).net
    with torch.no_grad():
        for shape in ((1, 3, 9, 14), (1, 3, 21, 8)):
            x = torch.rand(shape)
            assert torch.allclose(exported(x), loaded(x), atol=1e-3) and float(loaded(x).std()) > 0.01


def test_one_size_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(save_network("compact", tmp_path))

    def code(name: str, *words: str) -> object:
        with pytest.raises(SystemExit) as stopped:
            main(["export", source, "-o", str(tmp_path / name), *words])
        return stopped.value.code

    assert not code("a.onnx", "--size", "24x40")
    assert open_exported(tmp_path / "a.onnx", "cpu").facts.size == (24, 40)
    for words, message in (
        (["--size", "24by40"], "size must be HEIGHTxWIDTH"),
        (["--size", "24x40", "--int8", "--calibration", str(tmp_path)], "--size does not go with --int8"),
    ):
        capsys.readouterr()
        assert code("b.onnx", *words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "b.onnx").exists()


def test_one_size_holds_whole_windows(tmp_path: Path) -> None:
    """Else the file would pad inside, and run over pictures that were padded before: wrong pixels at its own size."""
    with pytest.raises(
        UserError, match=r"--size 14x27: SwinIR takes multiples of 4 pixels; near are 12x24 and 16x28"
    ):
        export_small("swinir", tmp_path / "a.pt2", size=(14, 27))


def test_what_sees_far_is_said_to_differ_at_other_sizes(tmp_path: Path) -> None:
    said: list[str] = []
    export_small("compact", tmp_path / "a.pt2", size=(8, 40), say=said.append)
    assert any("sees 4 pixels far, more than a quarter of 8x40" in line for line in said), said
    said.clear()
    export_small("compact", tmp_path / "b.pt2", size=(16, 40), say=said.append)
    assert not any("pixels far" in line for line in said)


def test_a_size_beyond_the_memory_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> dict[str, Any]:
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 120000000000 bytes."
        )

    monkeypatch.setattr(exporting, "metadata_of", full)
    with pytest.raises(
        UserError, match=r"--size 16x24: the memory is not enough to run SRVGGNetCompact at this size"
    ):
        export_small("compact", tmp_path / "a.onnx", size=(16, 24))
