"""Window attention on the CPU as batched matrix products on transposed rows.

The fused attention kernel is the slower choice on the CPU for windows of 64 tokens and heads of 10 to 30 channels,
and it falls back to its slowest form as soon as the bias needs a gradient. Here q, k and v come straight from their
linear layer as [channels, tokens], so that each head of each window is a view and nothing is rearranged; the products
then have their long side along the rows, which the BLAS library answers with two to four times the speed. One head
and as many windows as the cache holds are worked on at a time, in buffers that are used again.

The softmax is not called: its powers are taken with base 2 (half the cost of base e), v gets a row of ones so that
the product with v adds them up as well, and the division happens on the [d, N] result instead of the [N, N] powers.
A row maximum is subtracted only where the sums say that it is needed (:data:`_LARGEST_SUM`).

The backward pass keeps q, k, v, the result and the sums, and computes the powers again. With P the probabilities and
D_i the sum over channels of dO * O in token i, dS = P * (dO^T v - D) (FlashAttention, Dao et al. 2022, appendix B.4);
D goes into the product as a further row. The gradient of the bias is the sum of dS over the windows.

Letters: n windows of N tokens, h heads of d channels, C = h * d, G kinds of mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atelier.archs.swinir_windows import Groups, in_parts

# Powers of one head that are worked on together: about what the caches of two cores hold.
_PIECE_BYTES = 2 << 20
_LOG2_E = 1 / math.log(2)
# Sums of powers between this and its reciprocal lose nothing in float32 without a row maximum: what underflows is
# 2^-66 of the largest power. Beyond, the whole call is done once more with it.
_LARGEST_SUM = 2.0**60


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
    return _attend(qkv, biases, groups, scale).out


class _Attended(NamedTuple):
    """``out`` [C, n*N]; of the powers behind it the ``sums`` [h, n, 1, N] and, where a row maximum was taken off
    first, the ``peaks`` [h, n, N, 1]."""

    out: Tensor
    sums: Tensor
    peaks: Tensor | None


class _Piece(NamedTuple):
    """One head's part of some windows."""

    head: int
    first: int
    windows: int
    groups: Groups

    def of(self, by_head: Tensor) -> Tensor:
        """[..., h, n, a, b] to [..., windows of this piece, a, b]."""
        return by_head.select(-4, self.head).narrow(-3, self.first, self.windows)


class _Work:
    """What both passes share: the views by head, the pieces, and the powers of a piece."""

    def __init__(self, qkv: Tensor, biases: Tensor, groups: Groups, scale: float) -> None:
        _, self.heads, self.tokens, _ = biases.shape
        self.split = self.by_head(qkv, 3)
        self.dim = self.split.shape[-2]
        self.groups = groups
        self.most = max(1, _PIECE_BYTES // (self.tokens**2 * qkv.element_size()))
        self.most = min(self.most, self.split.shape[2])
        # One head after the other, so that the biases of a head's kinds lie side by side.
        self.biases = (biases * _LOG2_E).transpose(0, 1).contiguous()
        self.scale = scale * _LOG2_E

    def by_head(self, rows: Tensor, parts: int) -> Tensor:
        """[parts*h*d, n*N] as a view [parts, h, n, d, N]."""
        return rows.view(parts, self.heads, -1, rows.shape[1] // self.tokens, self.tokens).transpose(2, 3)

    def pieces(self) -> Iterator[_Piece]:
        """Every head with every window once."""
        parts = in_parts(self.groups, self.most)
        for head in range(self.heads):
            for first, count, groups in parts:
                yield _Piece(head, first, count, groups)

    def squares(self) -> Tensor:
        """Room for a piece's [N, N]."""
        return self.biases.new_empty(self.most, self.tokens, self.tokens)

    def with_ones(self) -> Tensor:
        """Room for a piece's [d, N] above a row of ones."""
        return self.biases.new_ones(self.most, self.dim + 1, self.tokens)

    def powers(
        self, piece: _Piece, q: Tensor, k: Tensor, peak: Tensor | None, find: bool, out: Tensor
    ) -> Tensor:
        """2^(logits in base 2), less the row maxima ``peak`` if given; they are written there first if ``find``."""
        bias = self.biases[piece.head]
        if len(piece.groups) == 1:
            torch.baddbmm(bias[piece.groups[0][1]], q.transpose(1, 2), k, alpha=self.scale, out=out)
        else:
            torch.index_select(bias, 0, _kinds(piece.groups), out=out)
            out.baddbmm_(q.transpose(1, 2), k, alpha=self.scale)
        if peak is not None:
            if find:
                peak.copy_(out.amax(-1, keepdim=True))
            out.sub_(peak)
        return torch.exp2(out, out=out)


@lru_cache(maxsize=64)
def _kinds(groups: Groups) -> Tensor:
    """[n] int64: the kind of mask of each window."""
    with torch.inference_mode(False):
        return torch.tensor([kind for count, kind in groups for _ in range(count)])


def _attend(qkv: Tensor, biases: Tensor, groups: Groups, scale: float, safely: bool = False) -> _Attended:
    work = _Work(qkv, biases, groups, scale)
    out = qkv.new_empty(qkv.shape[0] // 3, qkv.shape[1])
    out_split = work.by_head(out, 1)[0]
    windows = out_split.shape[1]
    sums = qkv.new_empty(work.heads, windows, 1, work.tokens)
    peaks = qkv.new_empty(work.heads, windows, work.tokens, 1) if safely else None
    squares, v_and_ones = work.squares(), work.with_ones()
    for piece in work.pieces():
        q, k, v = piece.of(work.split).unbind(0)
        peak = None if peaks is None else piece.of(peaks)
        powers = work.powers(piece, q, k, peak, True, squares[: piece.windows])
        extended = v_and_ones[: piece.windows]
        extended[:, : work.dim] = v
        mixed = torch.bmm(extended, powers.transpose(1, 2))
        total = mixed[:, work.dim :]
        piece.of(sums).copy_(total)
        torch.div(mixed[:, : work.dim], total, out=piece.of(out_split))
    if not safely:
        least, largest = torch.aminmax(sums)
        if not 1 / _LARGEST_SUM <= least.item() <= largest.item() <= _LARGEST_SUM:  # NaN too
            return _attend(qkv, biases, groups, scale, safely=True)
    return _Attended(out, sums, peaks)


class _Attend(torch.autograd.Function):
    """:func:`_attend` and its gradients with respect to q, k, v and the bias."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, biases: Tensor, groups: Groups, scale: float) -> Tensor:
        attended = _attend(qkv, biases, groups, scale)
        ctx.save_for_backward(qkv, biases, *attended)
        ctx.groups, ctx.scale = groups, scale
        return attended.out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        qkv, biases, out, sums, peaks = ctx.saved_tensors
        work = _Work(qkv, biases, ctx.groups, ctx.scale)
        dim = work.dim
        d_qkv, d_biases = torch.empty_like(qkv), torch.zeros_like(biases)
        d_split = work.by_head(d_qkv, 3)
        d_out, out_split = work.by_head(gradients[0].contiguous(), 1)[0], work.by_head(out, 1)[0]
        squares, d_squares = work.squares(), work.squares()
        # [dO / sum; -D / sum] times [v; 1] is the bracket of dS, divided by the sum that turns powers into P.
        v_and_ones, d_and_minus = work.with_ones(), work.with_ones()
        d_small = qkv.new_empty(3, work.most, dim, work.tokens)
        for piece in work.pieces():
            q, k, v = piece.of(work.split).unbind(0)
            d_piece = d_small[:, : piece.windows]
            d_q, d_k, d_v = d_piece.unbind(0)
            extended, d_extended = v_and_ones[: piece.windows], d_and_minus[: piece.windows]
            extended[:, :dim] = v
            d_mixed = d_extended[:, :dim]
            torch.div(piece.of(d_out), piece.of(sums), out=d_mixed)
            torch.mul(d_mixed, piece.of(out_split), out=d_v)
            torch.sum(d_v, 1, keepdim=True, out=d_extended[:, dim:])
            d_extended[:, dim:].neg_()
            peak = None if peaks is None else piece.of(peaks)
            powers = work.powers(piece, q, k, peak, False, squares[: piece.windows])
            torch.bmm(d_mixed, powers, out=d_v)
            d_logits = torch.bmm(d_extended.transpose(1, 2), extended, out=d_squares[: piece.windows])
            d_logits.mul_(powers)
            first = 0
            for count, kind in piece.groups:
                d_biases[kind, piece.head] += d_logits[first : first + count].sum(0)
                first += count
            torch.baddbmm(d_q, k, d_logits.transpose(1, 2), beta=0, alpha=ctx.scale, out=d_q)
            torch.baddbmm(d_k, q, d_logits, beta=0, alpha=ctx.scale, out=d_k)
            piece.of(d_split).copy_(d_piece)
        return d_qkv, d_biases, None, None
