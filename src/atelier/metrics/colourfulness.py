"""How colourful a picture is, without a reference (Hasler & Süsstrunk, SPIE Human Vision and Imaging VIII, 2003)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atelier.errors import UserError

if TYPE_CHECKING:
    import numpy.typing as npt


def colourfulness(picture: npt.NDArray[Any]) -> float:
    """√(σ²rg + σ²yb) + 0.3 √(μ²rg + μ²yb) with rg = R - G and yb = (R + G)/2 - B on 0...255; 0 for grey pictures.

    Of a film it is the mean over frames.

    Args:
        picture: RGB ``H×W×3``: uint8, uint16 or floats in [0, 1].

    Raises:
        UserError: no RGB picture.
    """
    import numpy as np

    from atelier.metrics.prepare import comparable

    planes, _, peak = comparable(picture, picture, crop_border=0, y=False, least=1)
    if planes.shape[2] != 3:
        raise UserError("colourfulness is measured on RGB pictures; given a grey one")
    red, green, blue = np.moveaxis(planes * (255 / peak), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread = np.sqrt(opponents.var(axis=(1, 2)).sum())
    mean = np.sqrt((opponents.mean(axis=(1, 2)) ** 2).sum())
    return float(spread + 0.3 * mean)
