"""Whether a film's file is as long as its own headers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def first_missing(path: Path, stream: Any) -> str | None:
    """What of the file is missing, for a message; None where it is whole, or its format cannot tell.

    MP4 and MOV name the place of every frame; Matroska, WebM and AVI their length. Other formats are found
    out while decoding.

    Args:
        stream: the video stream of the opened container.
    """
    size = path.stat().st_size
    container = stream.container.format.name
    if "mp4" in container:
        for number, entry in enumerate(stream.index_entries):
            if entry.pos + entry.size > size:
                return f"frame {number} and those after it are missing"
        return None
    with path.open("rb") as file:
        head = file.read(1 << 12)
    if "matroska" in container:
        told = _matroska_length(head)
    elif container == "avi":
        # The first RIFF of a long AVI is one of several: only a file shorter than it is cut off.
        told = int.from_bytes(head[4:8], "little") + 8
    else:
        return None
    if told is not None and told > size:
        return f"it should have {told} bytes and has {size}"
    return None


def _matroska_length(head: bytes) -> int | None:
    """Bytes of the file by its segment's length (RFC 8794, 4 and 6); None where it was written as unknown."""
    if not head.startswith(_EBML):
        return None
    length, place = _variable(head, 4)
    if length is None:
        return None
    place += length
    if head[place : place + 4] != _SEGMENT:
        return None
    length, place = _variable(head, place + 4)
    return None if length is None else place + length


def _variable(data: bytes, place: int) -> tuple[int | None, int]:
    """A variable-length number and the place after it; None for the reserved "unknown"."""
    if place >= len(data) or data[place] == 0:
        return None, place
    width = 9 - data[place].bit_length()
    raw = int.from_bytes(data[place : place + width], "big")
    value = raw & ((1 << (7 * width)) - 1)
    return (None if value == (1 << (7 * width)) - 1 else value), place + width
