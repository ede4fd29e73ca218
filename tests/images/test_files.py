"""Picture files: every format, kind and depth there and back, and what bad files get."""

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from atelier.errors import UserError
from atelier.images import (
    IMAGE_SUFFIXES,
    Picture,
    decode_image,
    image_shape,
    list_images,
    read_image,
    write_image,
)
from atelier.images.png import _LARGEST_PROFILE

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
# A file that a format keeps exactly: suffix, dtype, channels as read back for 1..4 channels written (None: refused).
LOSSLESS = {
    (".png", "uint8"): (1, 2, 3, 4),
    (".png", "uint16"): (1, 2, 3, 4),
    (".tif", "uint8"): (1, 2, 3, 4),
    (".tiff", "uint16"): (1, 2, 3, 4),
    (".tiff", "float32"): (1, 2, 3, 4),
    (".webp", "uint8"): (3, 4, 3, 4),
    (".bmp", "uint8"): (1, None, 3, None),
}


def picture(height, width, channels, dtype="uint8", seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.random((height, width, channels), dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype=dtype)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def hand_made_png(rows, width, depth, colour_type, *extra):
    """A PNG of packed rows, written from the standard and independent of the code under test."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(LOSSLESS)),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_kind_comes_back_as_it_was_written(tmp_path, kind, channels, height, width, seed):
    suffix, dtype = kind
    stored = LOSSLESS[kind][channels - 1]
    pixels = picture(height, width, channels, dtype, seed)
    before = pixels.copy()
    path = tmp_path / f"p{suffix}"
    if stored is None:
        with pytest.raises(UserError, match="alpha channel; formats that can: PNG, WebP, TIFF"):
            write_image(path, pixels)
        return
    write_image(path, pixels, quality=100)
    back = read_image(path).pixels
    assert np.array_equal(pixels, before)
    assert back.dtype == pixels.dtype and back.flags.c_contiguous
    assert back.shape == (height, width, stored) == image_shape(path)
    # WebP knows no grey: three equal channels stand for it.
    expected = pixels if stored == channels else pixels[:, :, [0, 0, 0, -1][:stored]]
    assert np.array_equal(back, expected)


def test_read_16_bit_png_agrees_with_a_hand_made_file(tmp_path):
    for channels, colour_type in ((1, 0), (2, 4), (3, 2), (4, 6)):
        pixels = (
            picture(7, 5, channels, "uint16") % 200
        )  # small values: the depth is the file's, not the values'
        path = tmp_path / "deep.png"
        path.write_bytes(hand_made_png([row.astype(">u2").tobytes() for row in pixels], 5, 16, colour_type))
        assert read_image(path).pixels.dtype == np.uint16
        assert np.array_equal(read_image(path).pixels, pixels)


def test_other_programs_read_our_16_bit_png(tmp_path):
    pixels = picture(31, 17, 3, "uint16")
    write_image(tmp_path / "a.png", pixels)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)[:, :, ::-1], pixels)
    write_image(tmp_path / "g.png", pixels[:, :, :1])
    assert np.array_equal(np.array(Image.open(tmp_path / "g.png")), pixels[:, :, 0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (64, 64)])
def test_16_bit_png_of_smooth_pictures(tmp_path, height, width):
    ramp = np.linspace(0, 65535, height * width * 3).reshape(height, width, 3).astype(np.uint16)
    write_image(tmp_path / "r.png", ramp)
    assert np.array_equal(read_image(tmp_path / "r.png").pixels, ramp)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_lossy_formats_are_close(tmp_path, suffix):
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([2 * x, 4 * y, x + y], axis=2).astype(np.uint8)
    write_image(tmp_path / f"p{suffix}", pixels)
    back = read_image(tmp_path / f"p{suffix}").pixels
    assert back.shape == pixels.shape and np.abs(back.astype(int) - pixels).mean() < 2
    write_image(tmp_path / f"g{suffix}", pixels[:, :, :1])
    assert image_shape(tmp_path / f"g{suffix}")[2] == (3 if suffix == ".webp" else 1)


def test_jpeg_keeps_full_colour_resolution(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)
    pixels[:, 1::2] = (0, 0, 255)
    write_image(tmp_path / "p.jpg", pixels)
    assert np.abs(read_image(tmp_path / "p.jpg").pixels.astype(int) - pixels).max() < 40


def test_palettes_and_single_bits_expand(tmp_path):
    colours = np.array([[255, 0, 0], [0, 200, 0], [3, 4, 5]], np.uint8)
    index = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    for suffix in (".png", ".bmp", ".tif"):
        image.save(tmp_path / f"p{suffix}")
        assert np.array_equal(read_image(tmp_path / f"p{suffix}").pixels, colours[index]), suffix
        assert image_shape(tmp_path / f"p{suffix}") == (2, 3, 3)
    image.save(tmp_path / "t.png", transparency=bytes([0, 128, 255]))
    expected = np.dstack([colours[index], np.array([0, 128, 255], np.uint8)[index]])
    assert np.array_equal(read_image(tmp_path / "t.png").pixels, expected)
    assert image_shape(tmp_path / "t.png") == (2, 3, 4)
    bits = np.array([[0, 1, 0, 1], [1, 1, 0, 0]], bool)
    for suffix in (".png", ".bmp", ".tif"):
        Image.fromarray(bits).save(tmp_path / f"b{suffix}")
        back = read_image(tmp_path / f"b{suffix}").pixels
        assert back.dtype == np.uint8 and np.array_equal(back[:, :, 0], bits * 255), suffix
        assert back.shape == image_shape(tmp_path / f"b{suffix}") == (2, 4, 1)


def test_colour_keys_become_alpha(tmp_path):
    path = tmp_path / "k.png"
    # 4-bit grey 3, 7 with key 7: spread to 51, 119.
    path.write_bytes(hand_made_png([[0x37]], 2, 4, 0, chunk(b"tRNS", struct.pack(">H", 7))))
    assert read_image(path).pixels.tolist() == [[[51, 255], [119, 0]]]
    assert image_shape(path) == (1, 2, 2)
    # 1-bit grey 1, 0 with key 1.
    path.write_bytes(hand_made_png([[0x80]], 2, 1, 0, chunk(b"tRNS", struct.pack(">H", 1))))
    assert read_image(path).pixels.tolist() == [[[255, 0], [0, 255]]]
    for depth, kind in ((8, ">u1"), (16, ">u2")):
        full = (1 << depth) - 1
        row = np.array([[1, 2, 3], [1, 2, 4]], kind)
        key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
        path.write_bytes(hand_made_png([row.tobytes()], 2, depth, 2, key))
        assert read_image(path).pixels.tolist() == [[[1, 2, 3, 0], [1, 2, 4, full]]]
        path.write_bytes(
            hand_made_png([row[:, 2].tobytes()], 2, depth, 0, chunk(b"tRNS", struct.pack(">H", 4)))
        )
        assert read_image(path).pixels.tolist() == [[[3, full], [4, 0]]]


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :8, 0] = 255  # cyan, then black
    inks[:, 8:, 3] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "c.jpg", quality=100)
    pixels = read_image(tmp_path / "c.jpg").pixels
    assert pixels.shape == image_shape(tmp_path / "c.jpg") == (16, 16, 3)
    assert np.abs(pixels[4, 2].astype(int) - (0, 255, 255)).max() < 4
    assert pixels[4, 14].max() < 4
    Image.fromarray(inks, "CMYK").save(tmp_path / "c.tif", icc_profile=b"no profile at all")
    assert np.array_equal(read_image(tmp_path / "c.tif").pixels[0, 0], (0, 255, 255))
    assert read_image(tmp_path / "c.tif").icc_profile is None


ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".lzw.tif", ".jpg", ".deep.png", ".deep.tif"])
def test_orientation_is_applied_once(tmp_path, suffix, orientation):
    path = tmp_path / f"p{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    stored = picture(6, 9, 3, "uint16" if "deep" in suffix else "uint8")
    if suffix == ".jpg":
        stored = np.repeat(np.repeat(stored, 8, axis=0), 8, axis=1)
    if suffix == ".deep.png":
        rows = [row.astype(">u2").tobytes() for row in stored]
        path.write_bytes(
            hand_made_png(rows, 9, 16, 2, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
        )
    elif suffix == ".deep.tif":
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    elif suffix == ".tif":
        Image.fromarray(stored).save(path, tiffinfo={274: orientation})
    elif suffix == ".lzw.tif":
        Image.fromarray(stored).save(path, tiffinfo={274: orientation}, compression="tiff_lzw")
    else:
        Image.fromarray(stored).save(path, exif=exif, lossless=True, quality=100, subsampling=0)
    upright = read_image(path)
    expected = ORIENTED[orientation](stored)
    assert upright.pixels.shape == expected.shape == image_shape(path)
    assert np.abs(upright.pixels.astype(int) - expected).max() <= (8 if suffix == ".jpg" else 0)
    again = tmp_path / f"again{path.suffix}"
    write_image(again, upright.pixels, like=upright, quality=100)
    assert image_shape(again) == expected.shape
    assert np.abs(read_image(again).pixels.astype(int) - expected).max() <= (16 if suffix == ".jpg" else 0)


def test_a_damaged_exif_block_does_not_spoil_the_picture(tmp_path):
    pixels = picture(4, 4, 3)
    exif = Image.Exif()
    exif[274] = 6
    whole = exif.tobytes()
    for block in (
        b"Exif\0\0",
        whole[:20],
        b"Exif\0\0XX*\0",
        whole[:-6],
        whole.replace(b"\x06\x00", b"\x63\x00"),
    ):
        Image.fromarray(pixels).save(tmp_path / "p.webp", exif=block, lossless=True)
        assert read_image(tmp_path / "p.webp").pixels.shape == (4, 4, 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("suffix", [s for s in IMAGE_SUFFIXES if s != ".jpeg"])
def test_profile_and_resolution_are_kept(tmp_path, suffix, dtype):
    if dtype != "uint8" and (suffix, dtype) not in LOSSLESS and suffix != ".tif":
        pytest.skip(f"{suffix} cannot store {dtype}")
    like = Picture(picture(4, 4, 3), tmp_path / "x", SRGB, (300.0, 150.0))
    write_image(tmp_path / f"p{suffix}", picture(4, 4, 3, dtype), like=like)
    back = read_image(tmp_path / f"p{suffix}")
    assert back.icc_profile == (None if suffix == ".bmp" else SRGB)
    assert back.dpi == pytest.approx((300, 150), abs=0.02)
    # A second generation changes nothing more.
    write_image(tmp_path / f"q{suffix}", picture(4, 4, 3, dtype), like=back)
    assert read_image(tmp_path / f"q{suffix}").dpi == pytest.approx(back.dpi, abs=1e-6)
    write_image(tmp_path / f"bare{suffix}", picture(4, 4, 3, dtype))
    bare = read_image(tmp_path / f"bare{suffix}")
    assert bare.icc_profile is None
    assert bare.dpi is None or suffix == ".bmp"


def test_other_programs_see_profile_and_resolution_of_16_bit_png(tmp_path):
    like = Picture(picture(4, 4, 3), tmp_path / "x", SRGB, (300.0, 150.0))
    write_image(tmp_path / "p.png", picture(4, 4, 3, "uint16"), like=like)
    with Image.open(tmp_path / "p.png") as image:
        assert image.info["icc_profile"] == SRGB
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_resolution_turns_with_the_picture(tmp_path):
    tifffile.imwrite(
        tmp_path / "p.tif",
        picture(4, 6, 3, "uint16"),
        photometric="rgb",
        resolution=(300, 100),
        resolutionunit="INCH",
        extratags=[(274, "H", 1, 6, True)],
    )
    assert read_image(tmp_path / "p.tif").dpi == (100, 300)


def test_a_profile_of_the_other_kind_is_not_written(tmp_path):
    grey = Picture(picture(4, 4, 1), tmp_path / "x", GREY_PROFILE)
    write_image(tmp_path / "rgb.png", picture(4, 4, 3), like=grey)
    write_image(tmp_path / "grey.png", picture(4, 4, 1), like=grey)
    assert read_image(tmp_path / "rgb.png").icc_profile is None
    assert read_image(tmp_path / "grey.png").icc_profile == GREY_PROFILE


def test_long_remarks_do_not_make_a_picture_unreadable(tmp_path):
    text = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(70 << 20)))
    (tmp_path / "t.png").write_bytes(hand_made_png([[1, 2, 3]], 1, 8, 2, text))
    assert read_image(tmp_path / "t.png").pixels.tolist() == [[[1, 2, 3]]]


def test_a_profile_that_would_unpack_without_end_is_cut(tmp_path):
    bomb = b"x\0\0" + zlib.compress(bytes(_LARGEST_PROFILE + 4096), 9)
    (tmp_path / "b.png").write_bytes(hand_made_png([[0, 0, 0]], 1, 8, 2, chunk(b"iCCP", bomb)))
    assert len(read_image(tmp_path / "b.png").icc_profile) == _LARGEST_PROFILE


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_packings(tmp_path, dtype, channels):
    pixels = picture(40, 33, channels, dtype)
    path = tmp_path / "p.tif"
    swapped = (
        pixels
        if channels == 1
        else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGRA)
    )
    for packing in (1, 5, 8, 32773):  # none, LZW, Deflate, PackBits
        cv2.imwrite(str(path), swapped, [cv2.IMWRITE_TIFF_COMPRESSION, packing])
        assert np.array_equal(read_image(path).pixels, pixels), packing
        assert image_shape(path) == pixels.shape
    for order in ("<", ">"):
        for bigtiff in (False, True):
            tifffile.imwrite(
                path, pixels.squeeze(), byteorder=order, bigtiff=bigtiff,
                photometric="rgb" if channels > 1 else "minisblack",
            )  # fmt: skip
            assert np.array_equal(read_image(path).pixels, pixels)
            assert read_image(path).pixels.dtype == np.dtype(dtype)
    if channels > 1:
        tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate")
        assert np.array_equal(read_image(path).pixels, pixels)
    else:
        tifffile.imwrite(path, pixels[:, :, 0], photometric="miniswhite")
        full = 1 if dtype == "float32" else np.iinfo(dtype).max
        assert np.allclose(read_image(path).pixels, full - pixels)
        tifffile.imwrite(path, np.stack([pixels[:, :, 0]] * 3), photometric="minisblack")  # three pages
        assert np.array_equal(read_image(path).pixels, pixels)


def test_tiff_with_premultiplied_alpha(tmp_path):
    pixels = np.array([[[100, 50, 0, 0], [30000, 20000, 10000, 32768], [5, 6, 7, 65535]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    expected = [[[0, 0, 0, 0], [59999, 39999, 20000, 32768], [5, 6, 7, 65535]]]
    assert read_image(tmp_path / "a.tif").pixels.tolist() == expected


def test_tiff_of_half_and_double_floats(tmp_path):
    for dtype in ("float16", "float64"):
        pixels = np.linspace(-0.5, 2, 12).reshape(3, 4).astype(dtype)
        tifffile.imwrite(tmp_path / "f.tif", pixels)
        back = read_image(tmp_path / "f.tif").pixels
        assert back.dtype == np.float32 and np.array_equal(back[:, :, 0], pixels.astype(np.float32))


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.zeros((4, 4), np.uint32), {}, "uint32"),
        (np.zeros((4, 4), np.int16), {}, "int16"),
        (np.zeros((4, 4, 4), np.uint16), {"photometric": "separated"}, "SEPARATED"),
        (
            np.zeros((4, 4, 7), np.uint16),
            {"photometric": "minisblack", "planarconfig": "contig"},
            "7 channels",
        ),
    ],
)
def test_tiff_that_is_no_picture_says_so(tmp_path, pixels, options, reason):
    tifffile.imwrite(tmp_path / "odd.tif", pixels, **options)
    with pytest.raises(UserError, match=rf"odd\.tif: .*{reason}"):
        read_image(tmp_path / "odd.tif")


def test_names_of_every_script(tmp_path):
    for name in ("übergröße.png", "画像 (1).jpg", "صورة.tif", "фото.webp", "🖼.bmp"):
        pixels = picture(5, 5, 3)
        write_image(tmp_path / "Ордer" / name, pixels)
        assert read_image(tmp_path / "Ордer" / name).pixels.shape == (5, 5, 3)
        assert image_shape(str(tmp_path / "Ордer" / name)) == (5, 5, 3)
    assert len(list_images(tmp_path)) == 5


def test_content_decides_not_the_suffix(tmp_path):
    pixels = picture(5, 6, 3, "uint16")
    write_image(tmp_path / "p.png", pixels)
    (tmp_path / "p.png").rename(tmp_path / "p.jpg")
    assert np.array_equal(read_image(tmp_path / "p.jpg").pixels, pixels)


@pytest.mark.parametrize("reader", [read_image, image_shape])
def test_bad_files_are_named_with_the_reason(tmp_path, reader):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello, I am no picture")
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "missing.png": "no such file",
        "empty.png": r"empty \(0 bytes\)",
        "text.png": "no picture in a known format; known: PNG, JPEG, WebP, TIFF, BMP",
        "folder.png": "is a folder",
    }.items():
        with pytest.raises(UserError, match=rf"cannot read picture .*{name}: .*{reason}"):
            reader(tmp_path / name)


KINDS = [(s, d, c) for (s, d), stored in LOSSLESS.items() for c in (1, 3) if stored[c - 1]] + [
    (".jpg", "uint8", 1),
    (".jpg", "uint8", 3),
    (".lzw.tif", "uint16", 3),
    (".lzw.tif", "uint8", 3),
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    found = {}
    for suffix, dtype, channels in KINDS:
        path = folder / f"p{suffix}"
        pixels = picture(24, 20, channels, dtype)
        if suffix == ".lzw.tif":
            cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
        else:
            write_image(path, pixels)
        found[suffix, dtype, channels] = path.read_bytes(), read_image(path).pixels
    return found


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_never_passes_as_a_picture(samples, kind, share):
    data, whole = samples[kind]
    cut = data[: int(len(data) * share)]
    try:
        back = decode_image(cut, "cut.png").pixels
    except UserError as error:
        assert "cut.png" in str(error)
    else:  # only what carries no pixels may be missing
        assert np.array_equal(back, whole)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
)
def test_damage_gives_a_picture_or_one_clear_error(samples, kind, damage):
    data = bytearray(samples[kind][0])
    for place, value in damage:
        data[int(place * len(data))] = value
    try:
        pixels = decode_image(bytes(data), "hurt.png").pixels
    except UserError as error:
        assert "hurt.png" in str(error)
    else:
        assert pixels.ndim == 3 and pixels.shape[2] in (1, 2, 3, 4)


@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"II*\0", b"MM\0*", b"BM"]
    ),
    rest=st.binary(max_size=200),
)
def test_noise_gives_one_clear_error(start, rest):
    with pytest.raises(UserError, match=r"noise\.png"):
        decode_image(start + rest, "noise.png")


def test_a_damaged_tiff_gives_one_message_and_no_chatter(samples, capfd):
    for kind in ((".tif", "uint8", 3), (".lzw.tif", "uint16", 3)):
        with pytest.raises(UserError):
            decode_image(samples[kind][0][:-100], "cut.tif")
    assert capfd.readouterr().err == ""


def test_a_picture_above_pillows_limit_is_read(tmp_path, monkeypatch):
    write_image(tmp_path / "p.png", picture(40, 40, 3))
    write_image(tmp_path / "p.jpg", picture(40, 40, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(tmp_path / "p.png").pixels.shape == (40, 40, 3)
    assert read_image(tmp_path / "p.jpg").pixels.shape == (40, 40, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_16_bit_is_never_squeezed_into_8(tmp_path, suffix):
    with pytest.raises(
        UserError, match=rf"p{suffix}: .* cannot store uint16 pixels; formats that can: PNG, TIFF"
    ):
        write_image(tmp_path / f"p{suffix}", picture(4, 4, 3, "uint16"))
    with pytest.raises(UserError, match="cannot store float32 pixels; formats that can: TIFF"):
        write_image(tmp_path / f"p{suffix}", picture(4, 4, 3, "float32"))
    assert list(tmp_path.iterdir()) == []


def test_alpha_is_never_dropped(tmp_path):
    for channels in (2, 4):
        with pytest.raises(
            UserError, match="JPEG cannot store an alpha channel; formats that can: PNG, WebP, TIFF"
        ):
            write_image(tmp_path / "p.jpg", picture(4, 4, channels))


def test_what_cannot_be_written(tmp_path):
    good = picture(4, 4, 3)
    with pytest.raises(UserError, match=r"unknown suffix '\.gif'; known: \.png"):
        write_image(tmp_path / "p.gif", good)
    with pytest.raises(UserError, match=r"WebP does not take this 20000×1 picture"):
        write_image(tmp_path / "p.webp", np.zeros((1, 20000, 3), np.uint8))
    with pytest.raises(UserError, match=r"JPEG does not take this 70000×1 picture"):
        write_image(tmp_path / "p.jpg", np.zeros((1, 70000, 3), np.uint8))
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*taken\.png"):
        write_image(tmp_path / "taken.png", good)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*p\.png"):
        write_image(tmp_path / "file" / "p.png", good)
    for bad in (good[:, :, 0], good[:0], picture(4, 4, 4)[..., None], np.zeros((4, 4, 5), np.uint8)):
        with pytest.raises(ValueError, match="H×W×C"):
            write_image(tmp_path / "p.png", bad)
    for bad in (good.astype(float), good.astype(np.int32), good.tolist()):
        with pytest.raises(TypeError, match="uint8, uint16 or float32"):
            write_image(tmp_path / "p.png", bad)
    for quality in (0, 101):
        with pytest.raises(ValueError, match=r"1\.\.100"):
            write_image(tmp_path / "p.jpg", good, quality=quality)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_no_permission_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write_image(tmp_path / "p.png", picture(4, 4, 3))


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_file_and_no_leftovers(tmp_path, monkeypatch, where):
    old = picture(4, 4, 3, seed=1)
    write_image(tmp_path / "p.png", old)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (Path, "replace")), full)
    with pytest.raises(UserError, match=r"cannot write .*p\.png: the disk is full"):
        write_image(tmp_path / "p.png", picture(4, 4, 3, seed=2))
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
    assert np.array_equal(read_image(tmp_path / "p.png").pixels, old)


def test_an_interrupt_leaves_no_leftovers(tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "p.png", picture(4, 4, 3))
    assert list(tmp_path.iterdir()) == []


def test_pixels_need_not_be_contiguous(tmp_path):
    pixels = picture(10, 12, 3)
    write_image(tmp_path / "p.png", pixels[::-1, ::2, ::-1])
    assert np.array_equal(read_image(tmp_path / "p.png").pixels, pixels[::-1, ::2, ::-1])


def test_image_shape_reads_the_header_only(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture(300, 200, 3)).save(buffer, "JPEG")
    (tmp_path / "p.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert image_shape(tmp_path / "p.jpg") == (300, 200, 3)
    with pytest.raises(UserError):
        read_image(tmp_path / "p.jpg")


def test_list_images(tmp_path):
    for name in ("b.png", "a/z.JPG", "a/b/c.tiff", "notes.txt", ".hidden.png", ".cache/x.png", "a.webp"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.bmp").touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    found = [path.relative_to(tmp_path / "in").as_posix() for path in list_images(tmp_path / "in")]
    assert found == ["a.webp", "a/b/c.tiff", "a/z.JPG", "b.png", "link/linked.bmp"]
    (tmp_path / "void").mkdir()
    assert list_images(tmp_path / "void") == []
    with pytest.raises(UserError, match=r"nowhere: there is no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"b\.png: it is a file"):
        list_images(tmp_path / "in" / "b.png")
