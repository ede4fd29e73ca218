"""How far colours are from the truth: PSNR and SSIM of ab alone, mean |Δab|, and CIEDE2000."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from atelier.metrics.prepare import Planes


def ab_psnr(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> float:
    """PSNR in dB of the planes a + 128 and b + 128 (not rounded) with peak 255; equal colours give infinity.

    Args:
        restored: RGB picture ``H×W×3``: uint8, uint16 or floats in [0, 1].
        gt: the true picture, of the same shape and type.

    Raises:
        UserError: they do not fit together, or are not RGB.
    """
    from atelier.metrics.lab import lab_pair

    return _ab_psnr(*lab_pair(restored, gt))


def ab_ssim(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> float:
    """Mean of the structural similarities of a + 128 and of b + 128 with range 255; arguments as :func:`ab_psnr`.

    Raises:
        UserError: also where a side is below 11.
    """
    from atelier.metrics.lab import lab_pair

    return _ab_ssim(*lab_pair(restored, gt))


def delta_ab(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> float:
    """Mean absolute difference of a and b in Lab units, over both planes; arguments and errors as :func:`ab_psnr`."""
    from atelier.metrics.lab import lab_pair

    return _delta_ab(*lab_pair(restored, gt))


def ciede2000(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> float:
    """Mean CIEDE2000 colour difference (CIE 142-2001) with kL = kC = kH = 1; about 1 can just be seen.

    Arguments and errors as :func:`ab_psnr`.
    """
    from atelier.metrics.lab import lab_pair

    return float(ciede2000_map(*lab_pair(restored, gt)).mean())


def colour_differences(restored: npt.NDArray[Any], gt: npt.NDArray[Any]) -> dict[str, float]:
    """``ab_psnr``, ``ab_ssim``, ``delta_ab`` and ``ciede2000`` at once: both pictures become LAB a single time."""
    from atelier.metrics.lab import lab_pair

    pair = lab_pair(restored, gt)
    return {
        "ab_psnr": _ab_psnr(*pair),
        "ab_ssim": _ab_ssim(*pair),
        "delta_ab": _delta_ab(*pair),
        "ciede2000": float(ciede2000_map(*pair).mean()),
    }


def _ab_psnr(first: Planes, second: Planes) -> float:
    import numpy as np

    from atelier.metrics.psnr import psnr

    # Side by side the two planes are one grey picture, whose mean squared error is theirs.
    both = (np.concatenate([_on_one(lab, 1), _on_one(lab, 2)], axis=1) for lab in (first, second))
    return psnr(*both)


def _ab_ssim(first: Planes, second: Planes) -> float:
    from atelier.metrics.ssim import ssim

    return (ssim(_on_one(first, 1), _on_one(second, 1)) + ssim(_on_one(first, 2), _on_one(second, 2))) / 2


def _delta_ab(first: Planes, second: Planes) -> float:
    return float(abs(first[..., 1:] - second[..., 1:]).mean())


def ciede2000_map(first: Planes, second: Planes) -> Planes:
    """CIEDE2000 of two LAB pictures ``[..., 3]`` in Lab units, by pixel.

    The formulas are numbered as in Sharma, Wu & Dalal, Color Research and Application 30(1), 2005.
    """
    import numpy as np

    lightness_1, a_1, b_1 = np.moveaxis(first, -1, 0)
    lightness_2, a_2, b_2 = np.moveaxis(second, -1, 0)
    mean_chroma = (np.hypot(a_1, b_1) + np.hypot(a_2, b_2)) / 2  # (2), (3)
    stretch = 1 + 0.5 * (1 - _saturating(mean_chroma))  # (4), (5)
    chroma_1, chroma_2 = np.hypot(stretch * a_1, b_1), np.hypot(stretch * a_2, b_2)  # (6)
    hue_1, hue_2 = (np.arctan2(b, stretch * a) % (2 * np.pi) for a, b in ((a_1, b_1), (a_2, b_2)))  # (7)
    coloured = chroma_1 * chroma_2 != 0
    turn = (hue_2 - hue_1 + np.pi) % (2 * np.pi) - np.pi  # (10): the shorter way round
    d_hue = np.where(coloured, 2 * np.sqrt(chroma_1 * chroma_2) * np.sin(turn / 2), 0)  # (11)
    d_lightness, d_chroma = lightness_2 - lightness_1, chroma_2 - chroma_1  # (8), (9)

    lightness, chroma = (lightness_1 + lightness_2) / 2, (chroma_1 + chroma_2) / 2  # (12), (13)
    apart = abs(hue_1 - hue_2) > np.pi
    total = hue_1 + hue_2
    hue = np.where(apart, (total + np.where(total < 2 * np.pi, 2 * np.pi, -2 * np.pi)) / 2, total / 2)
    hue = np.where(coloured, hue, total)  # (14)
    degrees = np.degrees(hue)
    weight = (  # (15)
        1
        - 0.17 * np.cos(hue - np.pi / 6)
        + 0.24 * np.cos(2 * hue)
        + 0.32 * np.cos(3 * hue + np.pi / 30)
        - 0.20 * np.cos(4 * hue - np.radians(63))
    )
    around_blue = np.radians(30 * np.exp(-(((degrees - 275) / 25) ** 2)))  # (16)
    from_middle = (lightness - 50) ** 2
    s_lightness = 1 + 0.015 * from_middle / np.sqrt(20 + from_middle)  # (18)
    s_chroma, s_hue = 1 + 0.045 * chroma, 1 + 0.015 * chroma * weight  # (19), (20)
    turned = -2 * _saturating(chroma) * np.sin(2 * around_blue)  # (17), (21)
    in_chroma, in_hue = d_chroma / s_chroma, d_hue / s_hue
    squared = (d_lightness / s_lightness) ** 2 + in_chroma**2 + in_hue**2 + turned * in_chroma * in_hue
    result: Planes = np.sqrt(np.maximum(squared, 0))  # (22)
    return result


def _saturating(chroma: Planes) -> Planes:
    import numpy as np

    seventh = chroma**7
    result: Planes = np.sqrt(seventh / (seventh + 25.0**7))
    return result


def _on_one(lab: Planes, channel: int) -> Planes:
    """A chroma plane as a grey picture ``H×W×1`` in [0, 1]: (value + 128) / 255."""
    result: Planes = (lab[..., channel, None] + 128) / 255
    return result
