"""``atelier colorize`` over films and folders: what comes out, scenes, anchors, stops, bad input."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from atelier.cli.colorize import plan_films
from atelier.cli.main import main
from atelier.colorize import runner
from atelier.colorize.coloured import ColorizeOptions
from atelier.colorize.opening import WeightFiles, open_system
from atelier.colorize.reference_files import find_references
from atelier.colorize.runner import colorize_film
from atelier.errors import UserError
from atelier.images.files import read_image
from colorize.films import CountingFlow
from colorize.grey_films import clip, film, folder, grey, picture
from films import moments, packets_of


@pytest.fixture(scope="module")
def opened() -> Any:
    return open_system(WeightFiles())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes in grey, frames and film, and a colour reference of each."""
    root = tmp_path_factory.mktemp("film")
    first, second = clip("chelsea", 7), clip("astronaut", 6)
    frames = np.stack([grey(frame) for frame in (*first, *second)])
    folder(root / "both", frames)
    folder(root / "second", frames[7:])
    film(root / "grey.mp4", frames, rate=Fraction(30000, 1001), audio=True)
    picture(root / "cat.png", first[0])
    picture(root / "woman.png", second[0])
    return root


def colour(opened: Any, source: Path, target: str, references: list[str], **options: Any) -> Any:
    lines: list[str] = []
    report = colorize_film(
        opened,
        str(source),
        target,
        find_references(references, options.pop("anchors", [])),
        ColorizeOptions(**options),
        tell=lines.append,
        quiet=True,
    )
    return report, lines


def pixels(where: Path) -> list[Any]:
    return [read_image(path).pixels for path in sorted(where.glob("*.png"))]


def psnr(first: Any, second: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(first, float) - np.asarray(second, float)) ** 2)))


def test_frames_are_coloured_and_keep_their_lightness(place: Path, tmp_path: Path, opened: Any) -> None:
    truth = clip("chelsea", 7)
    report, _ = colour(
        opened, folder(tmp_path / "in", [grey(f) for f in truth]), f"{tmp_path}/out/", [f"{place}/cat.png"]
    )
    result = pixels(tmp_path / "out")
    assert len(result) == 7
    pale = np.mean([psnr(grey(frame), frame) for frame in truth])
    assert np.mean([psnr(*pair) for pair in zip(result, truth, strict=True)]) > pale + 5
    outside = 0
    for frame, coloured in zip(truth, result, strict=True):
        apart = np.abs(rgb2lab(coloured)[..., 0] - rgb2lab(grey(frame))[..., 0]) * 2.55
        outside += int((apart > 1).sum())
    assert outside <= report.clipped * 7 * 64 * 64
    assert 0 < report.clipped < 0.5
    assert not (tmp_path / "out" / ".atelier-_06d.png.parts").exists()


def test_scenes_are_independent(place: Path, tmp_path: Path, opened: Any) -> None:
    """The second scene in the film equals the same frames alone, bit for bit."""
    both = [f"{place}/cat.png", f"{place}/woman.png"]
    report, lines = colour(opened, place / "both", f"{tmp_path}/film/", both, per_scene="best")
    alone, _ = colour(opened, place / "second", f"{tmp_path}/alone/", both, per_scene="best")
    assert [(scene.first, scene.frames) for scene in report.scenes] == [(0, 7), (7, 6)]
    assert [Path(scene.references[0]).name for scene in report.scenes] == ["cat.png", "woman.png"]
    assert [line for line in lines if line.startswith("scene 2 from frame 7")]
    for one, other in zip(pixels(tmp_path / "film")[7:], pixels(tmp_path / "alone"), strict=True):
        assert np.array_equal(one, other)
    # Teeth: without the cut the first scene is carried into the second.
    colour(opened, place / "both", f"{tmp_path}/uncut/", both, scene_cut="off")
    assert not np.array_equal(pixels(tmp_path / "uncut")[7], pixels(tmp_path / "film")[7])
    assert len(alone.scenes) == 1


def test_a_scene_has_three_frames_unless_a_person_says_otherwise(
    place: Path, tmp_path: Path, opened: Any
) -> None:
    def cut(*_: Any) -> bool:
        return True

    monkey = pytest.MonkeyPatch()
    monkey.setattr("atelier.colorize.scenes.MotionCuts.is_cut", cut)
    report, _ = colour(opened, place / "second", f"{tmp_path}/a/", [f"{place}/woman.png"])
    monkey.undo()
    assert [scene.first for scene in report.scenes] == [0, 3]
    (tmp_path / "cuts.txt").write_text("1 2 5")
    listed, _ = colour(
        opened,
        place / "second",
        f"{tmp_path}/b/",
        [f"{place}/woman.png"],
        scene_cut=str(tmp_path / "cuts.txt"),
    )
    assert [(scene.first, scene.frames) for scene in listed.scenes] == [(0, 1), (1, 1), (2, 3), (5, 1)]


def test_anchors_fix_their_frame(place: Path, tmp_path: Path, opened: Any) -> None:
    truth = clip("chelsea", 7)
    true = picture(tmp_path / "true.png", truth[4])
    source = folder(tmp_path / "in", [grey(frame) for frame in truth])
    report, lines = colour(opened, source, f"{tmp_path}/out/", [f"{place}/cat.png", f"{true}@4"], mode="flow")
    colour(opened, source, f"{tmp_path}/plain/", [f"{place}/cat.png"], mode="flow")
    result, without = pixels(tmp_path / "out"), pixels(tmp_path / "plain")
    assert psnr(result[4], truth[4]) > 40
    assert psnr(result[5], truth[5]) > psnr(without[5], truth[5])
    assert not report.notes[len(opened.notes) :]
    assert not [line for line in lines if line.startswith("warning")]
    _, warned = colour(opened, source, f"{tmp_path}/odd/", [f"{place}/woman.png@4"])
    assert [line for line in warned if "pins frame 4 does not resemble it" in line]


@pytest.mark.parametrize("mode", ["fused", "average", "flow", "exemplar"])
def test_modes_of_the_untrained_system(place: Path, tmp_path: Path, opened: Any, mode: str) -> None:
    report, _ = colour(opened, place / "second", f"{tmp_path}/out/", [f"{place}/woman.png"], mode=mode)
    assert (report.confidence is None) == (mode == "exemplar")
    assert report.film.frames == 6
    assert report.summary()["mode"] == mode


def test_motion_found_ahead_is_the_systems_own(
    place: Path, tmp_path: Path, opened: Any, monkeypatch: Any
) -> None:
    """With and without the thread the same frames, and the state is the prediction in floating point."""
    references = [f"{place}/cat.png"]
    colour(opened, place / "both", f"{tmp_path}/ahead/", references)
    monkeypatch.setattr(runner.Ahead, "_motion", _without_flow)
    colour(opened, place / "both", f"{tmp_path}/inline/", references)
    for one, other in zip(pixels(tmp_path / "ahead"), pixels(tmp_path / "inline"), strict=True):
        assert np.array_equal(one, other)


def _without_flow(self: Any, index: int, work: Any, last_work: Any, small: Any, last_small: Any) -> Any:
    return None, last_small is not None and self._rule.is_cut(small, last_small, index)


def test_odd_sizes_and_16_bits(tmp_path: Path, opened: Any) -> None:
    truth = clip("chelsea", 4, 160)[:, :97, :]
    deep = [grey(frame).astype(np.uint16) * 257 for frame in truth]
    source = folder(tmp_path / "in", deep)
    true = picture(tmp_path / "true.png", truth[0])
    report, _ = colour(
        opened, source, f"{tmp_path}/out/", [str(true)], short_side=32, chroma_upsample="guided"
    )
    assert report.size.content == (32, 53)
    result = pixels(tmp_path / "out")
    assert {frame.shape for frame in result} == {(97, 160, 3)} and {f.dtype.name for f in result} == {
        "uint16"
    }
    assert len(np.unique(result[1] % 257)) > 100
    assert psnr(result[0] / 257, truth[0]) > psnr(grey(truth[0]), truth[0]) + 3


def test_a_tint_is_not_read(place: Path, tmp_path: Path, opened: Any) -> None:
    """The colours of the input are no argument of the output: only its lightness is."""
    truth = clip("chelsea", 4)
    colour(opened, folder(tmp_path / "a", truth), f"{tmp_path}/from_colour/", [f"{place}/cat.png"])
    colour(
        opened,
        folder(tmp_path / "b", [grey(f) for f in truth]),
        f"{tmp_path}/from_grey/",
        [f"{place}/cat.png"],
    )
    for one, other in zip(pixels(tmp_path / "from_colour"), pixels(tmp_path / "from_grey"), strict=True):
        # The two inputs' lightness differs by the rounding of grey to 8 bits.
        assert np.abs(one.astype(int) - other.astype(int)).mean() < 1.5


def test_sound_and_time_are_untouched(place: Path, tmp_path: Path, opened: Any) -> None:
    output = tmp_path / "out.mp4"
    colour(opened, place / "grey.mp4", str(output), [f"{place}/cat.png"])
    assert moments(output) == moments(place / "grey.mp4")
    one, other = packets_of(place / "grey.mp4", "audio"), packets_of(output, "audio")
    assert one and list(one.values()) == list(other.values())


@pytest.mark.parametrize("stop", [0, 2, 5, 12])
def test_a_stopped_film_goes_on_with_equal_packets(
    place: Path, tmp_path: Path, opened: Any, stop: int, monkeypatch: Any
) -> None:
    references = [f"{place}/cat.png", f"{place}/woman.png"]
    options = {"segment": 3, "per_scene": "best", "max_reference_keys": 300}
    whole, _ = colour(opened, place / "grey.mp4", str(tmp_path / "whole.mkv"), references, **options)
    true_colour = runner._Colourist.colour

    def breaks(self: Any, frame: Any, look: Any, state: Any) -> Any:
        if frame.index == stop:
            raise KeyboardInterrupt
        return true_colour(self, frame, look, state)

    output = tmp_path / "out.mkv"
    monkeypatch.setattr(runner._Colourist, "colour", breaks)
    with pytest.raises(KeyboardInterrupt):
        colour(opened, place / "grey.mp4", str(output), references, **options)
    monkeypatch.undo()
    assert not output.exists()
    report, _ = colour(opened, place / "grey.mp4", str(output), references, **options)
    assert report.film.resumed == stop // 3 * 3
    assert packets_of(output, "video") == packets_of(tmp_path / "whole.mkv", "video")
    assert packets_of(output, "audio") == packets_of(tmp_path / "whole.mkv", "audio")
    told, expected = report.summary(), whole.summary()
    for key in ("scenes", "out_of_gamut", "flow_confidence", "exemplar_similarity", "frames"):
        assert told[key] == expected[key]


def test_going_on_with_other_options_or_references(
    place: Path, tmp_path: Path, opened: Any, monkeypatch: Any
) -> None:
    output = tmp_path / "out.mkv"
    monkeypatch.setattr(runner, "join", _broken_after(5))
    with pytest.raises(UserError, match="broken"):
        colour(opened, place / "grey.mp4", str(output), [f"{place}/cat.png"], segment=2)
    monkeypatch.undo()
    for changes, named in (
        ({"mode": "flow"}, "mode"),
        ({"saturation": 1.5}, "reference_saturation"),
        ({"segment": 3}, "segment"),
    ):
        with pytest.raises(UserError, match=rf"other options: {named} .*--overwrite begins anew"):
            colour(opened, place / "grey.mp4", str(output), [f"{place}/cat.png"], **{"segment": 2, **changes})
    with pytest.raises(UserError, match="other options: references; --overwrite"):
        colour(opened, place / "grey.mp4", str(output), [f"{place}/woman.png"], segment=2)
    colour(opened, place / "grey.mp4", str(output), [f"{place}/woman.png"], segment=2, overwrite=True)
    assert output.exists() and not (tmp_path / "out.mkv.parts").exists()


def _broken_after(frames: int) -> Any:
    from atelier.colorize.working import join

    count = [0]

    def broken(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] > frames:
            raise UserError("broken")
        return join(*arguments)

    return broken


def test_a_damaged_state_is_told(opened: Any) -> None:
    saved = runner._State().save()
    assert runner._State.load(saved, torch.device("cpu")) == runner._State()
    for wrong in (saved[:100], b"", saved.replace(b"sequence", b"sequenzz")):
        with pytest.raises(UserError, match="saved state of this film cannot be read"):
            runner._State.load(wrong, torch.device("cpu"))


def test_the_state_does_not_grow(place: Path, tmp_path: Path, opened: Any, monkeypatch: Any) -> None:
    sizes = []
    true_save = runner._State.save

    def save(self: Any) -> bytes:
        sizes.append(sum(t.numel() for t in self.sequence.tensors.values()) + self.small.numel())
        return true_save(self)

    monkeypatch.setattr(runner._State, "save", save)
    colour(opened, place / "both", f"{tmp_path}/out/", [f"{place}/cat.png"], segment=2)
    assert len(sizes) >= 5 and len(set(sizes)) == 1


# The command line


def run(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["colorize", *arguments])
    assert stop.value.code == 0


def refused(arguments: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["colorize", *arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    return str(lines[-1])


def test_the_command(place: Path, tmp_path: Path, capsys: Any) -> None:
    summary = tmp_path / "summary.json"
    run(
        [
            *("-i", str(place / "grey.mp4"), "--reference", f"{place}/cat.png", f"{place}/woman.png@7"),
            *("-o", str(tmp_path / "out.mp4"), "--scene_cut", "auto", "--summary", str(summary)),
        ]
    )
    told = capsys.readouterr().out
    assert "flow: dis" in told and "exemplar: tiny" in told and "fusion: average" in told
    assert "no trained weights are in use" in told and "atelier train -opt" in told
    assert "scene 1 from frame 0" in told and "scene 2 from frame 7" in told
    (entry,) = json.loads(summary.read_text())["films"]
    assert entry["frames"] == 13 and entry["size"] == [64, 64] and entry["working_size"] == [64, 64]
    assert [scene["first"] for scene in entry["scenes"]] == [0, 7]
    assert entry["references"][1] == {"file": f"{place}/woman.png", "frame": 7, "keys": 256}
    assert 0 <= entry["out_of_gamut"] < 1 and set(entry["parts"]) == {"flow", "exemplar", "fusion"}
    run(["-i", str(place / "grey.mp4"), "--reference", f"{place}/cat.png", "-o", str(tmp_path / "out.mp4")])
    assert "is done already" in capsys.readouterr().out


def test_a_finished_folder_is_not_coloured_again(place: Path, tmp_path: Path, capsys: Any) -> None:
    source = folder(tmp_path / "in", [grey(frame) for frame in clip("chelsea", 4)])
    words = ["-i", str(source), "--reference", f"{place}/cat.png", "-o", f"{tmp_path}/out/"]
    run(words)
    assert "4 frames in" in capsys.readouterr().out
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").iterdir())]
    run(words)
    assert (
        capsys.readouterr().out.strip()
        == f"{tmp_path}/out/ is done already, whatever options made it; --overwrite makes it anew"
    )
    assert before == [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").iterdir())]
    picture(source / "000004.png", grey(clip("chelsea", 5)[4]))
    run(words)
    assert "5 frames in" in capsys.readouterr().out
    run([*words, "--overwrite"])
    assert "5 frames in" in capsys.readouterr().out


def test_the_summary_tells_of_films_that_are_done(place: Path, tmp_path: Path, capsys: Any) -> None:
    """What the run that made a film said of it is kept."""
    summary = tmp_path / "s.json"
    words = ["-i", str(place / "second"), "--reference", f"{place}/woman.png", "-o", f"{tmp_path}/out/"]
    names = {"source": str(place / "second"), "output": f"{tmp_path}/out/"}
    run(words)
    run([*words, "--summary", str(summary)])
    assert json.loads(summary.read_text())["films"] == [{**names, "done_already": True}]
    run([*words, "--summary", str(summary), "--overwrite"])
    (made,) = json.loads(summary.read_text())["films"]
    assert made["frames"] == 6 and "done_already" not in made
    run([*words, "--summary", str(summary)])
    assert json.loads(summary.read_text())["films"] == [{**made, "done_already": True}]


def test_a_frame_that_is_missing_is_told(place: Path, tmp_path: Path, capsys: Any) -> None:
    source = folder(tmp_path / "in", [grey(frame) for frame in clip("chelsea", 5)])
    words = ["-i", str(source), "--reference", f"{place}/cat.png", "-o"]
    run([*words, f"{tmp_path}/whole/"])
    assert "warning" not in capsys.readouterr().out
    (source / "000002.png").unlink()
    run([*words, f"{tmp_path}/out.mkv"])
    assert (
        capsys.readouterr().out.count(f"warning: {source}/000002.png is missing between numbered pictures")
        == 1
    )


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_may_be_called_like_a_film(place: Path, tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "dir.mp4").mkdir()
    output = f"{tmp_path}/dir.mp4" + ("" if made else "/")
    (job,) = plan_films([str(place / "grey.mp4")], output)
    # A slash asks for frames, as everywhere in this command.
    assert job.target == (f"{tmp_path}/dir.mp4/grey_colour.mp4" if made else output)


def test_a_percent_sign_in_a_name_is_no_pattern(place: Path, tmp_path: Path) -> None:
    home = tmp_path / "50%done"
    folder(home / "9%d", [grey(frame) for frame in clip("chelsea", 3)])
    film(home / "1%d.mp4", [grey(frame) for frame in clip("chelsea", 3)])
    words = ["--reference", f"{place}/cat.png", "-o"]
    run(["-i", f"{home}/9%d", *words, f"{home}/out%d/"])
    assert len(pixels(home / "out%d")) == 3
    run(["-i", f"{home}/1%d.mp4", *words, f"{home}/films%d/"])
    assert len(pixels(home / "films%d")) == 3
    run(["-i", f"{home}/9%d/%06d.png", *words, f"{home}/again%d/"])
    assert len(pixels(home / "again%d")) == 3


def test_coloured_frames_keep_their_names(place: Path, tmp_path: Path) -> None:
    """A folder in, a folder out: the same names. Of a pattern the numbers go on from where the source's began."""
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(clip("chelsea", 3)):
        picture(tmp_path / "in" / f"shot_{number + 86:04d}.bmp", grey(frame))
    run(["-i", str(tmp_path / "in"), "--reference", f"{place}/cat.png", "-o", f"{tmp_path}/out/"])
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        f"shot_{number:04d}.png" for number in (86, 87, 88)
    ]
    source = str(tmp_path / "in" / "shot_%04d.bmp")
    run(["-i", source, "--reference", f"{place}/cat.png", "-o", f"{tmp_path}/other/%d.png"])
    for number in (86, 87, 88):
        one, other = tmp_path / "out" / f"shot_{number:04d}.png", tmp_path / "other" / f"{number}.png"
        assert one.read_bytes() == other.read_bytes()


def test_older_spellings(place: Path, tmp_path: Path, capsys: Any) -> None:
    """Several folders through the seed's flags; each has a folder of its own in the output."""
    run(
        [
            *("--input_dirs", str(place / "both"), str(place / "second"), "--output_dir", f"{tmp_path}/out"),
            *("--target_size", "64", "96", "--reference", f"{place}/cat.png", f"{place}/woman.png"),
        ]
    )
    assert len(pixels(tmp_path / "out" / "both")) == 13 and len(pixels(tmp_path / "out" / "second")) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-i names the film"),
        (["-i", "{0}/both"], "at least one colour picture"),
        (["-i", "{0}/nothing.mp4", "--reference", "{0}/cat.png"], "nothing.mp4 does not exist"),
        (["-i", "{0}/cat.png", "--reference", "{0}/cat.png"], "is no film"),
        (["-i", "{0}/both", "--reference", "{0}/both/000000.png"], "000000.png is grey"),
        (
            ["-i", "{0}/both", "--reference", "{0}/cat.png@13"],
            "names frame 13, but .* has 13 frames, 0 to 12",
        ),
        (["-i", "{0}/grey.mp4", "--anchor", "99={0}/cat.png"], "names frame 99, but .* has 13 frames"),
        (
            ["-i", "{0}/both", "--reference", "{0}/cat.png", "--mode", "fast"],
            "--mode fast: allowed are fused",
        ),
        (["-i", "{0}/both", "--reference", "{0}/cat.png", "--short-side", "100"], "multiple of 32"),
        (
            ["-i", "{0}/both", "--reference", "{0}/cat.png", "--target_size", "30", "40"],
            "--target-size 30 40",
        ),
        (["-i", "{0}/both", "--reference", "{0}/cat.png", "--codec", "libx264"], "--codec: for films only"),
        (["-i", "{0}/grey.mp4", "--reference", "{0}/cat.png", "--codec", "no264", "-o", "x.mp4"], "no264"),
        (["-i", "{0}/both", "--reference", "{0}/cat.png", "--resume", "--overwrite"], "--resume goes on"),
        (["-i", "{0}/both", "--reference", "{0}/cat.png", "-m", "none.pth"], "-m none.pth does not exist"),
        (["-i", "{0}/both", "--reference", "{0}/cat.png", "--flow", "memflow"], "needs its weights"),
        (["-i", "{0}/both", "--reference", "{0}/cat.png", "--exemplar-head", "colornet"], "--mode exemplar"),
        (["-i", "{0}/both", "{0}/second", "--reference", "{0}/cat.png@3"], "pins a frame of one film"),
        (
            ["-i", "{0}/both", "{0}/second", "--reference", "{0}/cat.png", "-o", "x.mp4"],
            "2 inputs need a folder",
        ),
        (
            ["-i", "{0}/both", "--reference", "{0}/cat.png", "-o", "x.xyz"],
            r"cannot write '\.xyz'.*\.mp4.* in / ",
        ),
        (["-i", "{0}/grey.mp4", "--reference", "{0}/cat.png", "-o", "x.png"], r"cannot write '\.png'.*%06d"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [text.format(place) for text in arguments]
    if "-o" not in given:
        given += ["-o", "out"]
    import re

    assert re.search(message, refused(given, capsys))
    assert not list(tmp_path.iterdir())


def test_films_that_are_none(place: Path, tmp_path: Path, capsys: Any) -> None:
    reference = ["--reference", f"{place}/cat.png", "-o", f"{tmp_path}/out/"]
    frames = clip("chelsea", 7)
    one = folder(tmp_path / "one", [grey(frames[0])])
    assert "has one frame" in refused(["-i", str(one), *reference], capsys)
    run(["-i", str(one), *reference, "--mode", "exemplar"])
    assert len(pixels(tmp_path / "out")) == 1
    single = film(tmp_path / "one.mp4", [grey(frames[0])])
    assert "has one frame" in refused(["-i", str(single), *reference], capsys)
    mixed = folder(tmp_path / "mixed", [grey(frames[0]), grey(frames[1])])
    picture(mixed / "000002.png", grey(clip("chelsea", 7, 48)[2]))
    assert "000002.png is 48x48, the first frame (000000.png) is 64x64" in refused(
        ["-i", str(mixed), *reference], capsys
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no pictures in" in refused(["-i", str(empty), *reference], capsys)
    (tmp_path / "none.mp4").write_bytes(b"")
    assert "none.mp4" in refused(["-i", str(tmp_path / "none.mp4"), *reference], capsys)


@pytest.mark.slow
def test_a_killed_command_goes_on_with_equal_packets(place: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, the same command with --resume."""
    import os
    import signal
    import time

    from support import start_command

    frames = np.concatenate([clip("chelsea", 40, 96), clip("astronaut", 40, 96)])
    source = film(tmp_path / "grey.mp4", [grey(frame) for frame in frames])
    command = ["colorize", "-i", str(source), "--reference", f"{place}/cat.png", "--segment", "10"]
    run([*command[1:], "-o", str(tmp_path / "whole.mkv")])
    process = start_command([*command, "-o", str(tmp_path / "out.mkv")], tmp_path / "log")
    began = time.monotonic()
    while not (tmp_path / "out.mkv.parts" / "000002.json").exists():
        assert process.is_alive() and time.monotonic() - began < 120
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "out.mkv").exists()
    run([*command[1:], "-o", str(tmp_path / "out.mkv"), "--resume"])
    assert packets_of(tmp_path / "out.mkv", "video") == packets_of(tmp_path / "whole.mkv", "video")


def test_the_summary_of_equal_runs_is_equal(place: Path, tmp_path: Path, opened: Any) -> None:
    digests = []
    for name in ("a", "b"):
        colour(opened, place / "second", f"{tmp_path}/{name}/", [f"{place}/woman.png"])
        whole = b"".join(path.read_bytes() for path in sorted((tmp_path / name).glob("*.png")))
        digests.append(hashlib.sha256(whole).hexdigest())
    assert digests[0] == digests[1]


def assembled(**parts: Any) -> Any:
    from atelier.colorize import FusionSystem
    from atelier.colorize.opening import OpenedSystem

    system = FusionSystem(**{"exemplar": "tiny", **parts}).eval().requires_grad_(False)
    return OpenedSystem(system, {}, (), "made here")


def test_what_the_flow_remembers_survives_a_stop(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A source of flow with a memory is asked in order, not ahead, and its memory is in the saved state."""
    references = [f"{place}/cat.png"]
    steady = CountingFlow()
    whole, _ = colour(assembled(flow=steady), place / "both", f"{tmp_path}/whole/", references, segment=3)
    assert whole.film.frames == 13 and len(steady.shown) == 11
    monkeypatch.setattr(runner, "join", _broken_after(7))
    with pytest.raises(UserError, match="broken"):
        colour(assembled(flow=CountingFlow()), place / "both", f"{tmp_path}/out/", references, segment=3)
    monkeypatch.undo()
    again = CountingFlow()
    report, _ = colour(assembled(flow=again), place / "both", f"{tmp_path}/out/", references, segment=3)
    assert report.film.resumed == 6
    assert [shown["pairs"] for shown in steady.shown] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]
    assert [shown["pairs"] for shown in again.shown] == [5, 0, 1, 2, 3, 4]
    for one, other in zip(pixels(tmp_path / "whole"), pixels(tmp_path / "out"), strict=True):
        assert np.array_equal(one, other)


def test_the_published_head_is_fed_what_it_made(place: Path, tmp_path: Path) -> None:
    from atelier.colorize.matcher_tiny import TinyMatcher

    class Head(TinyMatcher):
        colornet = torch.nn.Identity()

        def __init__(self) -> None:
            super().__init__()
            self.previous: list[Any] = []

        def refine(self, lightness: Any, ab: Any, similarity: Any, previous: Any) -> Any:
            self.previous.append(None if previous is None else previous[:, 1:].mean().item())
            return torch.full_like(ab, 0.1 * len(self.previous))

    head = Head()
    colour(
        assembled(flow="dis", exemplar=head),
        place / "second",
        f"{tmp_path}/out/",
        [f"{place}/woman.png"],
        mode="exemplar",
        exemplar_head="colornet",
    )
    assert head.previous[0] is None
    assert head.previous[1:] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    with pytest.raises(UserError, match=r"needs SwinTExCo's colornet\.pth"):
        colour(
            assembled(flow="dis"),
            place / "second",
            f"{tmp_path}/none/",
            [f"{place}/woman.png"],
            mode="exemplar",
            exemplar_head="colornet",
        )
    assert not (tmp_path / "none").exists()
