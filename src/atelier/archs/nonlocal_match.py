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
# Queries whose products with all keys lie in one buffer on the CPU: enough for a fast product, little enough to stay in
# the processor's cache. Matrices of many MB would be mapped and unmapped by the system for every chunk, which takes
# as long as the arithmetic.
_ROWS = 128


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
            of a chunk are computed again in the backward pass; without, a CPU takes at most 128 at once. The result is
            the same for every chunk, up to float32's rounding.

    Returns:
        ``[B, N, V]`` and the largest cosine ``[B, N, 1]``, float32.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, values = queries.float(), keys.float(), values.float()
        learns = torch.is_grad_enabled() and any(
            isinstance(x, Tensor) and x.requires_grad for x in (queries, keys, values, temperature)
        )
        if not learns:
            rows = min(chunk, _ROWS) if queries.device.type == "cpu" else chunk
            return _match_in_place(queries, keys, values, temperature, valid, rows)
        parts = torch.split(queries, chunk, dim=1)
        again = len(parts) > 1
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


def _match_in_place(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    temperature: float | Tensor,
    valid: Tensor | None,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """:func:`_match` of ``rows`` queries at a time in one buffer; numerator and denominator are one product."""
    batch, count, _ = queries.shape
    copies = not isinstance(temperature, Tensor) and temperature <= COPY_BELOW
    keys = keys.transpose(1, 2)
    weighed = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
    found = values.new_empty(batch, count, values.shape[-1])
    likeness = queries.new_empty(batch, count, 1)
    buffer = queries.new_empty(batch * min(rows, count) * keys.shape[-1])
    for start in range(0, count, rows):
        part = queries[:, start : start + rows]
        shape = (batch, part.shape[1], keys.shape[-1])
        cosines = torch.bmm(part, keys, out=buffer[: shape[0] * shape[1] * shape[2]].view(shape))
        if valid is not None:
            cosines.masked_fill_(~valid[:, None], -torch.inf)
        if copies:
            best, place = cosines.max(dim=-1, keepdim=True)
            found[:, start : start + rows] = values.gather(1, place.expand(-1, -1, values.shape[-1]))
        else:
            best = cosines.amax(dim=-1, keepdim=True)
            sums = torch.bmm(cosines.sub_(best).div_(temperature).exp_(), weighed)
            found[:, start : start + rows] = sums[..., :-1] / sums[..., -1:]
        likeness[:, start : start + rows] = best
    return found, likeness
