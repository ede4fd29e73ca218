"""Structural similarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from atelier.metrics.options import MetricOptions

if TYPE_CHECKING:
    import numpy.typing as npt

    from atelier.metrics.prepare import Planes

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
_STRIP = 128


def ssim(a: npt.NDArray[Any], b: npt.NDArray[Any], *, crop_border: int = 0, y: bool = False) -> float:
    """Mean structural similarity (Wang et al., IEEE TIP 13(4), 2004); 1 for equal pictures.

    The authors' definition, as in MATLAB and BasicSR: Gaussian window 11×11 with σ = 1.5, K1 = 0.01, K2 =
    0.03, only windows that lie wholly inside the picture, per channel, then the mean over channels; in
    float64.

    Args:
        a: picture ``H×W×C``, C = 1 or 3: uint8 (range 255), uint16 (65535) or floats in [0, 1] (1).
        b: the other, of the same shape and type; the order does not matter.
        crop_border: pixels cut off every side first.
        y: measure the luma of BT.601 (studio range, not rounded) of RGB pictures; grey ones are taken as
            they are.

    Raises:
        UserError: where the pictures differ in shape or type, have alpha, or less than 11×11 is left after
            the cut.
    """
    from atelier.metrics.prepare import comparable

    first, second, peak = comparable(a, b, crop_border=crop_border, y=y, least=_WINDOW)
    height, width, channels = first.shape
    windows = height - _WINDOW + 1
    total = 0.0
    for k in range(channels):
        plane_a, plane_b = first[:, :, k].copy(), second[:, :, k].copy()
        for row in range(
            0, windows, _STRIP
        ):  # strips whose intermediate results stay in the processor's cache
            part = slice(row, row + _STRIP + _WINDOW - 1)
            total += _similarity(plane_a[part], plane_b[part], peak)
    return float(total / (windows * (width - _WINDOW + 1) * channels))


def _similarity(a: Planes, b: Planes, peak: float) -> float:
    """The similarity of all windows inside two planes ``H×W``, summed."""
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    means = mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    # The two variances are only ever needed as their sum: four filters instead of five.
    covariance = _blur(a * b) - means
    variances = _blur(a * a + b * b) - squares
    similarity = (2 * means + c1) * (2 * covariance + c2)
    similarity /= (squares + c1) * (variances + c2)
    return float(similarity.sum())


def _blur(plane: Planes) -> Planes:
    """Gaussian means of all windows inside the plane: ``(H-10)×(W-10)``."""
    import cv2

    kernel = cv2.getGaussianKernel(_WINDOW, _SIGMA)
    edge = _WINDOW // 2
    blurred = cast("Planes", cv2.sepFilter2D(plane, -1, kernel, kernel))
    return blurred[edge:-edge, edge:-edge]


class SSIMOptions(MetricOptions):
    """SSIM with an 11×11 Gaussian window, mean over channels."""

    type: Literal["calculate_ssim", "ssim"] = "calculate_ssim"
    label: ClassVar[str] = "SSIM"
    smallest: ClassVar[int] = _WINDOW

    def function(self) -> Callable[..., float]:
        """:func:`ssim`."""
        return ssim
