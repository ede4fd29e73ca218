"""Reading films: timestamps, upright pixels, depth, colour; damage and what is no film."""

from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from atelier.errors import UserError
from atelier.images import write_image
from atelier.images.video import VideoReader, open_video
from atelier.images.video_colour import Colour, FromRGB, ToRGB, from_yuv, to_yuv, turn_of
from atelier.images.video_frames import is_pattern, list_frames, numbered
from films import NTSC, flat_film, flat_picture

UNEVEN = [0, 1, 4000, 4001, 9007, 12345, 12346, 20011]


def test_facts_and_timestamps_of_ntsc(tmp_path: Path) -> None:
    source = open_video(flat_film(tmp_path / "a.mp4", aspect=Fraction(4, 3), audio=1))
    facts = source.facts
    assert (facts.width, facts.height, facts.frames, facts.bits) == (48, 32, 24, 8)
    assert (facts.rate, facts.sample_aspect) == (NTSC, Fraction(4, 3))
    assert [str(stream) for stream in facts.streams] == ["audio 1 (aac, und)"]
    frames = list(source.frames())
    assert [frame.pts * frame.time_base for frame in frames] == [index / NTSC for index in range(24)]
    assert [frame.index for frame in frames] == list(range(24))
    assert frames[0].key and frames[0].pixels.dtype == np.uint8
    for frame in frames:
        away = np.abs(frame.pixels.astype(int) - flat_picture(frame.index, (48, 32)))
        assert away[:8, :12].max() <= 2 and away[24:, 36:].max() <= 2


def test_uneven_timestamps_stay(tmp_path: Path) -> None:
    path = flat_film(tmp_path / "a.mp4", frames=8, pts=UNEVEN, time_base=Fraction(1, 90000))
    assert [f.pts * f.time_base for f in open_video(path).frames()] == [Fraction(p, 90000) for p in UNEVEN]


def test_start_leaves_out_the_frames_before(tmp_path: Path) -> None:
    path = flat_film(tmp_path / "a.mp4")
    whole = list(open_video(path).frames())
    later = list(open_video(path).frames(17))
    assert [frame.index for frame in later] == list(range(17, 24))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(whole[17:], later, strict=True))


@pytest.mark.parametrize(
    ("rotation", "corner"), [(90, (-9, 9)), (-90, (9, -9)), (180, (-9, -9)), (0, (9, 9))]
)
def test_pictures_are_upright(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    source = open_video(flat_film(tmp_path / "a.mp4", frames=2, rotation=rotation, aspect=Fraction(4, 3)))
    turned = rotation in (90, -90)
    assert (source.facts.width, source.facts.height) == ((32, 48) if turned else (48, 32))
    assert source.facts.sample_aspect == (Fraction(3, 4) if turned else Fraction(4, 3))
    frame = next(source.frames())
    assert frame.pixels.shape == ((48, 32, 3) if turned else (32, 48, 3))
    for y in (9, -9):
        for x in (9, -9):
            red = frame.pixels[y, x, 0] > 150
            assert red == ((y, x) == corner), (y, x)


def test_mirrors_of_a_display_matrix() -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)

    def turned(a: int, b: int, c: int, d: int) -> Any:
        return turn_of(np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], "i4").tobytes())(picture)[..., 0].tolist()

    one = 1 << 16
    assert turned(one, 0, 0, one) == [[0, 1, 2], [3, 4, 5]]
    assert turned(-one, 0, 0, one) == [[2, 1, 0], [5, 4, 3]]
    assert turned(0, one, one, 0) == [[0, 3], [1, 4], [2, 5]]
    assert turned(0, one, -one, 0) == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p12le", "gbrp10le"])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("range_", [1, 2])
def test_colours_come_back(pixel_format: str, matrix: int, range_: int) -> None:
    """Within one level of 8 bits (libswscale), or two code values of the deeper format."""
    colour = Colour(matrix, range_)
    bits = av.VideoFormat(pixel_format, 16, 16).components[0].bits
    kind = np.uint8 if bits == 8 else np.uint16
    allowed = 2 if bits == 8 else 2 << (16 - bits)
    there, back = FromRGB(pixel_format, colour), ToRGB(colour)
    top = np.iinfo(kind).max
    generator = np.random.default_rng(0)
    for value in ([0, 0, 0], [top] * 3, *generator.integers(0, top + 1, (20, 3)).tolist()):
        picture = np.full((15, 17, 3), value, kind)
        result = back(there(picture))
        assert result.dtype == kind and result.shape == picture.shape
        assert np.abs(result.astype(int) - picture)[4:11, 4:13].max() <= allowed, value


def test_the_matrix_is_that_of_the_recommendations() -> None:
    """Known code values: 75 % and 100 % bars, BT.601 and BT.709 limited range (EBU Tech 3325, SMPTE RP 219)."""
    red, grey = np.array([[[255, 0, 0]]], np.uint8), np.array([[[191, 191, 191]]], np.uint8)
    assert to_yuv(red, Colour(6, 1), 8).tolist() == [[[81, 90, 240]]]
    assert to_yuv(red, Colour(1, 1), 8).tolist() == [[[63, 102, 240]]]
    assert to_yuv(grey, Colour(1, 1), 8).tolist() == [[[180, 128, 128]]]
    assert to_yuv(red, Colour(1, 1), 10).tolist() == [[[250, 409, 960]]]
    white = np.array([[[940, 512, 512]]], np.uint16)
    assert from_yuv(white, Colour(9, 1), 10).tolist() == [[[65535] * 3]]


def test_what_is_not_said_follows_the_lines() -> None:
    assert Colour().settled(576) == Colour(6, 1)
    assert Colour().settled(720) == Colour(1, 1)
    assert Colour(9, 2, 9, 16).settled(480) == Colour(9, 2, 9, 16)
    with pytest.raises(UserError, match="matrix 8"):
        Colour(8).settled(480)


def test_ten_bits_arrive_as_uint16(tmp_path: Path) -> None:
    path = flat_film(tmp_path / "a.mp4", pixel_format="yuv420p10le", frames=3, colour=(9, 1, 9, 16))
    source = open_video(path)
    assert source.facts.bits == 10 and source.facts.said == Colour(9, 1, 9, 16)
    frame = next(source.frames())
    away = np.abs(frame.pixels.astype(int) - flat_picture(0, (48, 32), deep=True))
    assert frame.pixels.dtype == np.uint16 and away[:8, :12].max() < 2 * 257


def test_numbered_pictures(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        write_image(tmp_path / f"f{number}.png", np.full((5, 7, 1), number, np.uint8))
    for name in (tmp_path, tmp_path / "f%d.png"):
        source = open_video(name, rate=Fraction(24))
        frames = list(source.frames())
        assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [8, 9, 10]
        assert frames[2].seconds == pytest.approx(2 / 24) and frames[0].pixels.shape == (5, 7, 3)
    write_image(tmp_path / "f12.png", np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(UserError, match=r"f11\.png is missing"):
        open_video(tmp_path / "f%d.png")
    write_image(tmp_path / "f11.png", np.zeros((5, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"f11\.png is 8x5, the first frame is 7x5"):
        list(open_video(tmp_path / "f%d.png").frames())


def test_y4m_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"YUV4MPEG2 W3 H3 F30000:1001 Ip A4:3 C420p10 XCOLORRANGE=LIMITED\n"
    grey = np.full(9, 502, "<u2").tobytes() + np.full(8, 512, "<u2").tobytes()
    data = header + 2 * (b"FRAME\n" + grey)
    monkeypatch.setattr(sys, "stdin", type("Pipe", (), {"buffer": io.BytesIO(data)}))
    source = open_video("-")
    assert (source.facts.width, source.facts.bits, source.facts.sample_aspect) == (3, 10, Fraction(4, 3))
    frames = list(source.frames())
    assert len(frames) == 2 and source.fingerprint() is None
    assert np.abs(frames[1].pixels.astype(int) - (502 - 64) / 876 * 65535).max() <= 1


def test_y4m_that_ends_within_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = b"FRAME Xany\n" + bytes(range(96))
    data = b"YUV4MPEG2 W8 H8 F25:1 Ip A1:1 C420jpeg\n" + 3 * frame

    def opened(length: int, **options: bool) -> Any:
        monkeypatch.setattr(sys, "stdin", type("Pipe", (), {"buffer": io.BytesIO(data[:length])}))
        return open_video("-", **options)

    assert len(list(opened(len(data)).frames())) == 3
    for lost in (1, 96, 97, len(frame) - 1):
        with pytest.raises(
            UserError, match=r"standard input: frame 2 cannot be decoded \(the data ends within"
        ):
            list(opened(len(data) - lost).frames())
    damaged = opened(len(data) - 1, allow_damaged=True)
    assert len(list(damaged.frames())) == 2 and damaged.damaged == [2]
    assert len(list(opened(len(data) - len(frame)).frames())) == 2


def test_no_film(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(UserError, match=r"text\.mp4 is not a film"):
        open_video(tmp_path / "text.mp4")
    with pytest.raises(UserError, match="does not exist"):
        open_video(tmp_path / "absent.mp4")
    with av.open(str(tmp_path / "tone.mp4"), "w") as container:
        tone: Any = container.add_stream("aac", rate=48000)
        sound: Any = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        sound.sample_rate = 48000
        container.mux(tone.encode(sound))
        container.mux(tone.encode())
    with pytest.raises(UserError, match="has no video stream, only audio"):
        open_video(tmp_path / "tone.mp4")


def test_a_video_without_frames(tmp_path: Path) -> None:
    film = tmp_path / "empty.mkv"
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 16, 16
        container.start_encoding()
    with pytest.raises(UserError, match="has no frames"):
        open_video(film)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    whole = flat_film(tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"cut off: it should have \d+ bytes.*--allow-damaged"):
        open_video(tmp_path / "cut.mkv")
    there = list(open_video(tmp_path / "cut.mkv", allow_damaged=True).frames())
    assert 4 < len(there) < 24


def test_a_cut_mp4_with_its_index_in_front(tmp_path: Path) -> None:
    film = flat_film(tmp_path / "a.mp4")
    with (
        av.open(str(film)) as source,
        av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with av.open(str(tmp_path / "b.mp4")) as container:
        entry = container.streams.video[0].index_entries[17]
        cut = entry.pos + entry.size - 1
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:cut])
    with pytest.raises(UserError, match="cut off: frame 17 and those after it are missing"):
        open_video(tmp_path / "cut.mp4")


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    film = flat_film(tmp_path / "a.mkv", codec="ffv1")
    data = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        packet = [p for p in container.demux(video=0) if p.size][9]
        place = data.find(bytes(packet))
    data[place : place + 40] = b"\xff" * 40
    film.write_bytes(data)
    reader = VideoReader(str(film))
    seen = []
    with pytest.raises(UserError, match=r"frame 9 cannot be decoded.*--allow-damaged"):
        seen.extend(frame.index for frame in reader.frames())
    assert seen == list(range(9))
    lenient = VideoReader(str(film), allow_damaged=True)
    # FFV1 begins anew every twelve frames here: frames 9 to 11 are lost.
    assert len(list(lenient.frames())) == 21 and lenient.damaged == [9]


def test_missing_pyav_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from atelier.images.video import open_video\n"
        "from atelier.errors import UserError\n"
        "try: open_video('a.mp4')\n"
        "except UserError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install atelier[video]" in result.stdout


def test_a_percent_sign_is_not_always_a_number(tmp_path: Path) -> None:
    """Of a path only the last part counts, and what exists is what it is called."""
    done = tmp_path / "50%done"
    done.mkdir()
    film = flat_film(done / "film.mp4", frames=3)
    hundred = flat_film(tmp_path / "100%d.mp4", frames=3)
    for index in range(3):
        write_image(done / "pics" / f"{index:06d}.png", flat_picture(index, (48, 32)))
    for name in (film, hundred, done / "pics", done / "pics" / "%06d.png"):
        assert len(list(open_video(name).frames())) == 3
    write_image(done / "100%d.png", flat_picture(0, (48, 32)))
    for single in (
        f"{done}/pics/000000.png",
        f"{done}",
        f"{tmp_path}/60%d/",
        f"{done}/100%d.png",
        "100%d_out.mkv",
    ):
        assert not is_pattern(single)
    assert is_pattern(f"{done}/pics/%06d.png") and is_pattern("%d.png") and is_pattern("100%d_out.png")
    assert numbered(f"{done}/pics/%04d.png", 7) == done / "pics" / "0007.png"
    assert [path.name for path in list_frames(f"{done}/pics/%06d.png")] == [f"{n:06d}.png" for n in range(3)]
