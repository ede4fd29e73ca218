"""Flags of ``atelier export`` that do not go together are refused; none is left without effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atelier.cli.main import main
from atelier.images import write_image


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-drop", "0"], "--max-drop belongs to --int8"),
        (["--activations", "16"], "--activations belongs to --int8 or --target"),
        (["--validation-lq", "{lq}"], "--validation-lq belongs to --validation"),
        (
            ["--target", "qcs8550", "--calibration", "{lq}", "--opset", "22"],
            "--opset belongs to a single file",
        ),
        (
            ["--target", "qcs8550", "--calibration", "{lq}", "--format", "ncnn"],
            "--format belongs to a single",
        ),
        (["--int8"], "--int8 needs --calibration DIR"),
        (["--int8", "--calibration", "{lq}", "--size", "32x32"], "--size does not go with --int8"),
    ],
)
def test_flags_without_effect_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_image(tmp_path / "lq" / "a.png", np.zeros((8, 8, 3), np.uint8))
    given = [word.format(lq=tmp_path / "lq") for word in words]
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path / "none.pth"), "-o", str(tmp_path / "out.onnx"), *given])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["lq"]


def test_true_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    from atelier.cli.export import _named
    from atelier.errors import UserError

    for name in ("A/1.png", "B/1.png"):
        write_image(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    assert _named(tmp_path, "--validation") == {"A/1": tmp_path / "A/1.png", "B/1": tmp_path / "B/1.png"}
    write_image(tmp_path / "B/1.bmp", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"--validation: .*1.bmp and 1.png have the same name"):
        _named(tmp_path, "--validation")
