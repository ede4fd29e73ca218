"""How far colours moved as a whole: the difference of channel means, and the strength of fine colour noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from atelier.errors import UserError
from atelier.metrics.options import Metric, MetricOptions

if TYPE_CHECKING:
    import numpy.typing as npt

#: Variance of fine chroma (levels of 255, squared) below which a picture counts as having none of its own.
_NO_CHROMA = 0.25


def colour_shift(a: npt.NDArray[Any], b: npt.NDArray[Any], *, crop_border: int = 0, y: bool = False) -> float:
    """The largest difference of the two pictures' channel means, in levels of 255; 0 for equal pictures.

    Args:
        a: picture ``H×W×C``, C = 1 or 3: uint8, uint16 or floats in [0, 1].
        b: the other, of the same shape and type; the order does not matter.
        crop_border: pixels cut off every side first.
        y: compare the mean luma (BT.601) instead of the three channels.

    Raises:
        UserError: where the pictures differ in shape or type, have alpha, or nothing is left after the cut.
    """
    from atelier.metrics.prepare import comparable

    first, second, peak = comparable(a, b, crop_border=crop_border, y=y, least=1)
    return float(abs(first.mean(axis=(0, 1)) - second.mean(axis=(0, 1))).max() * 255 / peak)


def chroma_ratio(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> float:
    """Energy of fine structure in Cb and Cr, restored over gt; 1 for equal pictures and for grey ones.

    Fine structure is what a horizontal or vertical first difference leaves. Colour noise and coloured fringes raise
    the ratio; both energies are lifted by a quarter of a squared level, so that pictures without colour do not divide
    by zero.

    Args:
        restored: picture ``H×W×C``, C = 1 or 3: uint8, uint16 or floats in [0, 1].
        gt: the clean picture, of the same shape and type.

    Raises:
        UserError: as :func:`colour_shift`.
    """
    from atelier.images.colour import rgb_to_ycbcr
    from atelier.metrics.prepare import comparable

    first, second, peak = comparable(restored, gt, crop_border=0, y=False, least=2)
    if first.shape[2] != 3:
        return 1.0

    def energy(picture: npt.NDArray[Any]) -> float:
        chroma = rgb_to_ycbcr(picture / peak)[:, :, 1:] * 255
        across, down = chroma[:, 1:] - chroma[:, :-1], chroma[1:] - chroma[:-1]
        return float((across * across).mean() + (down * down).mean()) + _NO_CHROMA

    return energy(first) / energy(second)


class ColourShiftOptions(MetricOptions):
    """The largest difference of channel means, in levels of 255."""

    type: Literal["colour_shift"] = "colour_shift"
    label: ClassVar[str] = "Colour shift"
    natural_sense: ClassVar[Literal["higher", "lower"]] = "lower"

    def function(self) -> Callable[..., float]:
        """:func:`colour_shift`."""
        return colour_shift

    def build(self, scale: int, channels: int = 3) -> Metric:
        """The metric; its protocol names the unit."""
        if self.better == "higher":
            raise UserError("metric colour_shift: better: higher makes no sense for a distance")
        built = super().build(scale, channels)
        what = "luma" if self.test_y_channel else "largest channel"
        crop = scale if self.crop_border is None else self.crop_border
        return Metric(
            f"Colour shift ({what} mean, levels of 255, crop {crop})", False, built.measure, built.least
        )
