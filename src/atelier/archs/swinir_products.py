"""Window attention on the CPU as batched matrix products on transposed rows.

The fused attention kernel is the slower choice on the CPU for windows of 64 tokens and heads of 10 to 30 channels,
and it falls back to its slowest form as soon as the bias needs a gradient. Here q, k and v come straight from their
linear layer as [channels, tokens], so that each head of each window is a view and nothing is rearranged; the products
then have their long side along the rows, which the BLAS library answers with two to four times the speed. One head
and as many windows as the cache holds are worked on at a time. The backward pass keeps only q, k, v and the bias: it
computes the probabilities again and sums the bias gradient on the way.

Letters: n windows of N tokens, h heads of d channels, C = h * d, G kinds of mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from atelier.archs.swinir_windows import Groups

# Logits of one head that are worked on together: about what the caches of two cores hold.
_PIECE_BYTES = 1 << 20


def attend(qkv: Tensor, biases: Tensor, groups: Groups, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v for every window and head.

    Args:
        qkv: [3C, n*N], the channels of q, k and v as rows, each head-major.
        biases: [G, h, N, N], position bias plus mask for each kind of window.
        groups: which windows use which bias.
        scale: factor of the logits.

    Returns:
        [C, n*N], the heads one below the other.
    """
    if torch.is_grad_enabled() and (qkv.requires_grad or biases.requires_grad):
        return _Attend.apply(qkv, biases, groups, scale)  # type: ignore[no-any-return]
    return _attend(qkv, biases, groups, scale)


def _by_head(rows: Tensor, parts: int, heads: int, tokens: int) -> Tensor:
    """[parts*h*d, n*N] as a view [parts, h, n, d, N]."""
    return rows.view(parts, heads, -1, rows.shape[1] // tokens, tokens).transpose(2, 3)


def _pieces(groups: Groups, heads: int, bytes_per_window: int) -> Iterator[tuple[int, slice, int]]:
    """(head, windows, kind of mask), every head with every window once."""
    most = max(1, _PIECE_BYTES // bytes_per_window)
    for head in range(heads):
        start = 0
        for count, kind in groups:
            for first in range(start, start + count, most):
                yield head, slice(first, min(first + most, start + count)), kind
            start += count


def _attend(qkv: Tensor, biases: Tensor, groups: Groups, scale: float) -> Tensor:
    _, heads, tokens, _ = biases.shape
    split = _by_head(qkv, 3, heads, tokens)
    out = qkv.new_empty(qkv.shape[0] // 3, qkv.shape[1])
    out_split = _by_head(out, 1, heads, tokens)[0]
    for head, windows, kind in _pieces(groups, heads, tokens * tokens * qkv.element_size()):
        q, k, v = split[:, head, windows].unbind(0)
        probabilities = torch.baddbmm(biases[kind, head], q.transpose(1, 2), k, alpha=scale).softmax(-1)
        out_split[head, windows] = torch.bmm(v, probabilities.transpose(1, 2))
    return out


class _Attend(torch.autograd.Function):
    """:func:`_attend` and its gradients with respect to q, k, v and the bias."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, biases: Tensor, groups: Groups, scale: float) -> Tensor:
        ctx.save_for_backward(qkv, biases)
        ctx.groups, ctx.scale = groups, scale
        return _attend(qkv, biases, groups, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        qkv, biases = ctx.saved_tensors
        scale = ctx.scale
        _, heads, tokens, _ = biases.shape
        split = _by_head(qkv, 3, heads, tokens)
        d_out = _by_head(gradients[0].contiguous(), 1, heads, tokens)[0]
        d_qkv = torch.empty_like(qkv)
        d_split = _by_head(d_qkv, 3, heads, tokens)
        d_biases = torch.zeros_like(biases)
        for head, windows, kind in _pieces(ctx.groups, heads, tokens * tokens * qkv.element_size()):
            q, k, v = split[:, head, windows].unbind(0)
            d_q, d_k, d_v = d_split[:, head, windows].unbind(0)
            d_mixed = d_out[head, windows]
            probabilities = torch.baddbmm(biases[kind, head], q.transpose(1, 2), k, alpha=scale).softmax(-1)
            d_v.copy_(torch.bmm(d_mixed, probabilities))
            d_probabilities = torch.bmm(d_mixed.transpose(1, 2), v)
            # The softmax's own backward, p * (dp - sum(p * dp)), in one pass.
            d_logits = torch.ops.aten._softmax_backward_data(d_probabilities, probabilities, -1, qkv.dtype)
            d_biases[kind, head] += d_logits.sum(0)
            d_q.copy_(torch.bmm(k, d_logits.transpose(1, 2)))
            d_k.copy_(torch.bmm(q, d_logits))
        d_qkv[: 2 * (qkv.shape[0] // 3)].mul_(scale)
        return d_qkv, d_biases, None, None
