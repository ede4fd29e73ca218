"""Colours fetched by likeness: every position of a picture asks all positions of the references.

The non-local matching of Zhang et al., "Deep Exemplar-based Video Colorization" (CVPR 2019, eq. 2-4): features are
centred and brought to length 1, their products are cosines, a softmax over them mixes colours. All of it in float32:
with a temperature of 0.01 the rounding of half precision would change the weights by whole factors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: At this temperature and below, the softmax is a copy of the best match and is computed as one.
COPY_BELOW = 1e-6
# Shortest length that features are divided by: what hardly differs from the mean gets no loud direction.
_SHORTEST = 1e-4


def centred_unit(features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Features less their mean over the positions, at length 1 over the channels.

    Args:
        features: ``[B, C, h, w]``.
        valid: ``[B, h * w]`` bool; the mean is taken over these positions. None: over all.

    Returns:
        ``[B, h * w, C]`` float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2).transpose(1, 2)
        if valid is None:
            mean = flat.mean(dim=1, keepdim=True)
        else:
            weight = valid[..., None].to(flat.dtype)
            mean = (flat * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
        return F.normalize(flat - mean, dim=-1, eps=_SHORTEST)


def match(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    temperature: float | Tensor,
    *,
    valid: Tensor | None = None,
    chunk: int = 1024,
) -> tuple[Tensor, Tensor]:
    """The values of the most similar keys, and how similar the best one is.

    Args:
        queries: ``[B, N, C]`` of :func:`centred_unit`.
        keys: ``[B, K, C]``, of one or several references.
        values: ``[B, K, V]``, what stands at the keys.
        temperature: of the softmax over the cosines; at most 1e-6: the best key's value itself, through which no
            gradient reaches queries and keys. A tensor (learnable) is never taken as that.
        valid: ``[B, K]`` bool, False for keys that nobody may use. Each batch item needs a usable one.
        chunk: queries handled at once. Bounds memory to a few ``B x chunk x K`` floats; with gradients, the products
            of a chunk are computed again in the backward pass. The result is the same for every chunk, up to float32's
            rounding.

    Returns:
        ``[B, N, V]`` and the largest cosine ``[B, N, 1]``, float32.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, values = queries.float(), keys.float(), values.float()
        parts = torch.split(queries, chunk, dim=1)
        again = (
            len(parts) > 1
            and torch.is_grad_enabled()
            and any(isinstance(x, Tensor) and x.requires_grad for x in (queries, keys, values, temperature))
        )
        found = [
            checkpoint(
                _match, part, keys, values, temperature, valid, use_reentrant=False, preserve_rng_state=False
            )
            if again
            else _match(part, keys, values, temperature, valid)
            for part in parts
        ]
        return torch.cat([each[0] for each in found], dim=1), torch.cat([each[1] for each in found], dim=1)


def _match(
    queries: Tensor, keys: Tensor, values: Tensor, temperature: float | Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    cosines = queries @ keys.transpose(1, 2)
    if valid is not None:
        cosines = cosines.masked_fill(~valid[:, None], -torch.inf)
    best, place = cosines.max(dim=-1, keepdim=True)
    if not isinstance(temperature, Tensor) and temperature <= COPY_BELOW:
        return values.gather(1, place.expand(-1, -1, values.shape[-1])), best
    return torch.softmax(cosines / temperature, dim=-1) @ values, best
