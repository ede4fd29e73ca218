"""How much fine structure a restored picture has, against the clean one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

#: Gradient energy (levels of 255, squared) that keeps flat pictures from dividing by zero.
_FLAT = 0.25


def sharpness_ratio(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> float:
    """Gradient energy of luma, restored over gt: 1 for equal pictures, below 1 where detail was smoothed away.

    Args:
        restored: picture ``H×W×C``, C = 1 or 3: uint8, uint16 or floats in [0, 1].
        gt: the clean picture, of the same shape and type. The order matters.

    Raises:
        UserError: where the pictures differ in shape or type, or are smaller than 2×2.
    """
    from atelier.metrics.prepare import comparable

    first, second, peak = comparable(restored, gt, crop_border=0, y=True, least=2)

    def energy(picture: npt.NDArray[Any]) -> float:
        levels = picture * (255 / peak)
        across, down = levels[:, 1:] - levels[:, :-1], levels[1:] - levels[:-1]
        return float((across * across).mean() + (down * down).mean()) + _FLAT

    return energy(first) / energy(second)
