"""Between the pixel formats of films and RGB: explicit matrix and range, upright turning.

Coefficients: ITU-R BT.601-7, BT.709-6, BT.2020-2, SMPTE 240M; code values as in ITU-T H.273, section 8.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atelier.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame as AvFrame
    from numpy.typing import NDArray

UNSPECIFIED = 2
"""H.273's code for "not said" of matrix, primaries and transfer."""

LIMITED, FULL = 1, 2

_MATRICES = {
    1: ("ITU709", 0.2126, 0.0722),
    4: ("FCC", 0.30, 0.11),
    5: ("ITU601", 0.299, 0.114),
    6: ("ITU601", 0.299, 0.114),
    7: ("SMPTE240M", 0.212, 0.087),
    9: ("BT2020", 0.2627, 0.0593),
}
"""By H.273 code: the name in libswscale, and the weights of red and blue in luma."""


@dataclass(frozen=True)
class Colour:
    """The colour description of a film, in the codes of ITU-T H.273 (2: not said; ``range`` 0: not said)."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def settled(self, height: int) -> Colour:
        """With what is not said decided: BT.709 from 720 lines on, else BT.601; limited range.

        Raises:
            UserError: a matrix that is not a weighting of red, green and blue (YCgCo, ICtCp, ...).
        """
        matrix = self.matrix
        if matrix in (0, UNSPECIFIED):
            matrix = 1 if height >= 720 else 6
        if matrix not in _MATRICES:
            raise UserError(
                f"colour matrix {matrix} (ITU-T H.273) is not supported; supported: 1 (BT.709), 4 (FCC), "
                "5 and 6 (BT.601), 7 (SMPTE 240M), 9 (BT.2020)"
            )
        return Colour(matrix, self.range or LIMITED, self.primaries, self.transfer)


@dataclass(frozen=True)
class Turn:
    """How a stored picture becomes upright: transpose first, then mirror left-right and top-bottom."""

    transpose: bool = False
    mirror: bool = False
    flip: bool = False

    def __call__(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """``pixels`` H×W×C turned, C-contiguous."""
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        if self.mirror:
            pixels = pixels[:, ::-1]
        if self.flip:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


def turn_of(matrix: bytes | None) -> Turn:
    """The nearest of the eight turns of a display matrix: nine int32, ``p' = a p + c q``, ``q' = b p + d q``."""
    if matrix is None or len(matrix) < 36:
        return Turn()
    a, b, _, c, d = np.frombuffer(matrix, "=i4", 5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


class ToRGB:
    """Decoded frames as ``H×W×3`` arrays: uint8 up to 8 bits a component, otherwise uint16 over the whole range.

    Eight bits of limited range go through libswscale (at most one level off the formula). Full range and deeper
    components are computed here in float32: libswscale leaves four code values of ten bits, and its bilinear
    path from 4:2:0 to 48-bit RGB gives wrong colours.
    """

    def __init__(self, colour: Colour) -> None:
        from av.video.reformatter import VideoReformatter

        self.colour = colour
        self._scaler = VideoReformatter()

    def __call__(self, frame: AvFrame) -> NDArray[Any]:
        """The pixels of ``frame``, not turned; alpha is left out."""
        bits = frame.format.components[0].bits
        if frame.format.is_rgb or frame.format.has_palette:
            return self._scaled(frame, "rgb24" if bits <= 8 else "gbrp16le", FULL)
        if bits <= 8 and self.colour.range == LIMITED:
            return self._scaled(frame, "rgb24", LIMITED)
        depth = 8 if bits <= 8 else next(depth for depth in (9, 10, 12, 14, 16) if depth >= bits)
        layout = "yuv444p" if bits <= 8 else f"yuv444p{depth}le"
        return from_yuv(self._scaled(frame, layout, self.colour.range), self.colour, depth)

    def _scaled(self, frame: AvFrame, layout: str, source_range: int) -> NDArray[Any]:
        matrix = _space(self.colour.matrix)
        rgb = not layout.startswith("yuv")
        out = self._scaler.reformat(
            frame,
            format=layout,
            src_colorspace=matrix,
            # A matrix on both sides that differs would be converted twice.
            dst_colorspace=matrix,
            src_color_range=source_range,
            dst_color_range=FULL if rgb else source_range,
            interpolation=_flags(),
            threads=1,
        )
        planes = plane_views(out)
        if layout == "rgb24":
            return np.ascontiguousarray(planes[0].reshape(out.height, out.width, 3))
        if layout == "gbrp16le":
            planes = [planes[2], planes[0], planes[1]]
        return np.stack(planes[:3], axis=-1)


class FromRGB:
    """``H×W×3`` arrays as frames of one pixel format; the inverse of :class:`ToRGB`."""

    def __init__(self, pixel_format: str, colour: Colour) -> None:
        from av import VideoFormat
        from av.video.reformatter import VideoReformatter

        self.pixel_format = pixel_format
        self.colour = colour
        self._scaler = VideoReformatter()
        found = VideoFormat(pixel_format, 16, 16)
        self._rgb = found.is_rgb or found.has_palette
        self._bits = found.components[0].bits

    def __call__(self, pixels: NDArray[Any]) -> AvFrame:
        """A new frame of ``pixels``: ``H×W×3``, uint8 or uint16, C-contiguous."""
        from av import VideoFrame as AvFrame

        height, width = pixels.shape[:2]
        if self._rgb:
            layout = "rgb24" if pixels.dtype == np.uint8 else "gbrp16le"
        elif self._bits <= 8 and pixels.dtype == np.uint8 and self.colour.range == LIMITED:
            layout = "rgb24"
        else:
            layout = "yuv444p" if self._bits <= 8 else f"yuv444p{self._bits}le"
        frame = AvFrame(width, height, layout)
        views = plane_views(frame)
        if layout == "rgb24":
            views[0][...] = pixels.reshape(height, width * 3)
        else:
            values = pixels[..., (1, 2, 0)] if self._rgb else to_yuv(pixels, self.colour, self._bits)
            for k, view in enumerate(views[:3]):
                view[...] = values[..., k]
        matrix = _space(self.colour.matrix)
        return self._scaler.reformat(
            frame,
            format=self.pixel_format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL if layout in ("rgb24", "gbrp16le") else self.colour.range,
            dst_color_range=FULL if self._rgb else self.colour.range,
            interpolation=_flags(),
            threads=1,
        )


def from_yuv(yuv: NDArray[Any], colour: Colour, bits: int) -> NDArray[Any]:
    """``H×W×3`` code values of ``bits`` bits (uint8, or uint16 for more) as RGB over the whole range of their type."""
    peak = np.iinfo(yuv.dtype).max
    _, red, blue = _MATRICES[colour.matrix]
    green = 1 - red - blue
    luma_zero, luma_span, chroma_zero, chroma_span = _levels(colour.range, bits)
    y = (yuv[..., 0].astype(np.float32) - luma_zero) * (peak / luma_span)
    u = (yuv[..., 1].astype(np.float32) - chroma_zero) * (peak / chroma_span)
    v = (yuv[..., 2].astype(np.float32) - chroma_zero) * (peak / chroma_span)
    rgb = np.empty(yuv.shape, np.float32)
    rgb[..., 0] = y + 2 * (1 - red) * v
    rgb[..., 1] = y - (2 * blue * (1 - blue) / green) * u - (2 * red * (1 - red) / green) * v
    rgb[..., 2] = y + 2 * (1 - blue) * u
    return np.rint(rgb, out=rgb).clip(0, peak, out=rgb).astype(yuv.dtype)


def to_yuv(rgb: NDArray[Any], colour: Colour, bits: int) -> NDArray[Any]:
    """RGB ``H×W×3`` over the whole range of its type as code values of ``bits`` bits (uint8, or uint16 for more)."""
    _, red, blue = _MATRICES[colour.matrix]
    luma_zero, luma_span, chroma_zero, chroma_span = _levels(colour.range, bits)
    r, g, b = (rgb[..., k].astype(np.float32) / np.iinfo(rgb.dtype).max for k in range(3))
    y = red * r + (1 - red - blue) * g + blue * b
    yuv = np.empty(rgb.shape, np.float32)
    yuv[..., 0] = luma_zero + luma_span * y
    yuv[..., 1] = chroma_zero + (chroma_span / (2 * (1 - blue))) * (b - y)
    yuv[..., 2] = chroma_zero + (chroma_span / (2 * (1 - red))) * (r - y)
    kind = np.uint8 if bits <= 8 else np.uint16
    return np.rint(yuv, out=yuv).clip(0, (1 << bits) - 1, out=yuv).astype(kind)


def _levels(range_: int, bits: int) -> tuple[float, float, float, float]:
    """Zero and span of luma, zero and span of chroma (H.273, equations 20 to 31)."""
    step = float(1 << (bits - 8))
    if range_ == FULL:
        return 0.0, (1 << bits) - 1.0, 128 * step, (1 << bits) - 1.0
    return 16 * step, 219 * step, 128 * step, 224 * step


def plane_views(frame: AvFrame) -> list[NDArray[Any]]:
    """Writable views of a frame's planes, rows × samples, without the padding of the rows."""
    views = []
    for plane in frame.planes:
        wide = any(part.bits > 8 for part in frame.format.components)
        whole = np.frombuffer(memoryview(plane), "<u2" if wide else np.uint8)
        rows = whole.reshape(plane.height, -1)
        samples = plane.width * (3 if frame.format.name == "rgb24" else 1)
        views.append(rows[:, :samples])
    return views


def _space(matrix: int) -> Any:
    from av.video.reformatter import Colorspace

    return Colorspace[_MATRICES[matrix][0]]


def _flags() -> Any:
    from av.video.reformatter import Interpolation

    # Bilinear: chroma of films is sampled coarsely, sharper filters ring at edges.
    return (
        Interpolation.BILINEAR
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
    )
