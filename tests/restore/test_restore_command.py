from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from torch import nn
from typer.testing import CliRunner

from atelier.cli.restore import find_weights, restore
from atelier.errors import UserError
from atelier.images import read_image, write_image
from atelier.images.video import open_video
from atelier.restore import model, sharing
from atelier.restore.model import RestorationModel
from films import flat_film

app = typer.Typer()
app.command()(restore)


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    conv_net: Callable[..., nn.Module],
    small_facts: Callable[..., Any],
) -> Path:
    """A working folder with ``net.pth`` (stands for a small network) and two pictures in ``in``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(b"weights")
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.png", generator.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    loaded: list[dict[str, Any]] = []

    def load(path: Path, **options: Any) -> RestorationModel:
        loaded.append({"path": path, **options})
        return RestorationModel(conv_net(), small_facts(), device="cpu", precision=options["precision"])

    monkeypatch.setattr(model, "load_model", load)
    monkeypatch.setattr(model, "loaded", loaded, raising=False)
    return tmp_path


def run(*words: str) -> Any:
    """Standard exit codes are read from the result; a UserError (code 2 in the real command) is raised."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_folder(folder: Path) -> None:
    result = run("-i", "in", "-m", "net.pth")
    assert result.exit_code == 0
    assert "ConvNet x2 on cpu" in result.output
    assert "2 restored" in result.output
    assert sorted(path.name for path in (folder / "results").iterdir()) == ["a_out.png", "b_out.png"]
    assert read_image(folder / "results" / "a_out.png").pixels.shape == (40, 60, 3)
    again = run("-i", "in", "-m", "net.pth")
    assert "0 restored, 2 skipped" in again.output


def test_all_flags_arrive(folder: Path) -> None:
    result = run(
        *(
            "--input",
            "in/a.png",
            "--model-path",
            "net.pth",
            "--output",
            "o",
            "--outscale",
            "1.5",
            "--tile",
            "16",
        ),
        *(
            "--tile-pad",
            "4",
            "--suffix",
            "small",
            "--ext",
            "tif",
            "--alpha-upsampler",
            "realesrgan",
            "--fp32",
        ),
        *("--device", "cpu", "--param-key", "params"),
    )
    assert result.exit_code == 0
    assert [path.name for path in (folder / "o").iterdir()] == ["a_small.tif"]
    assert read_image(folder / "o" / "a_small.tif").pixels.shape == (30, 45, 3)
    assert model.loaded == [
        {
            "path": Path("net.pth"),
            "device": "cpu",
            "param_key": "params",
            "precision": "fp32",
            "blend_with": None,
        }
    ]


@pytest.mark.parametrize("tile", ["0", "-1", "16"])
def test_tiles_do_not_change_the_pictures(folder: Path, tile: str) -> None:
    run("-i", "in", "-m", "net.pth", "-o", "o", "-t", tile)
    run("-i", "in", "-m", "net.pth", "-o", "whole", "-t", "-1")
    for name in ("a_out.png", "b_out.png"):
        one, other = (read_image(folder / place / name).pixels.astype(int) for place in ("o", "whole"))
        assert np.abs(one - other).max() <= 1


def test_a_bad_file_gives_code_1(folder: Path) -> None:
    (folder / "in" / "a.png").write_bytes(b"no picture")
    result = run("-i", "in", "-m", "net.pth")
    assert result.exit_code == 1
    assert "a.png" in result.output
    assert [path.name for path in (folder / "results").iterdir()] == ["b_out.png"]


def test_gpu_id_zero_is_not_unset(folder: Path) -> None:
    run("-i", "in", "-m", "net.pth", "-g", "0")
    assert model.loaded[0]["device"] == "cuda:0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "none.pth"], "none.pth does not exist"),
        (["-m", "in"], "in is no file"),
        ([], "give one model"),
        (["-m", "net.pth", "-n", "net"], "give one model"),
        (["-m", "net.pth", "-i", "nothing"], "nothing does not exist"),
        (["-m", "net.pth", "--fp32", "--precision", "fp16"], "contradicts"),
        (["-m", "net.pth", "-g", "1", "--device", "cpu"], "contradicts"),
        (["-m", "net.pth", "--precision", "int4"], "int4"),
        (["-m", "net.pth", "--ext", "gif"], "gif"),
        (["-m", "net.pth", "-s", "0"], "outscale"),
        (
            ["-m", "net.pth", "-o", "new.xyz"],
            r"-o new\.xyz: cannot write '\.xyz' here; allowed are \.mp4.*%06d",
        ),
        (
            ["-m", "net.pth", "-i", "in/a.png", "-o", "x.png", "--ext", "jpg"],
            r"--ext: for .*-o x\.png is the",
        ),
        (["-m", "net.pth", "-i", "in/a.png", "-o", "x.png", "--suffix", ""], "--suffix: for results in a"),
        (["-m", "net.pth", "-o", "new.png"], "cannot write '.png' here"),
        (["-m", "net.pth", "-i", "in/a.png", "-o", "a.xyz"], r"allowed are \.png, .*\.bmp, or a folder"),
        (["-m", "net.pth", "--alpha-upsampler", "magic"], "magic"),
        (["-m", "net.pth", "--face-enhance"], "--face_enhance is not done here: it needs GFPGAN"),
        (["-m", "net.pth", "--model-b", "net.pth"], "--model-b needs -dn"),
        (["-m", "net.pth", "-dn", "0.5"], "for net.pth name the other network: --model-b"),
        (["-m", "net.pth", "-dn", "0.5", "--model-b", "none.pth"], "needs none.pth, which does not exist"),
        (["-m", "net.pth", "-dn", "1.5", "--model-b", "net.pth"], "from 0 to 1"),
    ],
)
def test_mistakes(folder: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*(["-i", "in"] if "-i" not in words else []), *words)
    assert not (folder / "results").exists() and not list(folder.glob("*.xyz"))


@pytest.mark.parametrize("name", ["new.xyz/", "there.xyz", "x1.5"])
def test_folders_with_a_dot(folder: Path, name: str) -> None:
    (folder / "there.xyz").mkdir()
    run("-i", "in", "-m", "net.pth", "-o", name)
    assert sorted(path.name for path in (folder / name).iterdir()) == ["a_out.png", "b_out.png"]


def test_processes_compare_the_weights_and_what_is_read_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exports of one network have the same graph; what differs is the file beside it."""
    (folder / "net.param").write_text("7767517")
    (folder / "net.bin").write_bytes(b"weights")
    compared = []
    real = sharing.restore_shared

    def noting(*given: Any, model: str, **options: Any) -> Any:
        compared.append(model)
        return real(*given, model=model, **options)

    monkeypatch.setattr(sharing, "restore_shared", noting)
    for words in (["net.param"], ["net.param"], ["net.param", "--param-key", "params"]):
        run("-i", "in", "-m", *words)
    (folder / "net.bin").write_bytes(b"others!")
    run("-i", "in", "-m", "net.param")
    assert compared[0] == compared[1] and len(set(compared)) == 3


def test_a_percent_sign_in_a_name_is_no_pattern(folder: Path) -> None:
    (folder / "50%done").mkdir()
    flat_film(folder / "50%done" / "100%d.mp4", frames=3, size=(24, 16))
    write_image(folder / "50%done" / "20%d.png", np.zeros((8, 8, 3), np.uint8))
    run("-i", "50%done/100%d.mp4", "-m", "net.pth", "-o", "50%done/new%d/")
    assert [path.name for path in (folder / "50%done/new%d").iterdir()] == ["100%d_out.mp4"]
    run("-i", "50%done/20%d.png", "-m", "net.pth", "-o", "one.png")
    assert "1 skipped" in run("-i", "50%done/20%d.png", "-m", "net.pth", "-o", "one.png").output
    run("-i", "in", "-m", "net.pth", "-o", "10%d/")
    run("-i", "10%d", "-m", "net.pth", "-o", "50%done/film.mp4", "--rate", "25")
    assert open_video(folder / "50%done/film.mp4").facts.frames == 2


def test_a_name_is_looked_for_in_order(folder: Path) -> None:
    models = folder / "experiments" / "mine" / "models"
    models.mkdir(parents=True)
    with pytest.raises(UserError, match=r"weights.mine\.pth.*net_g_latest\.pth.*net_g_best\.pth"):
        find_weights(None, "mine")
    for path in (models / "net_g_best.pth", models / "net_g_latest.pth", folder / "weights" / "mine.pth"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        assert find_weights(None, "mine").resolve() == path


def test_dn_finds_the_published_twin_and_takes_any_other(folder: Path) -> None:
    weights = folder / "weights"
    weights.mkdir()
    for name in ("realesr-general-x4v3", "realesr-general-wdn-x4v3"):
        (weights / f"{name}.pth").write_bytes(b"weights")
    name = ["-i", "in", "-n", "realesr-general-x4v3", "--overwrite"]
    mixed = run(*name, "-dn", "0.25")
    assert "mixed: 0.25 of it and 0.75 of weights" in mixed.output
    assert "as -dn 0.5 does here" in run(*name).output
    assert "mixed" not in run(*name, "-dn", "1").output
    run(*name, "-dn", "0", "--model-b", "net.pth")
    twin = Path("weights/realesr-general-wdn-x4v3.pth")
    assert [each["blend_with"] for each in model.loaded] == [(twin, 0.25), None, None, (Path("net.pth"), 0.0)]
    (folder / twin).unlink()
    with pytest.raises(UserError, match=r"realesr-general-wdn-x4v3\.pth, which does not exist"):
        run(*name, "-dn", "0.5")


def test_pre_pad_changes_the_far_borders_alone(folder: Path) -> None:
    run("-i", "in", "-m", "net.pth", "-o", "plain")
    run("-i", "in", "-m", "net.pth", "-o", "padded", "--pre-pad", "10")
    run("-i", "in", "-m", "net.pth", "-o", "far", "--pre-pad", "50")  # more than can be mirrored
    plain, padded, far = (
        read_image(folder / place / "a_out.png").pixels for place in ("plain", "padded", "far")
    )
    assert plain.shape == padded.shape == far.shape
    assert np.array_equal(plain[:-8, :-8], padded[:-8, :-8])
    assert not np.array_equal(plain, padded)
