"""From a file, a dict or checked options to RunOptions, with plug-ins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.errors import UserError
from atelier.options.read import load_run_options
from support import small_run

Refusal = Callable[..., str]

_TEXT = """\
name: x
scale: 2
network_g: SRVGGNetCompact
datasets:
  train: {dataroot_gt: bundled}
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yml"
    path.write_text(_TEXT)
    return path


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_file_a_dict_and_options_give_the_same(run_file: Path) -> None:
    from_file = load_run_options(run_file)
    assert from_file == load_run_options(str(run_file))
    assert load_run_options(from_file) is from_file
    assert load_run_options(from_file.model_dump(mode="json")) == from_file
    assert load_run_options(from_file, ["train.total_iter=7"]).train.total_iter == 7
    assert from_file.train.total_iter != 7


def test_json_with_comments(tmp_path: Path, run_file: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(
        '{ // the same run\n"name": "x", "scale": 2, "network_g": "SRVGGNetCompact",\n'
        '"datasets": {"train": {"dataroot_gt": "bundled"}}}'
    )
    assert load_run_options(path) == load_run_options(run_file)


def test_overrides_change_the_run(run_file: Path) -> None:
    options = load_run_options(
        run_file, ["train.total_iter=2e3", "network_g.num_feat=8", "train.losses=[L1Loss, FFTLoss]", "name=y"]
    )
    assert (options.train.total_iter, options.name) == (2000, "y")
    assert options.network_g.num_feat == 8
    assert [loss.type for loss in options.train.losses] == ["L1Loss", "FFTLoss"]


def test_mistakes_name_file_line_and_command_line(run_file: Path, refusal: Refusal) -> None:
    with run_file.open("a") as file:
        file.write("train:\n  optim_g: {type: Adam, lr: abc}\n  totaliter: 5\n")
    lines = refusal(load_run_options, run_file, ["val.val_freq=0"]).split("\n")
    assert lines[0].startswith(f"{run_file}:7: train.optim_g.lr: given 'abc', allowed: a number")
    assert lines[1].startswith(f"{run_file}:8: train.totaliter: unknown key, allowed: total_iter, ")
    assert lines[1].endswith("; did you mean 'total_iter'?")
    assert lines[2] == "command line: val.val_freq: given 0, allowed: a whole number, at least 1"
    assert len(lines) == 3


def test_a_study_is_told_from_a_run_in_one_message(tmp_path: Path, refusal: Refusal) -> None:
    file = tmp_path / "study.yml"
    file.write_text("name: s\nbase: run.yml\nseeds: [0, 1]\narms: {a: {}, b: {}}\ntest: {t: {gt: bundled}}\n")
    said = refusal(load_run_options, file)
    assert said.startswith(f"{file}: a study (base, arms), not one run")
    assert f"atelier experiment {file} --dry-run" in said
    assert "\n" not in said


def test_a_wrong_scale_is_told_once(refusal: Refusal) -> None:
    # The network takes the run's scale where its own is left out; the same mistake is not told twice.
    data = {
        "name": "x",
        "scale": "four",
        "network_g": "SRVGGNetCompact",
        "datasets": {"train": {"dataroot_gt": "b"}},
    }
    assert (
        refusal(load_run_options, data)
        == "scale: given 'four', allowed: a whole number, at least 1, at most 16"
    )


def test_a_plugin_that_cannot_be_imported(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "broken_plugin_a.py").write_text("x = 1\nraise KeyError('k')\n")
    (tmp_path / "broken_plugin_b.py").write_text("x = = 1\n")
    (tmp_path / "broken_plugin_c.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "broken_plugin_d.py").write_text(
        "from atelier.losses.base import LOSSES\nLOSSES.register('L1Loss', 'x:y')\n"
    )
    run_file.write_text(_TEXT + "plugins:\n  - no_such_plugin\n")
    assert refusal(load_run_options, run_file) == (
        f"{run_file}:7: plugins.0: no module named 'no_such_plugin'; "
        f"looked on the Python path, in {elsewhere} and in {tmp_path}"
    )
    assert refusal(load_run_options, run_file, ["plugins=[broken_plugin_a]"]) == (
        f"command line: plugins.0: importing 'broken_plugin_a' failed: KeyError: 'k' ({tmp_path}/broken_plugin_a.py:2)"
    )
    assert refusal(load_run_options, run_file, ["plugins=[broken_plugin_b]"]) == (
        "command line: plugins.0: importing 'broken_plugin_b' failed: SyntaxError: invalid syntax "
        f"(broken_plugin_b.py, line 1) ({tmp_path}/broken_plugin_b.py:1)"
    )
    assert refusal(load_run_options, run_file, ["plugins=[broken_plugin_c]"]) == (
        "command line: plugins.0: importing 'broken_plugin_c' failed: ModuleNotFoundError: "
        f"No module named 'no_such_module_at_all' ({tmp_path}/broken_plugin_c.py:1)"
    )
    assert refusal(load_run_options, run_file, ["plugins=[broken_plugin_d]"]) == (
        "command line: plugins.0: importing 'broken_plugin_d' failed: "
        "loss 'L1Loss' is registered already; choose another name"
    )


def test_plugins_of_the_wrong_shape(refusal: Refusal) -> None:
    data = {
        "name": "x",
        "scale": 2,
        "network_g": "SRVGGNetCompact",
        "datasets": {"train": {"dataroot_gt": "b"}},
    }
    assert refusal(load_run_options, data | {"plugins": "my_module"}) == (
        "plugins: given 'my_module', allowed: a list of texts"
    )
    assert refusal(load_run_options, data | {"plugins": [3]}) == (
        "plugins.0: given 3, allowed: text (write it in quotes)"
    )


_PLUGIN = """
from typing import Literal
from atelier.losses.base import LOSSES, LossOptions

class ZebraLossOptions(LossOptions):
    type: Literal["ZebraLoss"] = "ZebraLoss"
    stripes: int = 3

    def build(self):
        raise NotImplementedError

LOSSES.register("ZebraLoss", ZebraLossOptions)
"""

_USE = """
import sys
from atelier.errors import UserError
from atelier.options.read import load_run_options, rebuild_models

text = "train.pixel_opt={type: ZebraLoss, stripes: 5}"
try:
    load_run_options("run.yml", [text, "plugins=[]"])
except UserError as error:
    assert "given 'ZebraLoss', allowed: L1Loss" in str(error), error
else:
    raise AssertionError("known without the plug-in")
options = load_run_options("run.yml", [text])
assert options.train.pixel_opt.stripes == 5
assert options.model_dump(mode="json")["train"]["pixel_opt"]["stripes"] == 5

# Teeth: a component that is registered afterwards is unknown until the models are rebuilt.
from atelier.losses.base import LOSSES
LOSSES.register("Second", type("Second", (LOSSES.options_class("ZebraLoss"),),
    {"__annotations__": {"type": __import__("typing").Literal["Second"]}, "type": "Second"}))
data = options.model_dump(mode="json") | {"plugins": []}
data["train"]["pixel_opt"] = "Second"
try:
    load_run_options(data)
except UserError as error:
    pass
else:
    raise AssertionError("known without a rebuild")
rebuild_models()
assert load_run_options(data).train.pixel_opt.type == "Second"
assert "torch" not in sys.modules and "cv2" not in sys.modules
print("fine")
"""


def test_a_plugin_beside_the_option_file_registers_its_component(run_file: Path, tmp_path: Path) -> None:
    # In a process of its own: registries are shared by all tests of this one.
    (tmp_path / "zebra_plugin.py").write_text(_PLUGIN)
    run_file.write_text(_TEXT + "plugins: [zebra_plugin]\n")
    done = subprocess.run(
        [sys.executable, "-c", _USE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_warnings_name_what_is_probably_not_meant(tmp_path: Path) -> None:
    run = small_run(
        tmp_path,
        degradation={"type": "gaussian_noise", "sigma": 25, "noise_seed": 0},
        train={"accumulate": 2, "losses": [{"type": "MSELoss", "reduction": "sum"}]},
    )
    notes = "\n".join(load_run_options(run).warnings())
    assert "noise_seed" in notes
    assert "divided by train.accumulate" in notes


def test_a_check_over_sections_stands_at_the_key_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text(
        "name: a\nscale: 2\ndatasets:\n  train:\n    dataroot_gt: bundled\n    gt_size: 33\n"
        "network_g: SRVGGNetCompact\n"
    )
    with pytest.raises(UserError, match=r"run\.yml:6: datasets\.train\.gt_size 33 is no multiple of scale 2"):
        load_run_options(path)
    with pytest.raises(UserError, match=r"command line: datasets\.train\.gt_size 35"):
        load_run_options(path, ["datasets.train.gt_size=35"])
