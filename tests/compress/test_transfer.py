"""The whole transfer: the document's rule to the bit, methods against each other, refusals, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from archs.examples import lively, picture, save
from atelier.archs import SRVGGNetCompact, load_network, read_weights
from atelier.archs.info import describe
from atelier.archs.weights import save_weights
from atelier.cli.main import main
from atelier.cli.transfer_pictures import calibration_crops
from atelier.cli.transfer_run import run_transfer
from atelier.compress import TransferOptions, fidelity, transfer
from atelier.compress.transfer_options import METHODS
from atelier.compress.transferring import ticks
from atelier.errors import UserError
from atelier.files import sha256_of
from atelier.images import read_image, to_tensor, write_image
from support import SHARED

WEIGHTS = SHARED / "weights" / "realesr-animevideox2v3.pth"
SET5 = SHARED / "data" / "Set5" / "LR_bicubic" / "X2"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="no shared weights here")


def network(**changes: Any) -> Any:
    return lively(SRVGGNetCompact(**{"num_feat": 12, "num_conv": 3, "upscale": 2, **changes})).eval()


def done(source: Any, **options: Any) -> Any:
    wanted = TransferOptions.model_validate({"num_feat": 6, "num_conv": 3, "rows": 256, **options})
    return transfer(source, wanted, picture(8, source.options.num_in_ch, 16, 16))


def rule(state: dict[str, Tensor], width: int, n_new: int, n_src: int) -> dict[str, Tensor]:
    """The published rule once more, from its words and with NumPy's choice of rows."""

    def top(values: Tensor) -> list[int]:
        return sorted(np.argsort(-values.numpy(), kind="stable")[:width].tolist())

    def norm(weight: Tensor) -> Tensor:
        return torch.linalg.vector_norm(weight, dim=(1, 2, 3))

    c = len(state["body.0.bias"])
    lin = np.linspace(0, c - 1, width).astype(int).tolist()
    new = {
        "body.0.weight": state["body.0.weight"][top(norm(state["body.0.weight"]))],
        "body.0.bias": state["body.0.bias"][top(state["body.0.bias"].abs())],
        "body.1.weight": state["body.1.weight"][lin],
    }
    for i in range(n_new):
        old, here = 2 * (1 + i % n_src), 2 * (1 + i)
        weight = state[f"body.{old}.weight"]
        rows = top(norm(weight))
        new[f"body.{here}.weight"] = weight[rows][:, rows]
        new[f"body.{here}.bias"] = state[f"body.{old}.bias"][lin]
        new[f"body.{here + 1}.weight"] = state[f"body.{old + 1}.weight"][lin]
    last = state[f"body.{2 * n_src + 2}.weight"]
    new[f"body.{2 * n_new + 2}.weight"] = last[:, top(norm(last.transpose(0, 1)))]
    new[f"body.{2 * n_new + 2}.bias"] = state[f"body.{2 * n_src + 2}.bias"]
    return new


@pytest.mark.parametrize(("width", "depth"), [(6, 3), (5, 8), (12, 3), (7, 2), (6, 0)])
def test_l2_is_the_rule_bit_for_bit(width: int, depth: int) -> None:
    source = network()
    new = done(source, method="l2", num_feat=width, num_conv=depth).net.state_dict()
    expected = rule(source.state_dict(), width, depth, 3)
    assert list(new) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in new.items())


@needs_weights
def test_l2_of_the_real_file_is_the_rule_bit_for_bit() -> None:
    source: Any = load_network(WEIGHTS).net
    new = transfer(source, TransferOptions(method="l2")).net.state_dict()
    expected = rule(source.state_dict(), 32, 32, 16)
    assert all(torch.equal(value, expected[key]) for key, value in new.items())
    assert len(new) == len(expected)


@pytest.mark.parametrize("method", ["l2-aligned", "activation"])
def test_aligned_methods_use_one_set_of_channels_everywhere(method: str) -> None:
    source = network()
    found = done(source, method=method)
    old, new, kept = source.state_dict(), found.net.state_dict(), found.kept
    for i in range(1, 4):
        rows, columns = list(kept[i]), list(kept[i - 1])
        assert torch.equal(new[f"body.{2 * i}.weight"], old[f"body.{2 * i}.weight"][rows][:, columns])
        assert torch.equal(new[f"body.{2 * i}.bias"], old[f"body.{2 * i}.bias"][rows])
        assert torch.equal(new[f"body.{2 * i + 1}.weight"], old[f"body.{2 * i + 1}.weight"][rows])
    assert torch.equal(new["body.8.weight"], old["body.8.weight"][:, list(kept[3])])


@pytest.mark.parametrize("method", ["l2-aligned", "activation", "least-squares"])
@pytest.mark.parametrize("act", ["prelu", "relu", "leakyrelu"])
def test_the_same_size_is_the_same_network(method: str, act: str) -> None:
    source = network(act_type=act)
    new = done(source, method=method, num_feat=12).net
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in new.state_dict().items())


def test_solving_beats_the_other_methods() -> None:
    source, x = network(), picture(4, 3, 20, 20, seed=9)

    def psnr(**options: Any) -> float:
        with torch.no_grad():
            return fidelity(list(done(source, **options).net(x)), list(source(x))).psnr

    found = {method: psnr(method=method) for method in ("l2", "l2-aligned", "activation", "least-squares")}
    assert found["least-squares"] > max(found["l2-aligned"], found["activation"]) > found["l2"]
    layer_by_layer = psnr(sweeps=0)
    assert found["least-squares"] > layer_by_layer + 0.5
    assert psnr(sweeps=0, polish=40, polish_lr=2e-3) > layer_by_layer


def test_deeper_is_the_same_function_and_wider_too() -> None:
    source, x = network(), picture(1, 3, 9, 8)
    shallow, deep = done(source, sweeps=0), done(source, num_conv=7, sweeps=0)
    with torch.no_grad():
        assert torch.equal(shallow.net(x), deep.net(x))
        wide = done(source, num_feat=20, num_conv=5, grow="split").net
        torch.testing.assert_close(wide(x), source(x), rtol=0, atol=1e-5)
    assert (wide.options.num_feat, wide.options.num_conv) == (20, 5)


def test_a_layer_that_does_nothing_is_the_first_to_go() -> None:
    from atelier.compress.chain import compact_chain
    from atelier.compress.fold import built
    from atelier.compress.growth import deepen

    source = network()
    layers = compact_chain(source.options, source.state_dict())
    longer = built(deepen(layers, 4, "prelu", "end"), source)
    found = done(longer, num_feat=12, num_conv=3, ridge=1e-9)
    assert found.steps == (0, 1, 2, 3, 5)
    x = picture(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(found.net(x), source(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("polish", [0, 3])
def test_twice_is_the_same_and_ticks_are_counted(polish: int) -> None:
    source, calls = network(), []
    options = TransferOptions(num_feat=6, num_conv=5, rows=64, polish=polish, sweeps=2)
    crops = picture(8, 3, 16, 16)
    one, two = (transfer(source, options, crops, tick=lambda: calls.append(1)) for _ in range(2))
    assert len(calls) == 2 * ticks(source, options)
    assert all(torch.equal(value, two.net.state_dict()[key]) for key, value in one.net.state_dict().items())
    assert one.errors == two.errors
    assert len(one.errors) == 5
    other = transfer(source, options.model_copy(update={"seed": 1}), crops).net.state_dict()
    assert any(not torch.equal(value, other[key]) for key, value in one.net.state_dict().items())


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({}, {"num_feat": 13}, "num_feat 13 is above the source's 12"),
        ({}, {"num_feat": 13, "method": "l2", "grow": "split"}, "--method l2 chooses among the channels"),
        ({}, {"num_conv": 2, "method": "activation"}, "num_conv 2 is below the source's 3"),
        ({"act_type": "leakyrelu"}, {"num_conv": 4}, "fixed slope bends negative values"),
        ({"num_conv": 0}, {"num_conv": 4, "method": "l2"}, "no inner convolution"),
    ],
)
def test_what_cannot_be_done_is_refused(source: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        done(network(**source), **options)


def test_pictures_that_do_not_fit_are_refused() -> None:
    source, options = network(), TransferOptions(num_feat=6, num_conv=3)
    with pytest.raises(UserError, match="needs calibration pictures"):
        transfer(source, options)
    with pytest.raises(UserError, match="have 1 channels, the source takes 3"):
        transfer(source, options, picture(1, 1, 8, 8))
    with pytest.raises(UserError, match="no calibration picture"):
        transfer(source, options, torch.zeros(0, 3, 8, 8))
    with pytest.raises(UserError, match="the source is a Linear"):
        transfer(torch.nn.Linear(1, 1), options)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """(source file, calibration folder, folder of held-out pictures)."""
    source = save(network(), tmp_path / "source.pth")
    for name, seed in (("calibration", 1), ("gt", 2)):
        for k in range(2):
            pixels = (picture(24, 26, 3, seed=seed + 10 * k) * 255).to(torch.uint8).numpy()
            (tmp_path / name).mkdir(exist_ok=True)
            write_image(tmp_path / name / f"{name}{k}.png", pixels)
    return source, tmp_path / "calibration", tmp_path / "gt"


def command(folders: tuple[Path, Path, Path], output: Path, *more: str) -> int:
    source, calibration, gt = map(str, folders)
    arguments = ["transfer", source, "-o", str(output), "--num_feat", "6", "--num_conv", "4"]
    try:
        main([*arguments, "--calibration", calibration, "--gt", gt, *more])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_command(folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, sheet = tmp_path / "one.pth", tmp_path / "two.pth", tmp_path / "sheet.png"
    assert command(folders, one, "--compare-methods", "--sheet", str(sheet)) == 0
    out = capsys.readouterr().out
    for row in ("nearest", "bicubic", "source", "l2", "l2-aligned", "activation", "least-squares"):
        assert f"\n{row} " in out
    assert command(folders, two) == 0
    assert one.read_bytes() == two.read_bytes()
    assert read_image(sheet).pixels.shape[2] == 3
    file = read_weights(one)
    record = file.metadata["transfer"]
    assert record == torch.load(one, weights_only=True)["transfer"] == load_network(one).transfer
    assert len(record["source_sha256"]) == 64
    assert [each["name"] for each in record["calibration"]] == ["calibration0.png", "calibration1.png"]
    assert [len(each) for each in record["kept"]] == [6, 6, 6, 6, 12]
    for key, value in read_weights(one, "params").state.items():
        assert torch.equal(value, file.state[key])
    report = json.loads((tmp_path / "one.pth.transfer.json").read_text())
    rows = {each["name"]: each for each in report["table"]}
    assert rows["source"]["to_source"]["psnr"] is None
    assert rows["least-squares"]["parameters"] == sum(each.numel() for each in file.state.values())
    assert {rows[name]["bytes"] for name in METHODS} == {one.stat().st_size}
    assert [each["layer"] for each in report["relative_errors"]["least-squares"]] == [0, 1, 2, 3, 4]


def test_the_written_file_opens_in_spandrel_with_equal_output(folders: Any, tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel")
    assert command(folders, tmp_path / "new.pth", "--grey", "--method", "activation") == 0
    ours, theirs = (
        load_network(tmp_path / "new.pth"),
        spandrel.ModelLoader().load_from_file(tmp_path / "new.pth"),
    )
    assert ours.facts.in_channels == 1
    x = picture(1, 1, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours.net(x).clamp(0, 1), theirs(x).clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "l3"], "--method l3"),
        (["--num-feat", "64"], "num_feat 64 is above"),
        (["--folded-scale", "3"], "cannot be folded to 3"),
        (["--calibration", "EMPTY"], "holds no picture"),
        (["--calibration", "missing"], "is no folder"),
        (["--gt", "CALIBRATION"], "also calibrates"),
        (["-o", "new.onnx"], "must end in .pth or .safetensors"),
        (["-o", "SOURCE/new.pth"], "cannot write"),
        (["-o", "FOLDER"], "it is a folder"),
        (["--sheet", "SOURCE/sheet.png"], "cannot write"),
        (["--sheet", "sheet.pdf"], "--sheet sheet.pdf: the name must end in .png"),
    ],
)
def test_mistakes_are_one_message(
    more: list[str],
    message: str,
    folders: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def worked(*_: Any, **__: Any) -> None:
        raise AssertionError("work began before the mistake was found")

    monkeypatch.setattr("atelier.cli.transfer_run.transfer", worked)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.pth").mkdir()
    words = {"EMPTY": str(tmp_path / "empty"), "CALIBRATION": str(folders[1])}
    words["FOLDER"] = str(tmp_path / "folder.pth")
    for name in ("new.pth", "sheet.png"):  # below a file there is no folder, whoever runs this
        words[f"SOURCE/{name}"] = str(folders[0] / name)
    assert command(folders, tmp_path / "new.pth", *(words.get(word, word) for word in more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "new.pth").exists()


def test_nothing_is_written_when_measuring_stops(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    new = tmp_path / "out" / "new.pth"
    with monkeypatch.context() as patch:
        patch.setattr("atelier.cli.transfer_run._latencies", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_it(folders, new)
        assert list(new.parent.iterdir()) == []
        assert "replacing" not in capsys.readouterr().out
    run_it(folders, new)
    assert sorted(each.name for each in new.parent.iterdir()) == ["new.pth", "new.pth.transfer.json"]
    before = [(each.name, each.read_bytes()) for each in sorted(new.parent.iterdir())]
    with monkeypatch.context() as patch:
        patch.setattr(
            "atelier.cli.transfer_run.save_weights", _Full(3)
        )  # source and result are weighed before
        with pytest.raises(UserError, match="the disk is full"):
            run_it(folders, new, num_feat=5)
    assert [(each.name, each.read_bytes()) for each in sorted(new.parent.iterdir())] == before
    assert f"{new} exists: replacing it at the end" in capsys.readouterr().out


class _Full:
    """``save_weights`` that finds the disk full the ``at``-th time."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, *arguments: Any) -> None:
        self.left -= 1
        if not self.left:
            raise UserError("the disk is full")
        save_weights(*arguments)


def run_it(folders: Any, output: Path, **choices: Any) -> dict[str, Any]:
    """The command without its parser."""
    source, calibration, gt = folders
    choices = {"num_feat": 6, "num_conv": 3, "method": "l2-aligned", **choices}
    return run_transfer(source, output, choices, calibration=calibration, gt=gt)


def test_every_bar_begins_and_ends(folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tuple[str, int, list[int]]] = []

    class Bar:
        def advance(self, count: int = 1, note: str = "") -> None:
            bars[-1][2].append(count)

    @contextmanager
    def recorded(title: str, total: int, unit: str) -> Iterator[Bar]:
        bars.append((title, total, []))
        yield Bar()

    monkeypatch.setattr("atelier.cli.transfer_run.progress", recorded)
    run_it(folders, tmp_path / "new.pth")
    run_it(folders, tmp_path / "new.pth", method="least-squares", sweeps=0)
    assert [title for title, _, _ in bars] == ["l2-aligned", "measuring", "least-squares", "measuring"]
    assert all(sum(counts) == total > 0 for _, total, counts in bars)


def test_a_result_worse_than_plain_upsampling_is_named(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = network(num_feat=2, num_conv=0)
    with torch.no_grad():  # two channels that nearly cancel: one of them alone is far off
        source.body[0].weight[1], source.body[0].bias[1] = source.body[0].weight[0], source.body[0].bias[0]
        source.body[1].weight[1] = source.body[1].weight[0]
        source.body[2].weight[:, 1] = -0.95 * source.body[2].weight[:, 0]
        source.body[2].bias.zero_()
    folders = (save(source, tmp_path / "cancels.pth"), *folders[1:])
    run_it(folders, tmp_path / "bad.pth", method="l2", num_feat=1, num_conv=0)
    said = capsys.readouterr().out
    assert "warning: l2 is worse than plain nearest upsampling (" in said
    assert said.count("use --method least-squares") == 1
    run_it(folders, tmp_path / "good.pth", method="least-squares", num_feat=1, num_conv=0)
    assert "warning" not in capsys.readouterr().out


def test_lines_that_say_nothing_are_left_out(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_it(folders, tmp_path / "grown.pth", num_feat=12, num_conv=5)
    assert "relative error" not in capsys.readouterr().out
    source, calibration, gt = folders
    choices = {"num_feat": 6, "num_conv": 3, "method": "l2-aligned"}
    report = run_transfer(
        source, tmp_path / "x1.pth", choices, calibration=calibration, gt=gt, folded_scale=1
    )
    said = capsys.readouterr().out
    assert "l2-aligned: relative error before each activation: 0." in said
    assert [each["name"] for each in report["table"]] == ["input", "source", "l2-aligned"]
    assert all(each["to_gt"] is None for each in report["table"])
    assert "nan" not in said
    assert said.count("inf") == 1  # the source to itself


def test_equal_networks_have_equal_sizes(folders: Any, tmp_path: Path) -> None:
    source, calibration, gt = folders
    choices = {"num_feat": 12, "num_conv": 3, "method": "l2-aligned"}
    same = {"calibration": calibration, "gt": gt, "grey": True}
    new = tmp_path / "grey.pth"
    rows = {each["name"]: each for each in run_transfer(source, new, choices, **same)["table"]}
    assert rows["source"]["parameters"] == rows["l2-aligned"]["parameters"]
    assert rows["source"]["bytes"] == rows["l2-aligned"]["bytes"] == new.stat().st_size
    assert rows["bicubic"]["bytes"] is None


def test_another_network_is_refused(folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from atelier.archs import NETWORKS

    other = NETWORKS.options_class("DnCNN").model_validate({"nc": 8, "nb": 3}).build()
    source = save(other, tmp_path / "other.pth")
    assert command((source, *folders[1:]), tmp_path / "new.pth") == 2
    assert "transfer takes an SRVGGNetCompact" in capsys.readouterr().err


def test_bundled_crops_are_the_same_every_time() -> None:
    pytest.importorskip("skimage")
    one, files = calibration_crops(None, 2, 3, 0)
    two, _ = calibration_crops(None, 2, 3, 0)
    assert torch.equal(one, two)
    assert one.shape == (64, 3, 64, 64)
    assert 0 <= float(one.min()) < float(one.max()) <= 1
    assert not torch.equal(one, calibration_crops(None, 2, 3, 1)[0])
    assert len({each["sha256"] for each in files}) == len(files) == 7


def test_info_says_where_a_transferred_file_comes_from(
    folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("new.pth", "new.safetensors"):
        assert command(folders, tmp_path / name, "--method", "activation", "--polish", "2") == 0
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["info", str(tmp_path / name)])
        assert not stopped.value.code
        said = capsys.readouterr().out
        assert f"from source.pth (activation, polish 2), SHA-256 {sha256_of(folders[0])}" in said
    assert "transferred" not in describe(folders[0])


@pytest.mark.slow
@needs_weights
@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({"method": "l2"}, 20.29, 20.49),  # the published rule, 20.39
        ({"sweeps": 0}, 34, 99),
        ({"num_conv": 16}, 35.5, 99),
        ({"sweeps": 0, "polish": 300}, 34.5, 99),
    ],
    ids=["l2", "layer-by-layer", "swept", "polished"],
)
def test_floors_with_the_real_file(options: Any, least: float, most: float) -> None:
    """On the five Set5 pictures, to the source's own outputs, in dB."""
    source: Any = load_network(WEIGHTS).net
    crops, _ = calibration_crops(None, 2, 3, 0)
    pictures = [to_tensor(read_image(path).pixels)[None] for path in sorted(SET5.glob("*.png"))]
    assert len(pictures) == 5
    net = transfer(source, TransferOptions.model_validate(options), crops).net
    with torch.no_grad():
        found = fidelity([net(x) for x in pictures], [source(x) for x in pictures]).psnr
    assert least < found < most
