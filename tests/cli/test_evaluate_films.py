"""``atelier evaluate --task colorize``: the system's modes or finished results, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from atelier.cli.evaluate_films import films_below
from atelier.cli.main import main
from atelier.colorize.modes import colour_in_modes
from atelier.colorize.reference_files import ReferenceFile
from atelier.errors import UserError
from atelier.evaluate.colouring_report import FILES
from atelier.images.files import read_image, write_image


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of a photograph, moving by two pixels a frame."""
    from atelier.data.bundled import bundled_path

    folder = tmp_path_factory.mktemp("films")
    picture = read_image(bundled_path("chelsea")).pixels
    for frame in range(4):
        part = picture[60 : 60 + 96, 100 + 2 * frame : 100 + 2 * frame + 128]
        write_image(folder / "cat" / f"{frame:03d}.png", np.ascontiguousarray(part))
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--task", "colorize", *words])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_a_colorizer_without_weights_is_measured(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, text, _ = run(capsys, "--gt", str(films), "--short-side", "64", "-o", str(out))
    assert code == 0
    rows = ["grey", "exemplar", "flow", "average", "fused", "ground truth"]
    assert [line.split("  ")[0] for line in text.splitlines() if line.split("  ")[0] in rows] == rows
    stored = json.loads((out / "evaluation.json").read_text())
    assert list(stored["mean"]) == rows
    assert stored["films"]["cat"]["counted"] == [1, 2, 3]
    mean = stored["mean"]
    assert mean["average"]["psnr"] == mean["fused"]["psnr"] > mean["grey"]["psnr"] + 3
    assert mean["grey"]["colourfulness"] < 0.5
    assert (out / "report.html").stat().st_size > 10_000


def test_what_is_measured_is_what_colorize_writes(films: Path, tmp_path: Path) -> None:
    from atelier.colorize.coloured import ColorizeOptions
    from atelier.colorize.opening import WeightFiles, open_system
    from atelier.colorize.runner import colorize_film

    opened = open_system(WeightFiles())
    paths = sorted((films / "cat").iterdir())
    references = [ReferenceFile(paths[0])]
    frames = [read_image(path).pixels for path in paths]
    modes = list(colour_in_modes(opened.system, frames, references, ("fused", "exemplar"), short_side=64))
    for mode in ("fused", "exemplar"):
        options = ColorizeOptions(mode=mode, short_side=64, scene_cut="off")
        target = tmp_path / mode
        colorize_film(opened, str(films / "cat"), f"{target}/%06d.png", references, options, quiet=True)
        written = [read_image(path).pixels for path in sorted(target.glob("*.png"))]
        assert len(written) == len(modes) == 4
        for ours, theirs in zip(modes, written, strict=True):
            assert np.array_equal(ours.pictures[mode], theirs)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of four frames."""
    from colorize.grey_films import clip, folder

    return folder(tmp_path_factory.mktemp("cut") / "cut", [*clip("chelsea", 4), *clip("astronaut", 4)])


def test_scenes_are_those_of_colorize(cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cut resets what is carried and chooses references, and nothing is measured across it."""
    from atelier.colorize.coloured import ColorizeOptions
    from atelier.colorize.opening import WeightFiles, open_system
    from atelier.colorize.runner import colorize_film

    opened = open_system(WeightFiles())
    paths = sorted(cut.iterdir())
    references = [ReferenceFile(paths[0]), ReferenceFile(paths[4])]
    frames = [read_image(path).pixels for path in paths]
    colorize_film(
        opened, str(cut), f"{tmp_path}/made/%06d.png", references, ColorizeOptions(short_side=64), quiet=True
    )
    written = [read_image(path).pixels for path in sorted((tmp_path / "made").glob("*.png"))]
    modes = list(colour_in_modes(opened.system, frames, references, ("fused",), short_side=64))
    assert [each.begins for each in modes] == [number == 4 for number in range(8)]
    assert all(np.array_equal(a.pictures["fused"], b) for a, b in zip(modes, written, strict=True))
    whole = list(
        colour_in_modes(opened.system, frames, references, ("fused",), short_side=64, scene_cut="off")
    )
    assert not any(each.begins for each in whole)
    assert not np.array_equal(whole[4].pictures["fused"], written[4]), "the cut makes no difference"

    words = ["--gt", str(cut), "--result", str(tmp_path / "made"), "-o", str(tmp_path / "report")]
    values = {}
    for rule, scenes in (("auto", [0, 4]), ("off", [0])):
        code, text, _ = run(capsys, *words, "--scene-cut", rule)
        assert code == 0 and ("cut: 2 scenes, from frames 0, 4" in text) == (rule == "auto")
        stored = json.loads((tmp_path / "report" / "evaluation.json").read_text())
        assert stored["films"]["cut"]["scenes"] == scenes
        values[rule] = stored["mean"]["ground truth"]
    assert values["auto"]["cdc"] < 0.8 * values["off"]["cdc"]
    code, text, _ = run(capsys, "--gt", str(cut), "--short-side", "64")
    assert code == 0 and "cut: 2 scenes, from frames 0, 4" in text


def test_the_true_colours_are_never_seen(films: Path) -> None:
    """Frames of the same lightness and other colours give the same pictures."""
    from atelier.colorize.opening import WeightFiles, open_system
    from atelier.colorize.working import join, lightness

    system = open_system(WeightFiles()).system
    paths = sorted((films / "cat").iterdir())
    frames = [read_image(path).pixels for path in paths]
    blank = []
    for frame in frames:
        import torch

        whole = lightness(frame)
        blank.append(join(whole, torch.zeros(1, 2, *whole.shape[-2:]), np.uint8)[0])
    reference = [ReferenceFile(paths[0])]
    seen, unseen = (
        list(colour_in_modes(system, each, reference, ("fused",), short_side=64)) for each in (frames, blank)
    )
    for a, b in zip(seen, unseen, strict=True):
        # Rounding to 8 bit moves lightness by less than one level.
        assert np.abs(a.pictures["fused"].astype(int) - b.pictures["fused"]).max() <= 12
        assert np.abs(a.pictures["fused"].astype(int) - b.pictures["fused"]).mean() < 0.5


def test_an_anchor_gives_its_frame_and_does_not_count(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = f"{films / 'cat' / '002.png'}@2"
    words = ["--gt", str(films / "cat"), "--short-side", "64", "-o", str(tmp_path / "o")]
    assert run(capsys, *words, "--reference", str(films / "cat" / "000.png"), "--reference", pinned)[0] == 0
    stored = json.loads((tmp_path / "o" / "evaluation.json").read_text())
    assert stored["films"]["cat"]["counted"] == [0, 1, 3]
    code, _, told = run(capsys, *words, "--reference", f"{films / 'cat' / '002.png'}@9")
    assert (code, "names frame 9, but" in told and "has 4 frames, 0 to 3" in told) == (2, True)


def test_finished_results_are_compared(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made" / "cat"
    for path in (films / "cat").iterdir():
        pixels = read_image(path).pixels
        write_image(made / path.name, (pixels // 2 + 64).astype(np.uint8))
    out = tmp_path / "out"
    code, _, _ = run(
        capsys, "--gt", str(films), "--result", str(tmp_path / "made"), "--result", str(films), "-o", str(out)
    )
    assert code == 0
    stored = json.loads((out / "evaluation.json").read_text())
    assert list(stored["mean"]) == ["grey", "made", films.name, "ground truth"]
    assert stored["mean"][films.name]["delta_ab"] == 0
    assert stored["mean"]["made"]["colourfulness_share"] == pytest.approx(0.5, abs=0.05)
    assert stored["films"]["cat"]["counted"] == [0, 1, 2, 3]
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    (made / "003.png").unlink()
    code, _, told = run(capsys, "--gt", str(films), "--result", str(tmp_path / "made"))
    assert (code, "has 3 frames" in told) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gt", "nowhere"], "--gt: nowhere does not exist"),
        (["--gt", "{films}", "--result", "{empty}"], "holds no frames"),
        (["--gt", "{films}", "--result", "{films}", "--reference", "a.png"], "leave the model"),
        (["--gt", "{films}", "--lq", "x"], "--lq is for pictures"),
        (["--gt", "{films}", "--first-frame", "anker"], "allowed are exemplar and anchor"),
        (["--gt", "{films}", "-m", "gone.pth"], "gone.pth does not exist"),
        (["--gt", "{films}", "--short-side", "50"], "multiple of 32"),
        (["--gt", "{films}", "--scene-cut", "sometimes"], "--scene-cut sometimes: auto, content, off"),
    ],
)
def test_mistakes_are_one_message(
    words: list[str], message: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(films=films, empty=tmp_path) for word in words]
    code, _, told = run(capsys, *filled)
    assert code == 2
    assert message in told
    assert told.count("\n") == 1


def test_films_that_cannot_be_measured_are_told_before_the_first_frame(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a film was coloured")

    monkeypatch.setattr("atelier.colorize.modes.colour_in_modes", never)
    paths = sorted((films / "cat").iterdir())
    for number, path in enumerate(paths):
        grey = np.repeat(read_image(path).pixels[..., 1:2], 3, axis=2)
        write_image(tmp_path / "grey" / path.name, grey)
        write_image(tmp_path / "sizes" / path.name, read_image(path).pixels[: 96 - (number == 3)])
    write_image(tmp_path / "one" / "0.png", read_image(paths[0]).pixels)
    (tmp_path / "report" / "frames.csv").mkdir(parents=True)
    for words, told in (
        (["--gt", str(films), "-o", str(paths[0])], "000.png is a file; the report goes into a folder"),
        (["--gt", str(films), "-o", str(tmp_path / "report")], "frames.csv: it is a folder"),
        (["--gt", str(films), "--reference", f"{paths[0]}@4"], "names frame 4, but .* has 4 frames"),
        (["--gt", str(tmp_path / "grey")], "grey is grey: its first frame should give the colours"),
        (["--gt", str(tmp_path / "sizes")], "003.png is 128x95, the first frame"),
        (["--gt", str(tmp_path / "one")], "one has one frame: .*colorize --mode exemplar, then .* --result"),
    ):
        code, _, error = run(capsys, *words)
        assert code == 2 and re.search(told, error) and "Traceback" not in error, error
    # The advice for a single frame works.
    code, table, _ = run(capsys, "--gt", str(tmp_path / "one"), "--result", str(films / "cat"))
    assert code == 2, "a result of four frames is no result of one"
    write_image(tmp_path / "made" / "0.png", read_image(paths[0]).pixels // 2)
    code, table, _ = run(capsys, "--gt", str(tmp_path / "one"), "--result", str(tmp_path / "made"))
    assert code == 0 and re.search(r"^made +\d", table, re.MULTILINE)


def test_listed_cuts_are_one_films(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cuts.txt").write_text("9")
    words = ["--short-side", "64", "--scene-cut", str(tmp_path / "cuts.txt")]
    code, _, told = run(capsys, "--gt", str(films), *words)
    assert code == 2 and re.search("--scene-cut names frame 9, but .* has 4 frames", told)
    write_image(tmp_path / "two" / "a" / "0.png", np.zeros((32, 32, 3), np.uint8))
    write_image(tmp_path / "two" / "b" / "0.png", np.zeros((32, 32, 3), np.uint8))
    code, _, told = run(capsys, "--gt", str(tmp_path / "two"), *words)
    assert code == 2 and "lists frames of one film, but --gt has 2" in told


def test_options_of_another_task_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, message in (
        (["--gt", str(tmp_path), "--reference", "a"], "--reference is for --task colorize"),
        (["--gt", str(tmp_path), "--scene-cut", "off"], "--scene-cut is for --task colorize"),
        (["--gt", str(tmp_path)], "-m names the model"),
        (["--gt", str(tmp_path), "--task", "colorise"], "did you mean 'colorize'"),
        *(
            (
                ["--gt", str(tmp_path), "--task", "colorize", *words],
                f"{words[0]} is for pictures, not for --task",
            )
            for words in (["--size", "64x64"], ["--no-latency"], ["--precision", "bf16"], ["--lq", "x"])
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *words])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_films_are_found_by_name(films: Path, tmp_path: Path) -> None:
    assert films_below(films, "--gt") == {"cat": films / "cat"}
    assert films_below(films / "cat", "--gt") == {"cat": films / "cat"}
    (tmp_path / "a.mp4").touch()
    (tmp_path / "notes.txt").touch()
    assert films_below(tmp_path, "--gt") == {"a": tmp_path / "a.mp4"}
    write_image(tmp_path / "a" / "0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="both a film called 'a'"):
        films_below(tmp_path, "--gt")
