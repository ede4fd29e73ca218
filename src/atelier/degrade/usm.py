"""Unsharp masking of batches on their device: the sharpened targets of Real-ESRGAN's training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
        residual = x - _smooth(x, size, sigma)
        soft = _smooth((residual.abs() * 255 > threshold).to(x.dtype), size, sigma)
        sharp = (x + weight * residual).clamp(0, 1)
        return soft * sharp + (1 - soft) * x


def _smooth(x: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussian blur of every channel of N×C×H×W."""
    place = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    window = torch.exp(-place.square() / (2 * sigma**2))
    window = window / window.sum()
    count, channels, height, width = x.shape
    # One group a plane: a depthwise filter keeps full float32 on a GPU, where an ordinary one may round to TF32.
    planes = x.reshape(1, count * channels, height, width)
    kernel = window.expand(count * channels, 1, 1, size)
    planes = planes.index_select(3, mirrored(width, size // 2, x.device))
    planes = F.conv2d(planes, kernel.contiguous(), groups=count * channels)
    planes = planes.index_select(2, mirrored(height, size // 2, x.device))
    planes = F.conv2d(planes, kernel.transpose(2, 3).contiguous(), groups=count * channels)
    return planes.reshape(count, channels, height, width)


def mirrored(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices of ``length`` pixels with ``margin`` mirrored ones on either side, mirrored again where that is short."""
    place = torch.arange(-margin, length + margin, device=device)
    period = max(2 * (length - 1), 1)
    place = place.abs() % period
    return torch.minimum(place, period - place) if length > 1 else torch.zeros_like(place)
