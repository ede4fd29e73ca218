"""``atelier evaluate`` and ``atelier compare`` from files to files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.cli.main import main
from atelier.evaluate.comparison_report import FILES
from atelier.images import imresize, write_image
from support import SHARED


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small x2 networks, one x4, and three pictures with lq under BasicSR's names."""
    folder = tmp_path_factory.mktemp("home")
    for name, scale, seed in (("small", 2, 0), ("large", 2, 1), ("four", 4, 0)):
        torch.manual_seed(seed)
        net = SRVGGNetCompactOptions(type="SRVGGNetCompact", num_feat=8, num_conv=2, upscale=scale).build()
        torch.save({"params": net.state_dict()}, folder / f"{name}.pth")
    for index, name in enumerate("abc"):
        smooth = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        gt = imresize(smooth, size=(48, 64))
        write_image(folder / "Set5" / f"{name}.png", gt)
        write_image(folder / "lq" / f"{name}x2.png", imresize(gt, scale=0.5))
    return folder


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_compare_and_evaluate_give_equal_numbers(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ("-m", home / "small.pth", "-m", home / "large.pth")
    common = ("--gt", home / "Set5", "--lq", home / "lq", "--size", "16x16")
    assert run("compare", *models, *common, "-o", tmp_path / "both") == 0
    out = capsys.readouterr().out
    assert "PSNR on Set5 close to the original" in out and "not measurable" in out and "small" in out
    assert run("evaluate", "-m", home / "large.pth", *common, "--no_latency", "-o", tmp_path / "one") == 0
    assert "criterion" not in capsys.readouterr().out
    both = [row for row in rows(tmp_path / "both" / "pictures.csv") if row["model"] != "small"]
    assert both == rows(tmp_path / "one" / "pictures.csv") and len(both) == 3 * 3 + 3
    summary = {row["model"]: row for row in rows(tmp_path / "both" / "summary.csv")}
    assert float(summary["small"]["latency_ratio"]) == 1.0 and float(summary["large"]["latency_s"]) > 0
    # The lq files are what would be made: leaving --lq out gives the same numbers.
    assert (
        run(
            "evaluate",
            "-m",
            home / "large.pth",
            "--gt",
            home / "Set5",
            "--no-latency",
            "-o",
            tmp_path / "made",
        )
        == 0
    )
    assert rows(tmp_path / "made" / "pictures.csv") == both
    assert "MATLAB" in (tmp_path / "made" / "comparison.md").read_text()


def test_bad_pictures_are_named_with_code_1(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt = tmp_path / "gt"
    for name in "ab":
        write_image(gt / f"{name}.png", imresize(np.full((6, 8, 3), 90, np.uint8), size=(48, 64)))
    (gt / "torn.png").write_bytes((gt / "a.png").read_bytes()[:60])
    assert run("evaluate", "-m", home / "small.pth", "--gt", gt, "--no-latency", "--size", "8x8") == 1
    error = capsys.readouterr().err
    assert "1 could not be measured" in error and "torn" in error and "Traceback" not in error
    # A gt without lq and an lq without gt are bad pictures too.
    assert run("evaluate", "-m", home / "small.pth", "--gt", gt, "--lq", home / "lq", "--no-latency") == 1
    error = capsys.readouterr().err
    assert "no lq picture named 'tornx2.*'" in error and "no gt picture for it" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "-m", "{}/small.pth", "-m", "{}/four.pth", "--gt", "{}/Set5"], "small ×2, four ×4"),
        (["compare", "-m", "{}/none.pth", "--gt", "{}/Set5"], "none.pth does not exist"),
        (["compare", "-m", "{}/small.pth", "--gt", "{}/nowhere"], "nowhere does not exist"),
        (
            ["compare", "-m", "{}/small.pth", "--gt", "{}/Set5", "--criteria", "{}/no.yml"],
            "no.yml cannot be read",
        ),
        (["evaluate", "-m", "{}/small.pth", "--gt", "{}/Set5", "--size", "8"], "size must be HEIGHTxWIDTH"),
        (
            ["evaluate", "-m", "{}/four.pth", "--gt", "{}/Set5", "--lq", "{}/lq"],
            "tried the names {} and {}x4",
        ),
        (
            ["evaluate", "-m", "{}/small.pth", "--gt", "{}/Set5", "--lq", "{}/lq", "--filename-tmpl", "x"],
            "exactly once",
        ),
        (
            ["evaluate", "-m", "{}/small.pth", "--gt", "{}/Set5", "--filename-tmpl", "{{}}x2"],
            "--filename-tmpl names the pictures of --lq, which is not given",
        ),
        (
            ["compare", "-m", "{}/small.pth", "--gt", "{}/Set5", "--filename-tmpl", "{{}}x2"],
            "which is not given",
        ),
        (
            ["evaluate", "-m", "{}/small.pth", "--gt", "{}/Set5", "--first-frame", "anchor"],
            "--first-frame is for --task colorize",
        ),
        (["evaluate", "-m", "{}/small.pth", "--gt", "{}/Set5", "-o", "{}/small.pth"], "small.pth is a file"),
        (["compare", "-m", "{}/small.pth", "--gt", "{}/Set5", "-o", "{}/small.pth"], "small.pth is a file"),
    ],
)
def test_mistakes_are_code_2(
    home: Path,
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(word.replace("{}", str(home)) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_report_that_cannot_be_written_is_told_before_the_work(
    home: Path,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was measured")

    monkeypatch.setattr("atelier.evaluate.comparison.compare", never)
    (tmp_path / "file").write_text("x")
    (tmp_path / "report" / "comparison.html").mkdir(parents=True)
    words = [command, "-m", home / "small.pth", "--gt", home / "Set5"]
    for output, message in (("file/report", "cannot write"), ("report", "comparison.html: it is a folder")):
        assert run(*words, "-o", tmp_path / output) == 2
        assert message in capsys.readouterr().err
    # What is looked at before is what is written after.
    monkeypatch.undo()
    assert run(*words, "--no-latency", "-o", tmp_path / "good") == 0
    assert sorted(path.name for path in (tmp_path / "good").iterdir()) == sorted(FILES)


def test_criteria_of_a_run_and_figures_from_elsewhere(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "criteria.yml").write_text(
        "criteria: [{name: fast, measure: device_ms, at_most: 33}, {name: calm, measure: alarms, at_most: 0}]"
    )
    (tmp_path / "figures.yml").write_text("device_ms: 34")
    (tmp_path / "run").mkdir()
    line = '{"kind": "train", "iter": 100, "losses": {"l_g_pix": 0.1}, "images_per_s": 9, "data_share": 0}'
    (tmp_path / "run" / "metrics.jsonl").write_text(line)
    words = ["compare", "-m", home / "small.pth", "--gt", home / "Set5", "--no-latency", "-o", tmp_path / "r"]
    words += [
        "--criteria",
        tmp_path / "criteria.yml",
        "--figures",
        tmp_path / "figures.yml",
        "--run",
        tmp_path / "run",
    ]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(("fast", "calm"))] == [
        "fail",
        "pass",
    ]


@pytest.mark.skipif(not (SHARED / "weights").exists(), reason="the shared weights are not here")
def test_the_published_network_on_set5(tmp_path: Path) -> None:
    weights, set5 = SHARED / "weights" / "realesr-animevideox2v3.pth", SHARED / "data" / "Set5"
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / "bird.png").write_bytes((set5 / "HR" / "bird.png").read_bytes())
    words = ["evaluate", "-m", weights, "--gt", tmp_path / "gt", "--no-latency", "--size", "16x16"]
    assert run(*words, "--crop-border", 4, "-o", tmp_path / "r") == 0
    summary = {row["model"]: row for row in rows(tmp_path / "r" / "summary.csv")}
    assert summary["realesr-animevideox2v3"]["parameters"] == "600652"
    # The network was trained against degradations: on clean bicubic input plain bicubic is above it.
    assert float(summary["bicubic"]["psnr"]) > float(summary["realesr-animevideox2v3"]["psnr"]) > 25
