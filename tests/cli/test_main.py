from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atelier.cli.main import main, with_dashes


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "atelier", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.returncode == 0
    for command in ("demo", "train", "restore", "report", "info", "data", "options"):
        assert command in result.stdout


@pytest.mark.parametrize(
    "statement", ["import atelier", "import atelier.cli.main", "import atelier.options.schema"]
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    heavy = "{'torch', 'torchvision', 'spandrel', 'cv2', 'av', 'skimage', 'tensorboard'}"
    code = f"{statement}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--auto_resume"], ["--auto-resume"]),
        (["--tile_pad=1_0", "my_file"], ["--tile-pad=1_0", "my_file"]),
        (["--", "--a_b"], ["--", "--a_b"]),
        (["-opt", "a_b.yml"], ["-opt", "a_b.yml"]),
        (
            ["--force_yml", "a:b_c=1", "d=-1", "--debug", "x=2"],
            ["--force-yml", "a:b_c=1", "--force-yml", "d=-1", "--debug", "x=2"],
        ),
    ],
)
def test_both_spellings(given: list[str], read: list[str]) -> None:
    assert with_dashes(given) == read


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-opt", "missing.yml"], "missing.yml"),
        (["options", "check", "missing.yml"], "missing.yml"),
        (["info", "missing.pth"], "missing.pth"),
        (["restore", "-m", "missing.pth", "-i", "missing"], "missing"),
        (["data", "check", "missing_folder"], "missing_folder"),
        (["report", "missing_run"], "missing_run"),
        (["demo", "num_gpu=-1"], "num_gpu: given -1"),
        (["options", "check", "train.total_iter"], "an override is written key=value"),
        (["demo", "train.totaliter=5"], "did you mean 'total_iter'"),
    ],
)
def test_mistakes_are_one_message_and_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_unknown_command_is_code_2() -> None:
    result = run("trian")
    assert result.returncode == 2
    assert "trian" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("rank", "level"), [("1", "ERROR"), (None, None)])
def test_many_processes_keep_the_pages_of_the_store_to_themselves(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, level: str | None
) -> None:
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ.get("TORCH_CPP_LOG_LEVEL") == level
    os.environ.pop("TORCH_CPP_LOG_LEVEL", None)
