"""``atelier restore`` on films: sizes, still frames, names, stops, channels that do not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import typer
from torch import nn
from typer.testing import CliRunner

from atelier.cli.restore import parse_rate, restore
from atelier.errors import UserError
from atelier.images.video import open_video
from atelier.restore import model, video
from atelier.restore.model import RestorationModel
from atelier.restore.video import FilmJob, plan_film, restore_film
from films import flat_film, moments, packets_of

app = typer.Typer()
app.command()(restore)


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    conv_net: Callable[..., nn.Module],
    small_facts: Callable[..., Any],
) -> Path:
    """A working folder with ``net.pth`` (stands for a small x2 network) and ``film.mp4`` with two sound tracks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(b"weights")
    flat_film(tmp_path / "film.mp4", frames=12, size=(24, 16), audio=2, still=3, aspect=Fraction(4, 3))
    facts = small_facts()

    def load(path: Path, **options: Any) -> RestorationModel:
        chosen = replace(facts, in_channels=4, out_channels=4) if "four" in path.name else facts
        return RestorationModel(conv_net(), chosen, device="cpu", precision=options["precision"])

    monkeypatch.setattr(model, "load_model", load)
    return tmp_path


def run(*words: str) -> Any:
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def visible(where: Path) -> list[str]:
    """Names in a folder, without the note of whose they are."""
    return sorted(path.name for path in where.iterdir() if not path.name.startswith("."))


def as_it_is(job: FilmJob, *, overwrite: bool = False) -> None:
    """Copy the pictures of a film."""
    restore_film(lambda pixels, tell: pixels, job, lambda w, h: (w, h), overwrite=overwrite, quiet=True)


def test_a_film_twice_as_large(folder: Path) -> None:
    result = run("-i", "film.mp4", "-m", "net.pth", "--crf", "1", "--segment", "5")
    target = folder / "results" / "film_out.mp4"
    assert result.exit_code == 0 and "12 frames in" in result.output
    for stage in ("decoding", "processing", "encoding"):
        assert stage in result.output
    facts = open_video(target).facts
    assert (facts.width, facts.height, facts.sample_aspect) == (48, 32, Fraction(4, 3))
    assert moments(target) == moments(folder / "film.mp4")
    before, after = packets_of(folder / "film.mp4", "audio"), packets_of(target, "audio")
    assert len(before) == 2 and before == after
    assert "done already" in run("-i", "film.mp4", "-m", "net.pth").output
    assert "12 frames in" in run("-i", "film.mp4", "-m", "net.pth", "--overwrite").output


def test_interlaced_material_is_told_of(folder: Path) -> None:
    warning = "warning: fields.mp4 is interlaced: a frame holds the lines of two moments"
    flat_film(folder / "fields.mp4", frames=4, size=(24, 16), interlaced=True)
    assert run("-i", "fields.mp4", "-m", "net.pth").output.count(warning) == 1
    assert "interlaced" not in run("-i", "film.mp4", "-m", "net.pth").output


def test_still_frames_are_restored_once(folder: Path) -> None:
    flat_film(folder / "still.mkv", frames=12, size=(24, 16), codec="ffv1", still=3)
    job = plan_film("still.mkv", "out.mkv")
    assert job is not None
    seen = []

    def count(pixels: Any, on_tile: Any) -> Any:
        seen.append(pixels)
        return pixels

    report = restore_film(count, job, lambda w, h: (w, h), quiet=True)
    assert len(seen) == 4 and report.repeated == 8
    assert "8 frames equal" in str(report)


@pytest.mark.parametrize("outscale", ["1.5", "0.3"])
def test_outscale_and_odd_sizes(folder: Path, outscale: str) -> None:
    run("-i", "film.mp4", "-m", "net.pth", "-o", "o.mp4", "-s", outscale)
    facts = open_video(folder / "o.mp4").facts
    assert (facts.width, facts.height) == (int(24 * float(outscale)), int(16 * float(outscale)))


def test_pictures_in_and_out(folder: Path) -> None:
    run("-i", "film.mp4", "-m", "net.pth", "-o", "frames/%04d.png")
    assert visible(folder / "frames") == [f"{n:04d}.png" for n in range(12)]
    run("-i", "frames", "-m", "net.pth", "-o", "again.mp4", "--rate", "24000/1001")
    facts = open_video(folder / "again.mp4").facts
    assert (facts.width, facts.height, facts.rate) == (96, 64, Fraction(24000, 1001))
    run("-i", "frames/%04d.png", "-m", "net.pth", "-o", "more")
    assert visible(folder / "more") == [f"{n:04d}.png" for n in range(12)]


@pytest.mark.parametrize(
    ("whole", "gap", "told"), [("whole", "twice", "11 restored"), ("whole.mp4", "film.mkv", "11 frames in")]
)
def test_a_folder_of_frames_with_a_gap_is_restored_and_told(
    folder: Path, whole: str, gap: str, told: str
) -> None:
    run("-i", "film.mp4", "-m", "net.pth", "-o", "frames/%06d.png")
    assert "warning" not in run("-i", "frames", "-m", "net.pth", "-o", whole).output
    (folder / "frames" / "000003.png").unlink()
    result = run("-i", "frames", "-m", "net.pth", "-o", gap)
    assert result.exit_code == 0 and told in result.output
    assert result.output.count("warning: frames/000003.png is missing between numbered pictures") == 1


def test_pictures_that_are_done_are_not_repeated(folder: Path) -> None:
    """As films: done where nothing of the source is newer, none is missing, and no run is unfinished."""
    words = ("-m", "net.pth", "-i")
    pictures = [*words, "film.mp4", "-o", "frames/%04d.png"]
    assert "12 frames in" in run(*pictures).output
    assert "frames/%04d.png is done already" in run(*pictures).output
    from_frames = [*words, "frames", "-o", "more/%04d.png"]
    made = FilmJob("frames", "more/%04d.png")
    assert not made.is_done()
    run(*from_frames)
    assert "done already" in run(*from_frames).output
    (folder / "more" / "0011.png").unlink()
    assert not made.is_done()
    run(*from_frames)
    before = (folder / "frames" / "0005.png").stat()
    os.utime(folder / "frames" / "0005.png", (2e9, 2e9))  # far in the future: newer than its result
    assert not made.is_done()
    os.utime(folder / "frames" / "0005.png", (1e9, 1e9))
    assert not made.is_done(), "older than its result, and another one all the same"
    os.utime(folder / "frames" / "0005.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert made.is_done()
    notes = folder / "more" / ".atelier-_04d.png.parts"
    (notes / "@eaDir").mkdir(parents=True)  # whoever made it: no work of ours
    assert made.is_done()
    (notes / "plan.json").write_text("{}")
    assert not made.is_done()
    (notes / "plan.json").unlink()
    (folder / "frames" / "0011.png").rename(folder / "last.png")
    os.utime(folder / "frames", (2e9, 2e9))  # one frame less: only the folder tells
    assert not made.is_done()
    run(*words, "more", "-o", "more/film.mkv")
    assert FilmJob("more", "more/film.mkv").is_done(), (
        "a film made in the folder of its frames changes its time"
    )
    assert not FilmJob("more", "more/film.avi").is_done() and not FilmJob("-", "more/film.mkv").is_done()


def test_a_folder_may_be_called_like_a_film(folder: Path) -> None:
    (folder / "there.mp4").mkdir()
    for name in ("there.mp4", "new.mp4/"):
        assert "12 frames in" in run("-i", "film.mp4", "-m", "net.pth", "-o", name).output
        assert [path.name for path in (folder / name).iterdir()] == ["film_out.mp4"]
        assert (folder / name / "film_out.mp4").is_file()
    (folder / "results" / "film_out.mp4").mkdir(parents=True)
    assert not FilmJob("film.mp4", "results/film_out.mp4").is_done()
    with pytest.raises(UserError, match=r"results/film_out\.mp4: it is a folder"):
        run("-i", "film.mp4", "-m", "net.pth")
    (folder / "in").mkdir()
    (folder / "film.mp4").rename(folder / "in" / "film.mp4")
    with pytest.raises(UserError, match=r"results/film_out\.mp4: it is a folder"):
        run("-i", "in", "-m", "net.pth")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25", Fraction(25)),
        ("12.5", Fraction(25, 2)),
        ("24000/1001", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("29.97002997", Fraction(30000, 1001)),
        ("29.97002997002997", Fraction(30000, 1001)),
        ("29.971", Fraction(29971, 1000)),
        ("2997/100", Fraction(2997, 100)),
        ("33.333333333333336", Fraction(100, 3)),
        ("0.333333333333", Fraction(1, 3)),
        ("0.5", Fraction(1, 2)),
        ("25.0001", Fraction(250001, 10000)),
        ("0.00001", Fraction(1, 100000)),
    ],
)
def test_rates(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["0.0000000001", "1/4294967296", "4294967297/4294967296", "1/100001", "0", "-1", "1001", "x"]
)
def test_rates_that_no_film_has(text: str) -> None:
    with pytest.raises(UserError, match=f"--rate {text}: "):
        parse_rate(text)


def test_pictures_of_another_film_are_not_left_among_ours(folder: Path) -> None:
    """Whoever reads the folder next would take all of them for one film."""
    flat_film(folder / "five.mp4", frames=5, size=(24, 16))
    for target in ("seq/%06d.png", "seq/"):
        one, other = FilmJob("film.mp4", target), FilmJob("five.mp4", target)
        as_it_is(one, overwrite=True)
        assert one.is_done() and not other.is_done(), "no frame of it was made"
        (folder / "seq" / "cover.jpg").write_bytes(b"theirs")
        before = {path.name: path.stat().st_mtime_ns for path in (folder / "seq").iterdir()}
        with pytest.raises(
            UserError, match=r"seq has pictures already that were not made of five\.mp4"
        ) as told:
            as_it_is(other)
        assert "000000.png and 11 more; --overwrite removes them, or choose another" in str(told.value)
        assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "seq").iterdir()}
        as_it_is(other, overwrite=True)
        assert visible(folder / "seq") == [f"{n:06d}.png" for n in range(5)] + ["cover.jpg"]
        assert other.is_done() and not one.is_done()


def test_results_of_a_folder_follow_its_frames(folder: Path) -> None:
    made = FilmJob("frames", "out/")
    as_it_is(FilmJob("film.mp4", "frames/%04d.png"))
    as_it_is(made)
    os.utime(folder / "frames" / "0003.png", (1e9, 1e9))
    assert not made.is_done()
    as_it_is(made)  # every picture is made again: nothing old can be left
    assert made.is_done()
    (folder / "frames" / "0011.png").rename(folder / "last.png")
    with pytest.raises(
        UserError, match=r"out has pictures already that were not made of frames as it is now"
    ):
        as_it_is(made)
    as_it_is(made, overwrite=True)
    assert visible(folder / "out") == [f"{n:04d}.png" for n in range(11)] and made.is_done()
    # Another folder of frames with the same names is another film.
    (folder / "frames").rename(folder / "others")
    os.utime(folder / "others" / "0003.png", (1.1e9, 1.1e9))
    with pytest.raises(UserError, match="not made of others"):
        as_it_is(FilmJob("others", "out/"))


def test_the_same_frames_under_other_numbers(folder: Path) -> None:
    as_it_is(FilmJob("film.mp4", "frames/%04d.png"))
    for number in range(5):
        (folder / "frames" / f"{number:04d}.png").unlink()
    as_it_is(FilmJob("frames", "out/%d.png"))
    assert visible(folder / "out") == sorted(f"{n}.png" for n in range(7))
    numbered = FilmJob("frames/%04d.png", "out/%d.png")
    assert not numbered.is_done()
    as_it_is(numbered)
    assert visible(folder / "out") == sorted(f"{n}.png" for n in range(5, 12)) and numbered.is_done()


def test_pictures_of_unknown_origin_are_not_written_over(folder: Path) -> None:
    seq = folder / "seq"
    seq.mkdir()
    (seq / "000001.png").write_bytes(b"theirs")
    (seq / ".atelier-_06d.png.made").write_text("torn")
    job = FilmJob("film.mp4", "seq/%06d.png")
    assert not job.is_done()
    with pytest.raises(UserError, match=r"as it is now: 000001\.png; --overwrite removes them"):
        as_it_is(job)
    assert (seq / "000001.png").read_bytes() == b"theirs" and len(list(seq.iterdir())) == 2
    # Two ways to name the same pictures: what one has overwritten the other does not call its own.
    as_it_is(job, overwrite=True)
    flat_film(folder / "twelve.mp4", frames=12, size=(24, 16), codec="mpeg4")
    as_it_is(FilmJob("twelve.mp4", "seq/"), overwrite=True)
    assert not job.is_done()


def test_a_stopped_film_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("-i", "film.mp4", "-m", "net.pth", "--segment", "3")
    run(*words, "-o", "whole.mp4")
    calls = []
    real = RestorationModel.restore

    def stopping(self: RestorationModel, image: Any, **options: Any) -> Any:
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, image, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RestorationModel, "restore", stopping)
        assert run(*words, "-o", "b.mp4").exit_code != 0
    assert not (folder / "b.mp4").exists()
    result = run(*words, "-o", "b.mp4")
    assert result.exit_code == 0
    assert (folder / "b.mp4").read_bytes() == (folder / "whole.mp4").read_bytes()


def test_a_stopped_film_does_not_go_on_with_other_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another entry of one file, and an export whose graph is the same, are other weights."""
    (folder / "net.param").write_text("7767517")
    (folder / "net.bin").write_bytes(b"weights")
    words = ("-i", "film.mp4", "-o", "b.mp4", "--segment", "3", "-m", "net.param")
    real = video.transform_film

    def stopping(source: Any, target: Any, process: Any, *given: Any, **options: Any) -> Any:
        def work(frame: Any, state: Any) -> Any:
            if frame.index == 4:
                raise UserError("stopped here")
            return process(frame, state)

        return real(source, target, work, *given, **options)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped here"):
        patch.setattr(video, "transform_film", stopping)
        run(*words)
    with pytest.raises(UserError, match=r"other options: param_key \(None before, params now\)"):
        run(*words, "--param-key", "params")
    with pytest.raises(UserError, match="other options: plugin;"):
        run(*words, "--plugin", "colorsys")
    (folder / "net.bin").write_bytes(b"others!")
    with pytest.raises(UserError, match="other options: model;"):
        run(*words)
    (folder / "net.bin").write_bytes(b"weights")
    assert "12 frames (3 taken over)" in run(*words).output


def test_what_is_refused(folder: Path) -> None:
    for unused in (["--ext", "jpg"], ["--suffix", "big"]):
        with pytest.raises(UserError, match=rf"{unused[0]}: for results in a folder; -o b\.mp4 is the whole"):
            run("-i", "film.mp4", "-m", "net.pth", "-o", "b.mp4", *unused)
        with pytest.raises(UserError, match=f"{unused[0]}: numbered pictures keep their names"):
            run("-i", "frames/%d.png", "-m", "net.pth", "-o", "b", *unused)
    with pytest.raises(UserError, match="--ext jpg: for pictures only"):
        run("-i", "film.mp4", "-m", "net.pth", "--ext", "jpg")
    (folder / "four.pth").write_bytes(b"weights")
    with pytest.raises(UserError, match="takes 4 channels"):
        run("-i", "film.mp4", "-m", "four.pth", "-o", "b.mp4")
    with pytest.raises(UserError, match="no encoder 'h999'"):
        run("-i", "film.mp4", "-m", "net.pth", "--codec", "h999")
    with pytest.raises(UserError, match=r"absent\.mp4 does not exist"):
        run("-i", "absent.mp4", "-m", "net.pth")
    with pytest.raises(UserError, match="--rate never"):
        run("-i", "frames/%d.png", "-m", "net.pth", "--rate", "never", "-o", "b.mp4")
    (folder / "in").mkdir()
    with pytest.raises(UserError, match="--crf: for films only"):
        run("-i", "in", "-m", "net.pth", "--crf", "3")
    with pytest.raises(UserError, match="overwritten by its own result"):
        run("-i", "film.mp4", "-m", "net.pth", "-o", "film.mp4")
    for source in ("film.mp4", "frames/%d.png"):
        with pytest.raises(
            UserError, match=r"-o b\.xyz: cannot write '\.xyz' here; allowed are \.mp4.* ends in /"
        ):
            run("-i", source, "-m", "net.pth", "-o", "b.xyz")
    with pytest.raises(UserError, match="needs a name"):
        run("-i", "-", "-m", "net.pth")
    with pytest.raises(UserError, match="has timestamps of its own"):
        run("-i", "film.mp4", "-m", "net.pth", "-o", "b.mp4", "--rate", "24")
    assert not (folder / "b.mp4").exists() and not (folder / "results").exists()


def test_a_percent_sign_in_a_name(folder: Path) -> None:
    (folder / "50%done").mkdir()
    (folder / "film.mp4").rename(folder / "50%done" / "100%d.mp4")
    as_film = plan_film("50%done/100%d.mp4", "50%done/results")
    assert as_film is not None
    as_it_is(as_film)
    assert as_film.is_done() and len(moments(folder / "50%done" / "results" / "100%d_out.mp4")) == 12
    as_pictures = plan_film("50%done/100%d.mp4", "50%done/%d.png")
    assert as_pictures is not None
    as_it_is(as_pictures)
    assert as_pictures.is_done() and (folder / "50%done" / "11.png").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(folder: Path) -> None:
    """Peak memory of a process that streams 10,000 frames is that of one that streams 1,000, within 10 %."""
    import subprocess
    import sys

    code = (
        "import resource, sys\n"
        "from atelier.restore.video import plan_film, restore_film\n"
        "restore_film(lambda p, t: p, plan_film(sys.argv[1], sys.argv[2]), lambda w, h: (w, h), quiet=True)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for frames in (1000, 10000):
        film = flat_film(folder / f"{frames}.mp4", frames=frames, size=(64, 48), audio=1)
        words = [sys.executable, "-c", code, str(film), str(folder / f"{frames}_out.mp4")]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
        assert len(packets_of(folder / f"{frames}_out.mp4", "video")[0]) == frames
    assert peaks[1] < 1.1 * peaks[0], peaks
