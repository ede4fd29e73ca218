"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from atelier.metrics.options import MetricOptions

if TYPE_CHECKING:
    import numpy.typing as npt


def psnr(a: npt.NDArray[Any], b: npt.NDArray[Any], *, crop_border: int = 0, y: bool = False) -> float:
    """10 log10(peak² / MSE) in dB, MSE over all pixels and channels in float64; equal pictures give infinity.

    Args:
        a: picture ``H×W×C``, C = 1 or 3: uint8 (peak 255), uint16 (peak 65535) or floats in [0, 1] (peak 1).
        b: the other, of the same shape and type; the order does not matter.
        crop_border: pixels cut off every side first.
        y: measure the luma of BT.601 (studio range, not rounded) of RGB pictures, with the same peak; grey
            pictures are taken as they are. This is BasicSR's ``calculate_psnr`` with ``test_y_channel``.

    Raises:
        UserError: where the pictures differ in shape or type, have alpha, or nothing is left after the cut.
    """
    from atelier.metrics.prepare import comparable

    first, second, peak = comparable(a, b, crop_border=crop_border, y=y, least=1)
    first -= second
    difference = first.ravel()
    mse = float(difference @ difference) / difference.size
    return math.inf if mse == 0 else 10.0 * math.log10(peak * peak / mse)


class PSNROptions(MetricOptions):
    """PSNR in dB, MSE over all channels."""

    type: Literal["calculate_psnr", "psnr"] = "calculate_psnr"
    label: ClassVar[str] = "PSNR"

    def function(self) -> Callable[..., float]:
        """:func:`psnr`."""
        return psnr
