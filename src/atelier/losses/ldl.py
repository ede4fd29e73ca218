"""Where a generator invents artefacts: the map of LDL (Liang, Zeng & Zhang, CVPR 2022, equations 2 to 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Below this variance the fifth root's slope, which is infinite at 0, is cut off.
_LEAST_VARIANCE = 1e-12


def artefact_map(out: Tensor, average: Tensor, gt: Tensor, window: int = 7) -> Tensor:
    """How strongly each pixel of ``out`` is taken for an artefact.

    The residual is the absolute error summed over channels. The map is its variance within ``window``, times the fifth
    root of its variance over the picture, and 0 where the averaged network's output is further from ``gt``: there the
    generator is on its way to something better. Gradients run through the map as well, as in BasicSR, which makes the
    term about three times as strong as its value with a fixed map would be.

    Args:
        out: the generator's output [N, C, H, W], sides above ``window // 2``.
        average: the output of the averaged generator, same shape, without a graph.
        gt: the ground truth, same shape.
        window: odd side of the neighbourhood.

    Returns:
        [N, 1, H, W], float32 (float64 for float64), 0 or above.
    """
    residual = (out - gt).abs().sum(1, keepdim=True)
    residual = residual if residual.dtype == torch.float64 else residual.float()
    average_residual = (average - gt).abs().sum(1, keepdim=True).to(residual.dtype)
    # Variance does not change with a shift, and E[x²] - E[x]² loses fewest digits about the mean.
    centred = residual - residual.detach().mean((1, 2, 3), keepdim=True)
    around = F.pad(centred, [window // 2] * 4, mode="reflect")
    mean, mean_square = (F.avg_pool2d(each, window, stride=1) for each in (around, around.square()))
    samples = window**2
    local = (mean_square - mean.square()).clamp_min(0) * (samples / (samples - 1))
    whole = residual.var((1, 2, 3), keepdim=True).clamp_min(_LEAST_VARIANCE) ** 0.2
    return torch.where(residual < average_residual, torch.zeros_like(local), whole * local)
