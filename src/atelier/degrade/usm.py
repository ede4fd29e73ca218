"""Unsharp masking of batches on their device: the sharpened targets of Real-ESRGAN's training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from atelier.degrade.ragged import bordered, correlated, size_of, stacked, unstacked


def usm_sharp(
    pictures: Tensor, *, weight: float = 0.5, size: int = 51, sigma: float = 8.0, threshold: float = 10.0
) -> Tensor:
    """Sharpen where a picture differs from its blur by more than ``threshold``, with soft borders of that region.

    ``r = x - G*x``; ``soft = G*[255 |r| > threshold]``; result ``soft * clip(x + weight r, 0, 1) + (1 - soft) x``
    (Wang et al., Real-ESRGAN, ICCV Workshops 2021). G is Gaussian, run as two passes of one dimension; its border is
    mirrored without repeating the edge. :func:`atelier.degrade.sharpen.usm_sharpen` is the same for one NumPy picture.

    Args:
        pictures: N×C×H×W in [0, 1]; computed in float32 whatever autocast says (float64 stays), nothing waits for
            the device.
        weight: strength.
        size: side of G in pixels, odd; larger than the picture is allowed.
        sigma: of G in pixels; 8.0 is OpenCV's value for 51.
        threshold: in units of 0..255.

    Returns:
        A new tensor in [0, 1] of the same shape.
    """
    with torch.autocast(pictures.device.type, enabled=False):
        x = pictures if pictures.dtype == torch.float64 else pictures.float()
        return _sharpened(
            x, lambda planes: _smooth(bordered(planes, (size // 2,) * 2), size, sigma), weight, threshold
        )


def usm_sharp_each(pictures: Sequence[Tensor]) -> list[Tensor]:
    """:func:`usm_sharp` of float32 pictures ``1 x C x h x w`` of different sizes, computed together."""
    sizes = [size_of(picture) for picture in pictures]

    def smooth(canvas: Tensor) -> Tensor:
        return _smooth(stacked([bordered(each, (25, 25)) for each in unstacked(canvas, sizes)]), 51, 8.0)

    return unstacked(_sharpened(stacked(pictures), smooth, 0.5, 10.0), sizes)


def _sharpened(x: Tensor, smooth: Callable[[Tensor], Tensor], weight: float, threshold: float) -> Tensor:
    residual = x - smooth(x)
    soft = smooth((residual.abs() * 255 > threshold).to(x.dtype))
    sharp = (x + weight * residual).clamp(0, 1)
    return soft * sharp + (1 - soft) * x


def _smooth(x: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussian blur of every channel of N×C×H×W, whose border of ``size // 2`` pixels is lost."""
    place = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    window = torch.exp(-place.square() / (2 * sigma**2))
    window = (window / window.sum()).expand(len(x), -1)
    return correlated(correlated(x, window[:, None, :]), window[:, :, None])
