"""What the start of a picture file tells, and the two little formats that several containers share.

EXIF is a TIFF directory (CIPA DC-008, section 4.6.2); of it only orientation and resolution matter here. An
ICC profile names its colour space at bytes 16..19 (ICC.1:2022, section 7.2.6).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 274, 282, 283, 296
_SHORT, _RATIONAL = 3, 5
INCHES_PER_METRE = 1 / 0.0254


@dataclass(frozen=True)
class Header:
    """Facts of a picture file. Height and width are as stored, before the orientation is applied."""

    height: int
    width: int
    channels: int
    orientation: int = 1
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels ``H×W×C`` the way EXIF orientation 1..8 asks (others: as it is); contiguous."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def swaps_axes(orientation: int) -> bool:
    """Whether this EXIF orientation exchanges height and width."""
    return orientation in (5, 6, 7, 8)


def resolution_to_dpi(x: float, y: float, unit: int) -> tuple[float, float] | None:
    """Dots per inch from a resolution and TIFF's unit (2 inch, 3 cm); None where it states no size."""
    factor = {2: 1.0, 3: 2.54}.get(unit)
    if factor is None or not (0 < x < 1e7 and 0 < y < 1e7):
        return None
    return x * factor, y * factor


def read_exif(block: bytes | None) -> tuple[int, tuple[float, float] | None]:
    """Orientation (1 where absent or not valid) and dots per inch of an EXIF block.

    A damaged block counts as absent: the picture itself is still good.
    """
    if not block:
        return 1, None
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1, None
    values: dict[int, float] = {}
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", block, entry)
            if kind == _SHORT:
                (values[tag],) = struct.unpack_from(order + "H", block, entry + 8)
            elif kind == _RATIONAL and tag in (_X_RESOLUTION, _Y_RESOLUTION):
                (place,) = struct.unpack_from(order + "I", block, entry + 8)
                above, below = struct.unpack_from(order + "II", block, place)
                values[tag] = above / below if below else 0.0
    except struct.error:  # the block ends early; what was read so far stands
        pass
    orientation = int(values.get(_ORIENTATION, 1))
    unit = int(values.get(_RESOLUTION_UNIT, 2))
    dpi = resolution_to_dpi(values.get(_X_RESOLUTION, 0.0), values.get(_Y_RESOLUTION, 0.0), unit)
    return (orientation if 1 <= orientation <= 8 else 1), dpi


def resolution_exif(dpi: tuple[float, float]) -> bytes:
    """An EXIF block that holds the resolution and nothing else (for WebP, which has no field of its own)."""
    thousandths = [(max(1, round(value * 1000)), 1000) for value in dpi]
    entries = struct.pack("<HHII", _X_RESOLUTION, _RATIONAL, 1, 50)
    entries += struct.pack("<HHII", _Y_RESOLUTION, _RATIONAL, 1, 58)
    entries += struct.pack("<HHIHH", _RESOLUTION_UNIT, _SHORT, 1, 2, 0)
    start = b"II" + struct.pack("<HI", 42, 8) + struct.pack("<H", 3)
    return (
        b"Exif\0\0"
        + start
        + entries
        + struct.pack("<I", 0)
        + struct.pack("<IIII", *thousandths[0], *thousandths[1])
    )


def fitting_profile(icc_profile: bytes | None, channels: int) -> bytes | None:
    """The profile when it describes pixels of that many channels, else None.

    A grey profile in a colour file (or the reverse) is not valid, and programs then show wrong colours or
    refuse.
    """
    if icc_profile is None or len(icc_profile) < 128:
        return None
    return icc_profile if icc_profile[16:20] == (b"GRAY" if channels <= 2 else b"RGB ") else None
