"""Spectra and Haar bands of two pictures against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from atelier.losses.module import full_precision


@full_precision
def spectrum_loss(
    prediction: Tensor, target: Tensor, loss: Literal["l1", "l2"] = "l1", highpass: float = 0.0
) -> Tensor:
    """Mean of w·|FFT(prediction) - FFT(target)| over all frequencies (``l2``: of the squares); 0-d result.

    |·| is the modulus of the complex coefficient, the transform two-dimensional with ``norm="ortho"``: a weight holds
    for every patch size, and ``l2`` without ``highpass`` is the pixel l2 (Parseval). FFTLoss takes real and imaginary
    parts apart and the half spectrum alone, which makes neither of them true.

    Args:
        prediction: N×C×H×W, about [0, 1].
        target: the same shape.
        loss: of the moduli.
        highpass: w is 1 - highpass at frequency 0 and rises with the radial frequency to 1 at (½, ½).
    """
    # A real picture's spectrum is symmetric: the half is enough, where columns that stand for two count twice.
    moduli = torch.fft.rfft2(prediction - target, norm="ortho").abs()
    height, width = prediction.shape[-2:]
    kept = moduli.shape[-1]
    column = torch.arange(kept, device=moduli.device)
    single = (column == 0) | (2 * column == width)
    weight = torch.where(single, 1.0, 2.0).to(moduli.dtype)
    if highpass:
        down = torch.fft.fftfreq(height, device=moduli.device, dtype=moduli.dtype)
        across = column.to(moduli.dtype) / width
        radius = torch.hypot(down[:, None], across[None, :]) / 0.5**0.5
        weight = weight * (1 - highpass * (1 - radius))
    total: Tensor = (weight * (moduli if loss == "l1" else moduli.square())).sum((-2, -1))
    return (total / (height * width)).mean()


@full_precision
def haar_loss(prediction: Tensor, target: Tensor, bands: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Σ over the bands LL, LH, HL, HH of weight · mean|difference of the bands|; N×C×H×W pictures, 0-d result."""
    difference = haar_bands(prediction - target)
    means = difference.abs().mean((0, 2, 3, 4)).unbind()
    return torch.stack([weight * mean for weight, mean in zip(bands, means, strict=True)]).sum()


def haar_bands(picture: Tensor) -> Tensor:
    """One level of the orthonormal Haar transform: N×C×H×W to N×4×C×⌈H/2⌉×⌈W/2⌉, bands LL, LH, HL, HH.

    The first letter is the filter along the height, the second the one along the width (L: sum, H: difference of
    neighbours, each over √2). A picture with an odd side has its last row or column repeated.
    """
    height, width = picture.shape[-2:]
    if height % 2 or width % 2:
        picture = functional.pad(picture, (0, width % 2, 0, height % 2), mode="replicate")
    upper, lower = picture[..., 0::2, :], picture[..., 1::2, :]
    low, high = upper + lower, upper - lower
    bands = [
        first + sign * second
        for rows in (low, high)
        for first, second, sign in (
            (rows[..., 0::2], rows[..., 1::2], 1),
            (rows[..., 0::2], rows[..., 1::2], -1),
        )
    ]
    return torch.stack(bands, dim=1) / 2
