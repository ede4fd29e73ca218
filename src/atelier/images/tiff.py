"""TIFF: 8 and 16 bit integers and floats, grey or RGB, with or without alpha; the first page of a file.

tifffile reads what it can unpack without extra packages; packings it cannot (LZW, JPEG, ...) go to Pillow (8
bit) or OpenCV (deeper), both of which link libtiff. Source: TIFF Revision 6.0, Adobe 1992.
"""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from atelier.images.header import Header, Pixels, resolution_to_dpi, upright

# tifffile logs what it thinks of damaged files; the user gets one message, ours, unless logging was asked for.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3
_CMYK, _YCBCR = 5, 6
_PLAIN = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
_ASSOCIATED_ALPHA = 1
_DEEP = ("uint16", "float16", "float32", "float64")


def _channels(page: Any) -> int:
    """Channels in memory. One sample beyond grey or RGB is alpha, however the file calls it."""
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    if photometric in (_PALETTE, _CMYK, _YCBCR):
        return 3
    colours = 3 if photometric == _RGB else 1
    if photometric not in _PLAIN or samples not in (colours, colours + 1):
        name = _name(page.photometric)
        raise ValueError(
            f"a TIFF of kind {name} with {samples} channels is none of grey, RGB, either with alpha"
        )
    return samples


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))


def _number(page: Any, tag: str, default: float) -> float:
    value = page.tags.valueof(tag, default=default)
    if isinstance(value, tuple):
        value = value[0] / value[1] if len(value) == 2 and value[1] else 0
    return float(value)


def read_header(stream: BinaryIO) -> Header:
    """Facts of the first page; raises ValueError where it is no picture of the kinds above."""
    import tifffile

    with tifffile.TiffFile(stream) as file:
        page = file.pages.first
        orientation = int(_number(page, "Orientation", 1))
        profile = page.tags.valueof("InterColorProfile")
        return Header(
            int(page.imagelength),
            int(page.imagewidth),
            _channels(page),
            orientation if 1 <= orientation <= 8 else 1,
            bytes(profile) if profile and int(page.photometric) != _CMYK else None,
            resolution_to_dpi(
                _number(page, "XResolution", 0),
                _number(page, "YResolution", 0),
                int(_number(page, "ResolutionUnit", 2)),
            ),
        )


def decode(data: bytes, header: Header) -> Pixels:
    """Pixels ``H×W×C`` as stored: uint8, uint16, or float32 (from 16 to 64-bit floats, values kept)."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        plain = int(page.photometric) in _PLAIN
        kind = (
            str(page.dtype) if page.bitspersample in (8, 16, 32, 64) else f"{page.bitspersample}-bit integers"
        )
        if kind == "uint8" or page.bitspersample == 1:
            pixels = _unpack(page) if plain and kind == "uint8" else None
            if pixels is None:
                return _with_pillow(data, header)
        elif plain and kind in _DEEP:
            pixels = _unpack(page)
            if pixels is None:
                pixels = _with_opencv(data, page)
        else:
            allowed = "8 and 16-bit integers and floats, grey or RGB (8 bit also palette, CMYK, YCbCr)"
            raise ValueError(f"a TIFF of {kind}, kind {_name(page.photometric)}; read are {allowed}")
        if int(page.photometric) == _WHITE_IS_ZERO:
            pixels = pixels.copy()
            full = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
            pixels[:, :, :1] = full - pixels[:, :, :1]
        if _ASSOCIATED_ALPHA in (int(sample) for sample in page.extrasamples):
            pixels = _unassociated(pixels)
    return pixels.astype(np.float32) if pixels.dtype.kind == "f" else pixels


def _unpack(page: Any) -> Pixels | None:
    """Samples ``H×W×C`` by tifffile, or None where it needs a package for that packing."""
    expected = (int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel))
    try:
        pixels = page.asarray()
    except ValueError as error:
        if "imagecodecs" in str(error):
            return None
        raise
    if page.planarconfig == 2 and pixels.ndim == 3:  # one plane a channel
        pixels = pixels.transpose(1, 2, 0)
    native = pixels.dtype.newbyteorder("=")
    return np.ascontiguousarray(pixels.reshape(expected), dtype=native)


def _with_opencv(data: bytes, page: Any) -> Pixels:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = (int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel))
    if pixels is None or pixels.size != np.prod(expected) or str(pixels.dtype) != str(page.dtype):
        raise ValueError(f"its packing ({_name(page.compression)}) cannot be read at this depth")
    pixels = pixels.reshape(expected)
    return pixels if expected[2] < 3 else np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][: expected[2]]])


def _with_pillow(data: bytes, header: Header) -> Pixels:
    from PIL.TiffImagePlugin import TiffImageFile

    from atelier.images.shallow import as_array

    with TiffImageFile(BytesIO(data)) as image:
        if header.orientation == 1:
            image.getexif()[274] = 1  # or Pillow would ask the XMP block, which no other format here does
        pixels = as_array(image, header.channels)
    # Pillow turns TIFF pictures upright while loading; here that is done once for all formats, by the caller. Every
    # orientation undoes itself but the two quarter turns, which undo each other.
    return upright(pixels, {6: 8, 8: 6}.get(header.orientation, header.orientation))


def _unassociated(pixels: Pixels) -> Pixels:
    """Colours divided by the alpha they were multiplied with; fully transparent pixels become black."""
    full = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    colour, alpha = pixels[:, :, :-1].astype(np.float64), pixels[:, :, -1:].astype(np.float64)
    colour = np.where(alpha > 0, colour * full / np.where(alpha > 0, alpha, 1), 0)
    if pixels.dtype.kind == "u":
        colour = np.rint(np.minimum(colour, full))
    return np.concatenate([colour.astype(pixels.dtype), pixels[:, :, -1:]], axis=2)


def encode(pixels: Pixels, icc_profile: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """A TIFF (Deflate, without loss) of ``H×W×C`` uint8, uint16 or float32 pixels, C = 1..4."""
    import tifffile

    channels = pixels.shape[2]
    stream = BytesIO()
    tifffile.imwrite(
        stream,
        pixels[:, :, 0] if channels == 1 else pixels,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        predictor=pixels.dtype.kind == "u",
        iccprofile=icc_profile,
        resolution=dpi,
        resolutionunit="INCH" if dpi is not None else None,
        metadata=None,
        software=False,
    )
    return stream.getvalue()
