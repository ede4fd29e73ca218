"""The perceptual term of colouring: features of the picture as it will be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.losses.lab_picture import lab_picture

#: What a feature network gives: one tensor, named ones, or stages of which the deepest counts.
Features = Tensor | Mapping[str, Tensor] | Sequence[Tensor]


def colour_perceptual_loss(
    lightness: Tensor, ab: Tensor, ab_gt: Tensor, network: Callable[[Tensor], Features]
) -> Tensor:
    """MSE of the features of the sRGB pictures of (L, ab) and (L, ab_gt), 0-d; float32 whatever autocast says.

    Args:
        lightness: ``[N, 1, H, W]``, unit scale.
        ab: the prediction ``[N, 2, H, W]``, unit scale.
        ab_gt: the truth, the same shape.
        network: frozen; takes sRGB ``[N, 3, H, W]`` in [0, 1]. Of named features the mean distances add up, of a
            list of stages the last is compared.
    """
    with torch.autocast(ab.device.type, enabled=False):
        with torch.no_grad():
            wanted = _listed(network(lab_picture(lightness, ab_gt)))
        seen = _listed(network(lab_picture(lightness, ab)))
        terms = [F.mse_loss(s.float(), w.float()) for s, w in zip(seen, wanted, strict=True)]
        return torch.stack(terms).sum()


def _listed(features: Features) -> list[Tensor]:
    if isinstance(features, Tensor):
        return [features]
    if isinstance(features, Mapping):
        return list(features.values())
    return [features[-1]]
