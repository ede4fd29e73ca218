"""PNG beyond what the libraries offer: facts from the chunks, and 16 bit with alpha, profile and resolution.

Pillow cannot hold 16-bit colour and OpenCV neither keeps metadata nor writes grey + alpha, so the container
is read here and OpenCV only decodes. Source: Portable Network Graphics (Third Edition), W3C 2025; sections 5
(chunks), 9 (filters), 11.3 (ancillary chunks).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from atelier.images.header import INCHES_PER_METRE, Header, Pixels, read_exif

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 3, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_COLOUR_TYPE = {1: _GREY, 2: _GREY_ALPHA, 3: _RGB, 4: _RGB_ALPHA}
_WANTED = (b"IHDR", b"tRNS", b"iCCP", b"pHYs", b"eXIf")
_LARGEST_PROFILE = 64 << 20  # a compressed profile may not unpack to more than this


@dataclass(frozen=True)
class PngHeader(Header):
    """Facts of a PNG. ``transparent`` is the raw tRNS chunk: a colour key, or the alphas of a palette."""

    bit_depth: int = 8
    colour_type: int = _RGB
    transparent: bytes | None = None


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Chunk names and, for the wanted ones, their checked data. Other data is skipped over, not read."""
    size = stream.seek(0, 2)
    stream.seek(len(SIGNATURE))
    while True:
        start = stream.read(8)
        if len(start) < 8:
            raise ValueError("it is truncated (the end marker is missing)")
        length, name = struct.unpack(">I4s", start)
        if stream.tell() + length + 4 > size:
            raise ValueError("it is truncated")
        if name in _WANTED:
            data = stream.read(length)
            (checksum,) = struct.unpack(">I", stream.read(4))
            if zlib.crc32(name + data) != checksum:
                raise ValueError(f"it is damaged (wrong checksum of {name.decode('ascii')})")
            yield name, data
        else:
            stream.seek(length + 4, 1)
            yield name, b""
        if name == b"IEND":
            return


def read_header(stream: BinaryIO) -> PngHeader:
    """Facts from the chunks; raises ValueError with the reason where the file is damaged or cut short."""
    found: dict[bytes, bytes] = {}
    for name, data in _chunks(stream):
        found.setdefault(name, data)
    if len(found.get(b"IHDR", b"")) != 13 or b"IDAT" not in found:
        raise ValueError("it is damaged (no header or no picture data)")
    width, height, bit_depth, colour_type = struct.unpack(">IIBB", found[b"IHDR"][:10])
    if not width or not height or colour_type not in _CHANNELS:
        raise ValueError("it is damaged (impossible header)")
    # A colour key exists for grey and RGB only; where an alpha channel is stored the chunk is forbidden.
    transparent = found.get(b"tRNS") if colour_type in (_GREY, _RGB, _PALETTE) else None
    orientation, _ = read_exif(found.get(b"eXIf"))
    return PngHeader(
        height,
        width,
        _CHANNELS[colour_type] + (transparent is not None),
        orientation,
        _profile(found.get(b"iCCP")),
        _dpi(found.get(b"pHYs")),
        bit_depth,
        colour_type,
        transparent,
    )


def _profile(data: bytes | None) -> bytes | None:
    if data is None:
        return None
    _, _, packed = data.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], _LARGEST_PROFILE) or None
    except zlib.error:  # a broken profile does not make the pixels unreadable
        return None


def _dpi(data: bytes | None) -> tuple[float, float] | None:
    if data is None or len(data) != 9:
        return None
    x, y, unit = struct.unpack(">IIB", data)
    return (x / INCHES_PER_METRE, y / INCHES_PER_METRE) if unit == 1 and x and y else None


def decode(data: bytes, header: PngHeader) -> Pixels:
    """Pixels ``H×W×C`` as stored: uint16 for 16-bit files, uint8 for all others (1, 2, 4 bit spread to 8)."""
    pixels = _decode_deep(data, header) if header.bit_depth == 16 else _decode_shallow(data, header)
    if header.transparent is None or header.colour_type == _PALETTE:
        return pixels
    # Viewers compare the stored samples with the key, so the key is spread to 8 bit as the samples were.
    key = np.array(struct.unpack(f">{pixels.shape[2]}H", header.transparent[: 2 * pixels.shape[2]]))
    if header.bit_depth < 8:
        key = key * (255 // ((1 << header.bit_depth) - 1))
    full = np.iinfo(pixels.dtype).max
    alpha = np.where((pixels == key).all(axis=2, keepdims=True), 0, full).astype(pixels.dtype)
    return np.concatenate([pixels, alpha], axis=2)


def _bare(data: bytes) -> bytes:
    """The file without its remarks: libraries refuse pictures for a large text or profile, or act on it."""
    place, parts = len(SIGNATURE), [SIGNATURE]
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            parts.append(data[place : place + length + 12])
        if name == b"IEND":
            break
        place += length + 12
    return b"".join(parts)


def _decode_shallow(data: bytes, header: PngHeader) -> Pixels:
    from io import BytesIO

    from PIL.PngImagePlugin import PngImageFile

    mode = {_GREY: "L", _GREY_ALPHA: "LA", _RGB: "RGB", _RGB_ALPHA: "RGBA", _PALETTE: "RGB"}[
        header.colour_type
    ]
    if header.colour_type == _PALETTE and header.transparent is not None:
        mode = "RGBA"
    with PngImageFile(BytesIO(_bare(data))) as image:
        image.load()
        pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _decode_deep(data: bytes, header: PngHeader) -> Pixels:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(_bare(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("its picture data is damaged")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    # OpenCV gives BGR, adds an alpha channel of its own for a colour key, and spreads grey + alpha to four
    # channels.
    order = {_GREY: [0], _GREY_ALPHA: [0, 3], _RGB: [2, 1, 0], _RGB_ALPHA: [2, 1, 0, 3]}[header.colour_type]
    return np.ascontiguousarray(pixels[:, :, order])


def encode_16(pixels: Pixels, icc_profile: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """A 16-bit PNG of ``H×W×C`` uint16 pixels, C = 1..4, with profile and resolution where given."""
    height, width, channels = pixels.shape
    parts = [
        SIGNATURE,
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPE[channels], 0, 0, 0)),
    ]
    if icc_profile is not None:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    if dpi is not None:
        per_metre = [round(value * INCHES_PER_METRE) for value in dpi]
        parts.append(_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    parts.append(_chunk(b"IDAT", zlib.compress(_filtered(pixels), level=4)))
    parts.append(_chunk(b"IEND", b""))
    return b"".join(parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _filtered(pixels: Pixels) -> bytes:
    """Big-endian rows, each minus its left (1) or upper (2) neighbour, whichever is less."""
    height = pixels.shape[0]
    step = 2 * pixels.shape[2]
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    left = rows.copy()
    left[:, step:] -= rows[:, :-step]
    above = rows.copy()
    above[1:] -= rows[:-1]
    # Sum of absolute differences, taken as signed bytes: the heuristic of section 12.7.
    cost_left, cost_above = (
        np.abs(part.view(np.int8).astype(np.int16)).sum(axis=1) for part in (left, above)
    )
    use_above = cost_above < cost_left
    out = np.empty((height, rows.shape[1] + 1), np.uint8)
    out[:, 0] = np.where(use_above, 2, 1)
    out[:, 1:] = np.where(use_above[:, None], above, left)
    return out.tobytes()
