"""Writing films: timestamps, other streams, colours and aspect carried; stopped runs go on to equal bytes."""

from __future__ import annotations

import errno
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from atelier.errors import RunStopped, UserError
from atelier.images.files import write_image
from atelier.images.video import FrameSource, VideoFrame, open_video
from atelier.images.video_colour import Colour
from atelier.images.video_encode import Encoding, Picture, find_encoder, plan_encoding
from atelier.images.video_film import FilmReport, transform_film
from atelier.images.video_segments import VideoWriter
from atelier.images.video_targets import PipeWriter, open_target
from films import NTSC, flat_film, flat_picture, moments, packets_of

UNEVEN = [4500, 4501, 4506, 9007, 9013, 12351, 12352, 20017, 20018, 29000]


def same(frame: VideoFrame, state: int) -> tuple[Any, int]:
    return frame.pixels, state


def remembering(frame: VideoFrame, state: int) -> tuple[Any, int]:
    """A function with a memory: a run that forgets it gives other pictures."""
    return frame.pixels // 2 + np.uint8(state % 100), state + int(frame.pixels[-1, -1, 0])


def convert(
    source: Path,
    target: Path | str,
    process: Callable[[VideoFrame, int], tuple[Any, int]] = same,
    *,
    encoding: Encoding = Encoding(crf=1),  # noqa: B008
    **options: Any,
) -> FilmReport:
    film = open_video(source)
    try:
        size = (film.facts.width, film.facts.height)
        writer = open_target(target, film, size, encoding, **{"segment": 8, **options})
        return transform_film(
            film, writer, process, 0, save_state=pickle.dumps, load_state=pickle.loads, quiet=True
        )
    finally:
        film.close()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".nut"])
def test_ntsc_with_two_tracks(tmp_path: Path, suffix: str) -> None:
    source = flat_film(tmp_path / "a.mp4", audio=2, aspect=Fraction(4, 3), colour=(1, 1, 1, 1))
    target = tmp_path / f"b{suffix}"
    report = convert(source, target)
    assert report.frames == 24 and not target.with_name(f"{target.name}.parts").exists()
    before, after = packets_of(source, "audio"), packets_of(target, "audio")
    assert len(before) == len(after) == 2
    for index in before:
        assert [data for _, data in before[index]] == [data for _, data in after[index]]
    # MP4 and MOV keep every moment. Matroska counts milliseconds, and it and Nut have no time before zero, where
    # the sound begins: everything is later by the same time.
    shown, heard = moments(target), [when for when, _ in after[1]]
    shift = shown[0]
    exact = suffix in (".mp4", ".mov")
    assert shift == 0 if exact else shift > 0
    allowed = Fraction(1, 1000) if suffix == ".mkv" else 0
    assert all(abs(when - shift - index / NTSC) <= allowed for index, when in enumerate(shown))
    assert all(abs(b - shift - a) <= allowed for (a, _), b in zip(before[1], heard, strict=True))
    if exact:
        assert list(open_video(target).frames())[-1].duration == 1001
    facts = open_video(target).facts
    assert (facts.said, facts.sample_aspect) == (Colour(1, 1, 1, 1), Fraction(4, 3))


def test_uneven_timestamps(tmp_path: Path) -> None:
    source = flat_film(tmp_path / "a.mp4", frames=10, pts=UNEVEN, time_base=Fraction(1, 90000))
    convert(source, tmp_path / "b.mp4", segment=3)
    assert moments(tmp_path / "b.mp4") == moments(source) == [Fraction(p, 90000) for p in UNEVEN]


@pytest.mark.parametrize(
    ("pixel_format", "size", "expected"),
    [
        ("yuv420p", (48, 32), "yuv420p"),
        ("yuv444p", (47, 33), "yuv444p"),
        ("yuv420p10le", (48, 32), "yuv420p10le"),
        ("yuv444p10le", (47, 33), "yuv444p10le"),
    ],
)
def test_sizes_and_depths(tmp_path: Path, pixel_format: str, size: tuple[int, int], expected: str) -> None:
    source = flat_film(
        tmp_path / "a.mp4", frames=4, pixel_format=pixel_format, size=size, colour=(9, 1, 9, 16)
    )
    convert(source, tmp_path / "b.mp4")
    result = open_video(tmp_path / "b.mp4")
    assert (result.facts.pixel_format, result.facts.said) == (expected, Colour(9, 1, 9, 16))
    deep = result.facts.bits > 8
    for frame in result.frames():
        away = np.abs(frame.pixels.astype(int) - flat_picture(frame.index, size, deep=deep))
        allowed = 2 * 257 if deep else 2
        assert away[:8, :12].max() <= allowed and away[24:, 36:].max() <= allowed


def test_turned_films_become_upright(tmp_path: Path) -> None:
    source = flat_film(tmp_path / "a.mp4", frames=3, rotation=90, aspect=Fraction(4, 3))
    convert(source, tmp_path / "b.mp4")
    result = open_video(tmp_path / "b.mp4")
    assert (result.facts.width, result.facts.height, result.facts.sample_aspect) == (32, 48, Fraction(3, 4))
    assert not result.facts.turn.transpose
    frame = next(result.frames())
    assert frame.pixels[-9, 9, 0] > 150 > frame.pixels[9, 9, 0]


def test_subtitles_chapters_and_notes(tmp_path: Path) -> None:
    film = flat_film(tmp_path / "film.mkv", audio=1)
    lines = tmp_path / "lines.srt"
    lines.write_text("1\n00:00:00,100 --> 00:00:00,300\nGrüße\n\n2\n00:00:00,400 --> 00:00:00,600\nEnd\n\n")
    source = tmp_path / "a.mkv"
    with (
        av.open(str(film)) as pictures,
        av.open(str(lines)) as text,
        av.open(str(source), "w") as out,
    ):
        pairs = [(s, out.add_stream_from_template(s, opaque=True)) for s in pictures.streams]
        words = out.add_stream_from_template(text.streams.subtitles[0], opaque=True)
        words.metadata["language"] = "deu"
        out.metadata["title"] = "A film"
        out.set_chapters(
            [{"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}]
        )
        for packet in pictures.demux():
            if packet.size:
                packet.stream = dict(pairs)[packet.stream]
                out.mux(packet)
        for packet in text.demux():
            if packet.size:
                packet.stream = words
                out.mux(packet)
    convert(source, tmp_path / "b.mkv")
    assert packets_of(source, "subtitle") == packets_of(tmp_path / "b.mkv", "subtitle")
    assert len(packets_of(source, "subtitle")[2]) == 2
    with av.open(str(tmp_path / "b.mkv")) as result:
        assert result.metadata["title"] == "A film"
        assert [chapter["metadata"] for chapter in result.chapters()] == [{"title": "One"}]
        assert result.streams.subtitles[0].metadata["language"] == "deu"
    with pytest.raises(UserError, match=r"\.mp4 cannot hold subtitle 2 \(srt, deu\)"):
        convert(source, tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "out/%04d.png"])
@pytest.mark.parametrize("killed", [3, 8, 21])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, name: str, killed: int) -> None:
    source = flat_film(tmp_path / "a.mp4", audio=1)
    whole = tmp_path / "whole" / name
    convert(source, whole, remembering)
    code = (
        "import os, pickle, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_video_segments import convert, remembering\n"
        f"def dying(frame, state):\n    if frame.index == {killed}: os._exit(9)\n    return remembering(frame, state)\n"
        "convert(Path(sys.argv[2]), Path(sys.argv[3]), dying)\n"
    )
    target = tmp_path / "again" / name
    here = Path(__file__).parent
    arguments = [sys.executable, "-c", code, str(here), str(source), str(target)]
    environment = {"PYTHONPATH": str(here.parent), "PATH": ""}
    assert subprocess.run(arguments, env=environment, check=False).returncode == 9
    assert not target.exists()
    report = convert(source, target, remembering)
    assert report.resumed in (0, 8, 16) and report.resumed <= killed and report.frames == 24
    if "%" in name:
        files = sorted(path.name for path in whole.parent.iterdir())
        # A file that was being written when the process died stays hidden.
        again = sorted(path.name for path in target.parent.iterdir() if not path.name.endswith(".tmp"))
        assert len(files) == 25 and files == again
        assert files[0] == ".atelier-_04d.png.made"
        assert all((whole.parent / f).read_bytes() == (target.parent / f).read_bytes() for f in files)
    else:
        assert whole.read_bytes() == target.read_bytes()


def test_an_error_keeps_finished_segments(tmp_path: Path) -> None:
    source = flat_film(tmp_path / "a.mp4")
    target = tmp_path / "b.mp4"

    def failing(frame: VideoFrame, state: int) -> tuple[Any, int]:
        if frame.index == 18:
            raise KeyError("network")
        return remembering(frame, state)

    with pytest.raises(KeyError, match="network"):
        convert(source, target, failing)
    kept = sorted(path.name for path in (tmp_path / "b.mp4.parts").iterdir())
    assert kept == [f"{n:06d}.{kind}" for n in (0, 1) for kind in ("json", "nut", "state")] + ["plan.json"]
    assert not target.exists()
    with pytest.raises(UserError, match="began with other options: crf \\(1 before, 2 now\\); --overwrite"):
        convert(source, target, remembering, encoding=Encoding(crf=2))
    with pytest.raises(UserError, match="segment \\(8 before, 9 now\\)"):
        convert(source, target, remembering, segment=9)
    assert convert(source, target, remembering).resumed == 16
    convert(source, tmp_path / "c.mp4", remembering)
    assert target.read_bytes() == (tmp_path / "c.mp4").read_bytes()


@pytest.mark.parametrize("frames", [7, 14, 15])
def test_segments_of_seven_frames_are_joined(tmp_path: Path, frames: int) -> None:
    """At the end of so many FFmpeg does not say when they are decoded."""
    source = flat_film(tmp_path / "a.mp4", frames=frames, audio=1)
    assert convert(source, tmp_path / "b.mp4", segment=7).frames == frames
    assert moments(tmp_path / "b.mp4") == moments(source)
    convert(source, tmp_path / "c.mkv", segment=8)
    assert len(moments(tmp_path / "c.mkv")) == frames


def test_another_rate_does_not_go_on(tmp_path: Path) -> None:
    """Pictures have no time of their own: neither they nor the parts that are there know of the rate asked for."""
    for index in range(6):
        write_image(tmp_path / "in" / f"{index}.png", flat_picture(index, (48, 32)))

    def open_both(rate: int) -> tuple[FrameSource, VideoWriter]:
        film = open_video(tmp_path / "in", rate=Fraction(rate))
        return film, VideoWriter(tmp_path / "b.mp4", film, (48, 32), segment=2)

    film, writer = open_both(25)
    for frame in islice(film.frames(), 3):
        if writer.write(frame.pixels, frame):
            writer.end_segment()
    writer.abandon()
    with pytest.raises(
        UserError, match=r"other options: rate \(25 before, 50 now\), time_base \(1/25 before"
    ):
        open_both(50)
    film, writer = open_both(25)
    transform_film(film, writer, same, 0, quiet=True)
    assert moments(tmp_path / "b.mp4") == [Fraction(n, 25) for n in range(6)]


def test_ctrl_c_loses_no_frame_that_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder is behind when it comes: what waits for it fills a segment all the same."""
    source, target = flat_film(tmp_path / "a.mp4", frames=6), tmp_path / "b.mp4"
    pressed, true_write = threading.Event(), VideoWriter.write

    def late(self: VideoWriter, *arguments: Any) -> bool:
        assert pressed.wait(60)
        return true_write(self, *arguments)

    def interrupted(frame: VideoFrame, state: int) -> tuple[Any, int]:
        if frame.index == 4:
            pressed.set()
            raise KeyboardInterrupt
        return remembering(frame, state)

    monkeypatch.setattr(VideoWriter, "write", late)
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, interrupted, segment=3)
    assert not target.exists()
    assert convert(source, target, remembering, segment=3).resumed == 3


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    source = flat_film(tmp_path / "a.mp4")
    film = open_video(source)
    writer = VideoWriter(tmp_path / "b.mp4", film, (48, 32), segment=4)
    for frame in film.frames():
        if frame.index == 6:
            break
        if writer.write(frame.pixels, frame):
            writer.end_segment()
    writer.abandon()
    flat_film(source, frames=25)
    with pytest.raises(UserError, match=r"the source has changed.*--overwrite begins anew"):
        convert(source, tmp_path / "b.mp4", segment=4)
    convert(source, tmp_path / "b.mp4", segment=4, overwrite=True)
    assert len(moments(tmp_path / "b.mp4")) == 25


def test_a_stop_while_joining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = flat_film(tmp_path / "a.mp4", frames=20)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(VideoWriter, "_join", full)
        with pytest.raises(UserError, match=r"b\.mp4: the disk is full"):
            convert(source, tmp_path / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4.parts"]
    assert convert(source, tmp_path / "b.mp4").resumed == 20
    assert len(moments(tmp_path / "b.mp4")) == 20


def test_a_full_disk_while_encoding(tmp_path: Path) -> None:
    """Files may not grow beyond a limit, as if the disk were full; the segments before it stay."""
    source = flat_film(tmp_path / "a.mp4", size=(64, 64))
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from test_video_segments import convert\n"
        "from atelier.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))\n"
        "noise = np.random.default_rng(0)\n"
        "def process(f, s):\n"
        "    return (f.pixels if f.index < 8 else noise.integers(0, 255, f.pixels.shape, dtype='uint8')), s\n"
        "try: convert(Path(sys.argv[2]), Path(sys.argv[3]), process)\n"
        "except UserError as error: print(error)\n"
    )
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", code, str(here), str(source), str(tmp_path / "b.mp4")],
        env={"PYTHONPATH": str(here.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write" in result.stdout and "000001.nut" in result.stdout, result.stdout + result.stderr
    assert not (tmp_path / "b.mp4").exists()
    kept = sorted(path.name for path in (tmp_path / "b.mp4.parts").iterdir())
    assert kept == ["000000.json", "000000.nut", "000000.state", "plan.json"]


def test_refusals_before_any_work(tmp_path: Path) -> None:
    source = flat_film(tmp_path / "a.mp4", audio=1)
    cases: dict[str, dict[str, Any]] = {
        r"no encoder 'h265x' .*libx264.* \(all \d+: python -m av": {"encoding": Encoding("h265x")},
        "aac encodes audio": {"encoding": Encoding("aac")},
        "ffv1 has no --crf": {"encoding": Encoding("ffv1", crf=3)},
        "unknown --preset 'quick'": {"encoding": Encoding(preset="quick")},
        "does not take --pix-fmt rgb24": {"encoding": Encoding(pix_fmt="rgb24")},
        "unknown --pix-fmt 'yuv9'": {"encoding": Encoding(pix_fmt="yuv9")},
        "--crf 99": {"encoding": Encoding(crf=99)},
        "at least 1 frame": {"segment": 0},
    }
    for message, options in cases.items():
        with pytest.raises(UserError, match=message):
            convert(source, tmp_path / "b.mp4", **options)
    with pytest.raises(UserError, match=r"known films are \.mp4"):
        convert(source, tmp_path / "b.avi")
    with pytest.raises(UserError, match=r"\.webm cannot hold libx264"):
        convert(source, tmp_path / "b.webm")
    with pytest.raises(UserError, match="its own source"):
        convert(source, source)
    with pytest.raises(UserError, match=r"\.webm cannot hold audio 1 \(aac, und\)"):
        convert(source, tmp_path / "b.webm", encoding=Encoding("vp9"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_encoders_are_listed_and_odd_sizes_planned() -> None:
    with pytest.raises(UserError, match=r"libx264.*\(all \d+: "):
        find_encoder("no such")
    assert find_encoder("av1") == "libsvtav1"
    odd = Picture(47, 33, Fraction(1, 30000), NTSC, Colour(6, 1))
    assert plan_encoding(Encoding("libx264"), odd).pixel_format == "yuv444p"
    assert plan_encoding(Encoding("vp9"), odd).pixel_format == "yuv420p"
    assert plan_encoding(Encoding("ffv1"), odd).pixel_format == "yuv420p"
    with pytest.raises(UserError, match="libx264 does not take pictures of 47x33 as yuv420p: an odd side"):
        plan_encoding(Encoding("libx264", pix_fmt="yuv420p"), odd)
    with pytest.raises(UserError, match=r"libx265 does not take pictures of 47x33.*below 64"):
        plan_encoding(Encoding("libx265"), odd)


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks"])
def test_other_codecs_keep_order_and_time(tmp_path: Path, codec: str) -> None:
    source = flat_film(tmp_path / "a.mp4", frames=10, pts=UNEVEN, time_base=Fraction(1, 90000), size=(64, 64))
    convert(
        source,
        tmp_path / "b.mov" if codec == "prores_ks" else tmp_path / "b.nut",
        encoding=Encoding(codec),
        segment=4,
    )
    target = tmp_path / ("b.mov" if codec == "prores_ks" else "b.nut")
    assert moments(target) == [Fraction(p, 90000) for p in UNEVEN]


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "mpeg2video"])
def test_older_codecs_are_as_good_as_asked(tmp_path: Path, codec: str) -> None:
    """Left alone they give every film 200 kbit/s, which this one cannot do with."""
    noise = np.random.default_rng(0).integers(0, 255, (4, 40, 50, 1), np.uint8)
    textures = [np.kron(each, np.ones((5, 5, 3), np.uint8)) for each in noise]
    for index, texture in enumerate(textures):
        write_image(tmp_path / "in" / f"{index}.png", texture)

    def quality(crf: float | None) -> tuple[float, int]:
        target = tmp_path / f"{crf}.nut"
        convert(tmp_path / "in", target, encoding=Encoding(codec, crf))
        pairs = zip(textures, open_video(target).frames(), strict=True)
        away = np.mean([(before.astype(float) - after.pixels) ** 2 for before, after in pairs])
        return float(10 * np.log10(255**2 / away)), target.stat().st_size

    (best, most), (usual, more), (worse, less) = quality(2), quality(None), quality(20)
    assert usual == best > worse + 6 and usual > 34 and more == most > 2 * less
    with pytest.raises(UserError, match=f"--crf 1: {codec} takes 2 to 31"):
        quality(1)
    with pytest.raises(UserError, match=f"--crf 2.5: {codec} takes whole numbers"):
        quality(2.5)


def test_another_quantizer_does_not_go_on(tmp_path: Path) -> None:
    film = open_video(flat_film(tmp_path / "a.mp4", frames=3))
    writer = VideoWriter(tmp_path / "b.mkv", film, (48, 32), Encoding("mpeg4", 4), segment=1)
    frame = next(film.frames())
    assert writer.write(frame.pixels, frame)
    writer.end_segment()
    writer.abandon()
    for crf, now in ((8, "8"), (None, "2")):
        with pytest.raises(UserError, match=rf"other options: crf \(4 before, {now} now\)"):
            VideoWriter(tmp_path / "b.mkv", film, (48, 32), Encoding("mpeg4", crf), segment=1)


class _Failing(io.BytesIO):
    """Takes so many writes and then no more; None: it is the flush that fails."""

    def __init__(self, writes: int | None, error: OSError) -> None:
        super().__init__()
        self._left, self._error = writes, error

    def write(self, data: Any) -> int:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise self._error
        return super().write(data)

    def flush(self) -> None:
        if self._left is None:
            raise self._error


@pytest.mark.parametrize("writes", [0, 3, None])
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), UserError, "cannot write standard output: the disk is full"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), RunStopped, "whoever read the pipe has gone"),
    ],
)
def test_a_pipe_that_takes_no_more(
    tmp_path: Path, writes: int | None, error: OSError, raised: type[UserError], message: str
) -> None:
    source = open_video(flat_film(tmp_path / "a.mp4", frames=2))
    writer = PipeWriter(source, (48, 32), Encoding(), _Failing(writes, error))
    with pytest.raises(raised, match=f"{message}; stopped (at frame 0|in the last frames)") as told:
        transform_film(source, writer, same, 0, quiet=True)
    assert type(told.value) is raised


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("frames", [1, 9])
def test_a_full_disk_behind_standard_output(tmp_path: Path, frames: int) -> None:
    """One sentence; also at the end, when Python empties the buffer once more."""
    source = flat_film(tmp_path / "a.mp4", frames=frames)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_video_segments import convert\n"
        "from atelier.errors import UserError\n"
        "try: convert(Path(sys.argv[2]), '-')\n"
        "except UserError as error: print(error, file=sys.stderr); sys.exit(2)\n"
    )
    here = Path(__file__).parent
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-c", code, str(here), str(source)],
            env={"PYTHONPATH": str(here.parent), "PATH": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("cannot write standard output: the disk is full; stopped ")


@pytest.mark.parametrize("size", [(48, 32), (47, 33)])
def test_y4m_there_and_back(tmp_path: Path, size: tuple[int, int]) -> None:
    for pixel_format in ("yuv444p", "yuv444p10le"):
        source = open_video(flat_film(tmp_path / "a.mp4", frames=3, pixel_format=pixel_format, size=size))
        pipe = tmp_path / "b.y4m"
        with pipe.open("wb") as file:
            writer = PipeWriter(source, size, Encoding(), file)
            frames = list(source.frames())
            assert not any(writer.write(frame.pixels, frame) for frame in frames)
            writer.finish()
        result = open_video(pipe)
        assert (result.facts.bits, result.facts.rate) == (source.facts.bits, NTSC)
        allowed = 2 if result.facts.bits == 8 else 257
        for before, after in zip(frames, result.frames(), strict=True):
            away = np.abs(before.pixels.astype(int) - after.pixels)
            assert away[:8, :12].max() <= allowed and away[24:, 36:].max() <= allowed
