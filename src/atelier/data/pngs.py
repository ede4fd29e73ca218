"""PNG files at a compression level of one's choice, as data set tools write them."""

from __future__ import annotations

from io import BytesIO

from atelier.degrade.base import Pixels
from atelier.errors import UserError
from atelier.images.files import Picture


def check_level(level: int) -> None:
    """Raises :class:`UserError` where ``level`` is no level of zlib."""
    if not 0 <= level <= 9:
        raise UserError(f"compression level {level} is not between 0 (none, fast) and 9 (small, slow)")


def png_bytes(pixels: Pixels, level: int, like: Picture | None = None) -> bytes:
    """A PNG file of ``H×W×C`` uint8 or uint16 pixels, C = 1..4.

    Args:
        pixels: RGB order.
        level: zlib's level 0..9 for 8-bit pictures; 16-bit ones are always written at 4.
        like: a picture whose colour profile and resolution are kept.

    Raises:
        UserError: float pixels, which PNG cannot hold.
    """
    from PIL import Image

    from atelier.images.header import fitting_profile
    from atelier.images.png import encode_16

    profile = fitting_profile(like.icc_profile, pixels.shape[2]) if like else None
    dpi = like.dpi if like else None
    if pixels.dtype == "uint16":
        return encode_16(pixels, profile, dpi)
    if pixels.dtype != "uint8":
        raise UserError(f"{like.path if like else 'a picture'}: PNG cannot store {pixels.dtype} pixels")
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    stream = BytesIO()
    facts = {"icc_profile": profile, "dpi": dpi}
    image.save(stream, "PNG", compress_level=level, **{k: v for k, v in facts.items() if v is not None})
    return stream.getvalue()
