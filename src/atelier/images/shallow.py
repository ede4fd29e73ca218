"""JPEG, WebP and BMP (and 8-bit PNGs on their way out) through Pillow: what holds 8 bit at most.

Pillow's reader classes are called directly rather than through ``Image.open``: that one refuses what is
above 179 megapixels, which a ×4 restored photograph reaches, and its limit could only be moved for the whole
process.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from atelier.images.header import Header, Pixels, read_exif, resolution_exif

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_CHANNELS = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "RGBX": 3, "CMYK": 3, "YCbCr": 3}


def _open(kind: str, stream: BinaryIO) -> ImageFile:
    if kind == "JPEG":
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(stream)
    if kind == "WebP":
        from PIL.WebPImagePlugin import WebPImageFile

        return WebPImageFile(stream)
    from PIL.BmpImagePlugin import BmpImageFile

    return BmpImageFile(stream)


def read_header(kind: str, stream: BinaryIO) -> Header:
    """Facts of a ``JPEG``, ``WebP`` or ``BMP`` file; whatever Pillow raises where it is none."""
    with _open(kind, stream) as image:
        if image.mode == "P":
            channels = 4 if "transparency" in image.info else 3
        elif image.mode in _CHANNELS:
            channels = _CHANNELS[image.mode]
        else:
            raise ValueError(f"its pixels are of a kind ({image.mode}) that is not supported")
        orientation, dpi = read_exif(image.info.get("exif"))
        # Pillow fills in 72 dpi where a JPEG states none, so JFIF's own field is asked first, then EXIF.
        if kind == "JPEG":
            x, y = image.info.get("jfif_density", (0, 0))
            if image.info.get("jfif_unit") in (1, 2) and x and y:
                factor = 1.0 if image.info["jfif_unit"] == 1 else 2.54
                dpi = (x * factor, y * factor)
        elif kind == "BMP" and all(image.info.get("dpi", (0, 0))):
            dpi = image.info["dpi"]
        width, height = image.size
        profile = None if image.mode == "CMYK" else image.info.get("icc_profile")
        return Header(height, width, channels, orientation, profile or None, dpi)


def decode(kind: str, data: bytes, header: Header) -> Pixels:
    """Pixels ``H×W×C`` uint8 as stored."""
    with _open(kind, BytesIO(data)) as image:
        return as_array(image, header.channels)


def as_array(image: Image, channels: int) -> Pixels:
    """A Pillow picture of any 8-bit kind as ``H×W×C`` uint8; palettes and single bits are spread."""
    image.load()
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _from_cmyk(image: Image) -> Image:
    """Printing inks to sRGB: by the file's own profile where it is usable, else by the plain formula."""
    profile = image.info.get("icc_profile")
    if profile:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def encode(
    kind: str, pixels: Pixels, icc_profile: bytes | None, dpi: tuple[float, float] | None, quality: int
) -> bytes:
    """A ``PNG``, ``JPEG``, ``WebP`` or ``BMP`` file of ``H×W×C`` uint8 pixels.

    JPEG keeps full colour resolution (4:4:4). WebP knows no grey, so grey is stored as three equal channels;
    at quality 100 it is without loss. BMP stores no profile.
    """
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    settings: dict[str, object] = {}
    if kind == "JPEG":
        settings = {"quality": quality, "subsampling": 0}
    elif kind == "WebP":
        image = image.convert("RGB" if pixels.shape[2] in (1, 3) else "RGBA")
        settings = {"quality": quality, "lossless": quality == 100, "exact": True}
    if icc_profile is not None and kind != "BMP":
        settings["icc_profile"] = icc_profile
    if dpi is not None and kind == "WebP":
        settings["exif"] = resolution_exif(dpi)
    elif dpi is not None:
        settings["dpi"] = dpi
    if kind == "PNG":
        settings["compress_level"] = 4  # files 2 % larger than at the usual 6, in half the time
    stream = BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()
