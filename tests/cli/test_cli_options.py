"""``atelier options check|schema``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atelier.cli.options import app, split_arguments
from atelier.errors import UserError
from atelier.options.json_schema import json_schema_text

_TEXT = """\
name: x
scale: 2
network_g: SRVGGNetCompact
datasets:
  train: {dataroot_gt: bundled, gt_size: 64, batch_size_per_gpu: 4}
  val: {dataroot_gt: photos/gt, dataroot_lq: photos/lq}
train:
  total_iter: 5e3
  losses: [L1Loss, {type: FFTLoss, loss_weight: 5e-2}]
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yml"
    path.write_text(_TEXT)
    return path


def test_a_good_file(run_file: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(run_file), "train.optim_g={type: Adam, lr: 1e-3}"])
    assert result.output == (
        f"{run_file}: OK\n"
        "  network  SRVGGNetCompact, x2, 3 -> 3 channels\n"
        "  train    bundled, 4 crops of 64 a step and process\n"
        "  lq       made by bicubic\n"
        "  val      val: photos/gt (pairs)\n"
        "  losses   L1Loss x 1, FFTLoss x 0.05\n"
        "  steps    5000, Adam lr 0.001, constant\n"
        f"{run_file}: warning: datasets.val.dataroot_gt: photos/gt does not exist\n"
        f"{run_file}: warning: datasets.val.dataroot_lq: photos/lq does not exist\n"
    )
    assert result.exit_code == 0


def test_every_absent_file_is_a_warning(run_file: Path, tmp_path: Path) -> None:
    here = tmp_path / "here.pth"
    here.touch()
    overrides = [
        "datasets.val=~",
        "datasets.train.dataroot_gt=[gone/a, gone/b]",
        "datasets.train.meta_info=gone/names.txt",
        f"path.pretrain_network_g={here}",
        "path.pretrain_network_ema=gone/E.pth",
        "train.losses=[{type: PerceptualLoss, layer_weights: {conv5_4: 1}, vgg_weights: gone/vgg.pth}]",
    ]
    result = CliRunner().invoke(app, ["check", str(run_file), *overrides])
    told = [
        line.rpartition("warning: ")[2] for line in result.output.splitlines() if "does not exist" in line
    ]
    assert told == [
        "datasets.train.dataroot_gt: gone/a does not exist",
        "datasets.train.dataroot_gt: gone/b does not exist",
        "datasets.train.meta_info: gone/names.txt does not exist",
        "path.pretrain_network_ema: gone/E.pth does not exist",
        "PerceptualLoss.vgg_weights: gone/vgg.pth does not exist",
    ]
    assert result.exit_code == 0


def test_warnings_are_told_and_are_no_error(run_file: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(run_file), "datasets.val=~"])
    assert f"{run_file}: warning: no datasets.val: nothing will be measured" in result.output
    assert "  val      none\n" in result.output
    assert result.exit_code == 0


def test_every_file_is_checked_and_all_mistakes_are_told(run_file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text(_TEXT.replace("5e3", "0").replace("gt_size: 64", "gt_sise: 64"))
    result = CliRunner().invoke(app, ["check", str(bad), str(tmp_path / "none.txt"), str(run_file)])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"{bad}:5: datasets.train.gt_sise: unknown key, allowed: ")
    assert lines[0].endswith("; did you mean 'gt_size'?")
    assert lines[1] == f"{bad}:8: train.total_iter: given 0, allowed: a whole number, at least 1"
    assert lines[2] == f"{tmp_path / 'none.txt'}: no such option file"
    assert len(lines) == 3
    assert result.stdout.startswith(f"{run_file}: OK\n")


def test_overrides_alone_are_refused() -> None:
    with pytest.raises(UserError, match="name at least one option file"):
        split_arguments(["train.total_iter=3"])


def test_a_file_with_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "lr=1.yml"
    path.write_text(_TEXT)
    assert split_arguments([str(path), "a=b"]) == ([str(path)], ["a=b"])


def test_schema_to_the_terminal_and_to_a_file(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.stdout == json_schema_text()
    written = CliRunner().invoke(app, ["schema", "-o", str(tmp_path / "atelier.json")])
    assert (tmp_path / "atelier.json").read_text() == printed.stdout
    assert written.output == f"wrote {tmp_path / 'atelier.json'}\n"
    schema = json.loads(printed.stdout)
    assert {"SwinIROptions", "L1LossOptions"} & set(schema["$defs"])
    assert set(schema["required"]) == {"name", "datasets", "network_g"}


_NO_TORCH = """
import sys
from atelier.cli.main import main
try:
    main({arguments!r})
except SystemExit as end:
    assert end.code == {code}, end.code
heavy = sorted({{"torch", "torchvision", "cv2", "spandrel", "skimage", "tensorboard"}} & set(sys.modules))
print("heavy:", heavy)
"""


@pytest.mark.parametrize("what", ["good", "bad", "schema"])
def test_nothing_heavy_is_loaded(run_file: Path, what: str) -> None:
    arguments = ["options", "schema"] if what == "schema" else ["options", "check", str(run_file)]
    arguments += ["network_g=Nothing"] if what == "bad" else []
    script = _NO_TORCH.format(arguments=arguments, code=2 if what == "bad" else 0)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("heavy: []\n"), done.stderr
    if what == "bad":
        assert done.stderr.startswith("command line: network_g: given 'Nothing', allowed: SwinIR, ")


def test_teeth_the_probe_sees_a_heavy_module() -> None:
    # An empty module of that name is enough: the probe looks at names.
    script = "import sys, types\nsys.modules['torch'] = types.ModuleType('torch')\n" + _NO_TORCH.format(
        arguments=["options", "schema"], code=0
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("heavy: ['torch']\n"), done.stderr
