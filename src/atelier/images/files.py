"""Picture files: PNG, JPEG, WebP, TIFF and BMP to arrays and back, without silent loss.

What a file holds is told by its content, never by its suffix. The number of bits follows the file's own bit
depth. Orientation (EXIF) is applied on reading and not stored again, so it cannot be applied twice.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from atelier.errors import UserError
from atelier.files import describe_os_error
from atelier.images import png, shallow, tiff
from atelier.images.header import Header, Pixels, fitting_profile, swaps_axes, upright


@dataclass(frozen=True)
class _Format:
    """What a format can store."""

    name: str
    dtypes: tuple[str, ...]
    alpha: bool


_PNG = _Format("PNG", ("uint8", "uint16"), True)
_JPEG = _Format("JPEG", ("uint8",), False)
_WEBP = _Format("WebP", ("uint8",), True)
_TIFF = _Format("TIFF", ("uint8", "uint16", "float32"), True)
_BMP = _Format("BMP", ("uint8",), False)
_FORMATS = (_PNG, _JPEG, _WEBP, _TIFF, _BMP)
_BY_SUFFIX = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _BMP,
}

IMAGE_SUFFIXES: tuple[str, ...] = tuple(_BY_SUFFIX)
"""Lower-case suffixes of the files that :func:`read_image` and :func:`write_image` know."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was read.

    Attributes:
        pixels: C-contiguous ``H×W×C``, RGB order, ``uint8``, ``uint16`` or ``float32``; C = 1..4 (see the
        package). path: the file it came from.
        icc_profile: the embedded colour profile. Pixels are as stored, not converted by it.
        dpi: dots per inch (x, y) where the file states a resolution.
    """

    pixels: Pixels
    path: Path
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None


def _format_of(start: bytes) -> _Format:
    if start.startswith(png.SIGNATURE):
        return _PNG
    if start.startswith(b"\xff\xd8\xff"):
        return _JPEG
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _WEBP
    if start.startswith(tiff.SIGNATURES):
        return _TIFF
    if start.startswith(b"BM"):
        return _BMP
    if not start:
        raise ValueError("it is empty (0 bytes)")
    raise ValueError(f"it is no picture in a known format; known: {', '.join(f.name for f in _FORMATS)}")


def _read_header(stream: BinaryIO) -> tuple[_Format, Header]:
    form = _format_of(stream.read(16))
    stream.seek(0)
    if form is _PNG:
        return form, png.read_header(stream)
    if form is _TIFF:
        return form, tiff.read_header(stream)
    return form, shallow.read_header(form.name, stream)


def _read_pixels(data: bytes, form: _Format, header: Header) -> Pixels:
    if isinstance(header, png.PngHeader):
        return png.decode(data, header)
    if form is _TIFF:
        return tiff.decode(data, header)
    return shallow.decode(form.name, data, header)


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"cannot read picture {path}: there is no such file")
    if isinstance(error, IsADirectoryError):
        return UserError(f"cannot read picture {path}: it is a folder, not a file")
    if isinstance(error, MemoryError):
        return UserError(f"cannot read picture {path}: it does not fit into memory, or its header is damaged")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"cannot read picture {path}: {reason or type(error).__name__}")


def read_image(path: str | os.PathLike[str]) -> Picture:
    """Read a picture at its full depth, turned upright.

    Grey, grey + alpha, RGB and RGBA keep their channels; palettes expand to RGB(A), single bits to uint8
    grey, CMYK to sRGB. 16-bit PNG and TIFF give ``uint16``, float TIFF ``float32`` with the stored values.
    Of a file with several pictures the first is read.

    Raises:
        UserError: naming the file and the reason, where it is missing, empty, damaged, cut short or of
            another kind.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return decode_image(data, path)


def decode_image(data: bytes, name: str | os.PathLike[str]) -> Picture:
    """The picture in the bytes of a file, as :func:`read_image`; ``name`` stands for it in messages."""
    path = Path(name)
    # Decoders meet arbitrary bytes here and raise almost anything (SyntaxError, struct.error, ...): every
    # failure of theirs means the same to the user, that this file cannot be read.
    try:
        form, header = _read_header(BytesIO(data))
        pixels = _read_pixels(data, form, header)
        if pixels.shape != (header.height, header.width, header.channels):
            raise ValueError(f"it is damaged (its data give {pixels.shape}, its header says otherwise)")
    except Exception as error:
        raise _unreadable(path, error) from error
    dpi = header.dpi
    if dpi is not None and swaps_axes(header.orientation):
        dpi = (dpi[1], dpi[0])
    return Picture(upright(pixels, header.orientation), path, header.icc_profile, dpi)


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """(height, width, channels) that :func:`read_image` would give, from the header alone.

    Raises:
        UserError: as :func:`read_image`, as far as the header shows it.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            _, header = _read_header(stream)
    except Exception as error:
        raise _unreadable(path, error) from error
    height, width = header.height, header.width
    if swaps_axes(header.orientation):
        height, width = width, height
    return height, width, header.channels


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All picture files below a folder, by suffix, sorted by relative path (the same on every system).

    Symbolic links are followed, each folder once. Hidden files and folders (``.name``) are left out.

    Raises:
        UserError: where the folder is missing, no folder, or not readable. An empty folder gives an empty
            list.
    """
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"cannot list pictures in {folder}: there is no such folder")
    if not folder.is_dir():
        raise UserError(f"cannot list pictures in {folder}: it is a file, not a folder")
    return list_files(folder, IMAGE_SUFFIXES)


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files with one of these suffixes (lower case) below a folder, as :func:`list_images` lists pictures."""
    return sorted(_walk(folder, suffixes), key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise UserError(f"cannot list the files in {error.filename}: {error.strerror}") from error

    seen = {folder.resolve()}
    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = (Path(place) / name).resolve()
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield Path(place) / name


def write_image(
    path: str | os.PathLike[str], pixels: Pixels, *, like: Picture | None = None, quality: int = 95
) -> None:
    """Write a picture in the format of the suffix; the file appears whole or not at all.

    Args:
        path: where to; missing folders are made.
        pixels: ``H×W×C``, ``uint8``, ``uint16`` (PNG, TIFF) or ``float32`` (TIFF), RGB order, C = 1..4.
        like: a picture whose ICC profile (where it fits grey or colour as written) and resolution are kept.
            BMP has no place for a profile.
        quality: 1..100, for JPEG and WebP; 100 makes WebP lossless.

    Raises:
        UserError: naming the file, where the format cannot store such pixels or the file cannot be written.
        ValueError, TypeError: where ``pixels`` or ``quality`` is not as described.
    """
    path = Path(path)
    form = _checked(path, pixels, quality)
    profile = fitting_profile(like.icc_profile, pixels.shape[2]) if like else None
    dpi = like.dpi if like else None
    pixels = np.ascontiguousarray(pixels)
    try:
        if form is _TIFF:
            data = tiff.encode(pixels, profile, dpi)
        elif form is _PNG and pixels.dtype == np.uint16:
            data = png.encode_16(pixels, profile, dpi)
        else:
            data = shallow.encode(form.name, pixels, profile, dpi, quality)
    except (OSError, ValueError) as error:  # for example above the format's largest width
        size = f"{pixels.shape[1]}×{pixels.shape[0]}"
        raise UserError(
            f"cannot write {path}: {form.name} does not take this {size} picture ({error})"
        ) from error
    _write_whole(path, data)


def _checked(path: Path, pixels: Pixels, quality: int) -> _Format:
    if not isinstance(pixels, np.ndarray) or str(pixels.dtype) not in ("uint8", "uint16", "float32"):
        given = getattr(pixels, "dtype", type(pixels).__name__)
        raise TypeError(f"pixels must be a numpy array of uint8, uint16 or float32, not {given}")
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or pixels.size == 0:
        raise ValueError(f"pixels must be H×W×C with C = 1..4, not of shape {pixels.shape}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1..100, not {quality}")
    form = _BY_SUFFIX.get(path.suffix.lower())
    if form is None:
        raise UserError(
            f"cannot write {path}: unknown suffix '{path.suffix}'; known: {', '.join(_BY_SUFFIX)}"
        )
    kind = str(pixels.dtype)
    if kind not in form.dtypes:
        able = ", ".join(other.name for other in _FORMATS if kind in other.dtypes)
        raise UserError(
            f"cannot write {path}: {form.name} cannot store {kind} pixels; formats that can: {able}"
        )
    if pixels.shape[2] in (2, 4) and not form.alpha:
        able = ", ".join(other.name for other in _FORMATS if other.alpha and kind in other.dtypes)
        raise UserError(
            f"cannot write {path}: {form.name} cannot store an alpha channel; formats that can: {able}"
        )
    return form


def _write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder, flush, rename; a failure leaves what was there before."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(describe_os_error(error, path)) from error
