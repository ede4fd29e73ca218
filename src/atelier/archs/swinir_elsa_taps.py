"""The taps of ELSA: for each token a filter over its neighbourhood, made and used without ever being stored whole.

The filter of channel c, tap t and token p is ``mul[c, t] * H[head, t, p] + add[c, t]`` with H the softmax over taps
of a linear map of ``hidden`` (Zhou et al. 2021, eq. 6 and 7). Stored, it would be k * k times the map. Here a piece
of the map that fits the caches goes through all taps, one tap at a time, and the backward pass keeps only ``hidden``
and the values: it computes H and the filters again.

Letters: h heads of d channels, C = h * d; K = k * k taps, row by row from the upper left; E channels of ``hidden``;
Y x X the map, Z maps of one size. Tokens stand in the order (y, x, z), so that neighbours of a tap are one long run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int, int]

# Values of one piece: about a cache level of a core; on accelerators enough to be worth a kernel launch.
_PIECE_BYTES = 1 << 19
_PIECE_BYTES_DEVICE = 1 << 26


def mix_taps(
    hidden: Tensor, weight: Tensor, bias: Tensor, v: Tensor, mul: Tensor, add: Tensor, size: Size
) -> Tensor:
    """The sum over taps of filter times neighbouring value; outside the map are zeros.

    Args:
        hidden: [E, Y*X*Z].
        weight, bias: [h*K, E] and [h*K], head-major, to the logits of the taps.
        v: [C, Y*X*Z].
        mul, add: [C, K], the static filters.
        size: (Y, X, Z).

    Returns:
        [C, Y*X*Z] in the number format of ``v``.
    """
    if torch.compiler.is_compiling():
        return _traceable(hidden, weight, bias, v, mul, add, size)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (hidden, weight, bias, v, mul, add)):
        return _MixTaps.apply(hidden, weight, bias, v, mul, add, size)  # type: ignore[no-any-return]
    return _mix(hidden, weight, bias, v, mul, add, size)


def _traceable(
    hidden: Tensor, weight: Tensor, bias: Tensor, v: Tensor, mul: Tensor, add: Tensor, size: Size
) -> Tensor:
    """The same in plain operators, for compilers and exporters; autograd through it keeps every tap."""
    (height, width, maps), taps = size, mul.shape[1]
    side = round(taps**0.5)
    heads = weight.shape[0] // taps
    logits = torch.addmm(bias[:, None], weight, hidden)
    attention = logits.view(heads, taps, 1, height, width, maps).softmax(1).to(v.dtype)
    padded = F.pad(v.view(heads, -1, height, width, maps), (0, 0, *(side // 2,) * 4))
    mul, add = (each.view(heads, -1, taps, 1, 1, 1).to(v.dtype) for each in (mul, add))
    out = torch.zeros_like(padded[:, :, :height, :width])
    for tap in range(taps):
        y, x = divmod(tap, side)
        filters = torch.addcmul(add[:, :, tap], mul[:, :, tap], attention[:, tap])
        out = out + filters * padded[:, :, y : y + height, x : x + width]
    return out.flatten(0, 1).flatten(1)


@dataclass(frozen=True)
class _Piece:
    """Some heads of some rows of some maps; ``rows`` reach ``radius`` beyond ``top`` and ``bottom`` where they can."""

    heads: slice
    top: int
    bottom: int
    maps: slice

    def with_halo(self, radius: int, height: int) -> tuple[slice, slice]:
        """(rows of the map, their place in the padded piece)."""
        first, last = max(0, self.top - radius), min(height, self.bottom + radius)
        start = first - (self.top - radius)
        return slice(first, last), slice(start, start + last - first)


class _Taps:
    """One call's tensors as [heads, channels, Y, X, Z] and its pieces. Arithmetic is at least in float32."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor, v: Tensor, mul: Tensor, add: Tensor, size: Size
    ) -> None:
        self.height, self.width, self.maps = size
        self.taps = mul.shape[1]
        self.side = round(self.taps**0.5)
        self.radius = self.side // 2
        self.heads = weight.shape[0] // self.taps
        self.dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
        self.hidden = hidden.view(-1, *size)
        self.weight = weight.to(self.dtype).view(self.heads, self.taps, -1)
        self.bias = bias.to(self.dtype).view(self.heads, self.taps, 1)
        self.v = v.view(self.heads, -1, *size)
        self.depth = self.v.shape[1]
        self.mul = mul.to(self.dtype).view(self.heads, self.depth, self.taps)
        self.add = add.to(self.dtype).view(self.heads, self.depth, self.taps)

    def pieces(self) -> Iterator[_Piece]:
        """Everything once: whole maps while they fit, else rows of one map; several heads where all maps fit."""
        budget = _PIECE_BYTES if self.v.device.type == "cpu" else _PIECE_BYTES_DEVICE
        tokens = max(1, budget // (self.depth * self.v.element_size()))
        maps = max(1, min(self.maps, tokens // (self.height * self.width)))
        # Fewer rows than the halo has would be read more often than used.
        rows = max(2 * self.radius, tokens // (self.width * maps))
        rows = min(rows, self.height)
        heads = max(1, tokens // (self.height * self.width * self.maps))
        for head in range(0, self.heads, heads):
            for first in range(0, self.maps, maps):
                for top in range(0, self.height, rows):
                    yield _Piece(
                        slice(head, min(head + heads, self.heads)),
                        top,
                        min(top + rows, self.height),
                        slice(first, min(first + maps, self.maps)),
                    )

    def padded(self, piece: _Piece) -> Tensor:
        """Values of a piece with a rim of ``radius``, zero outside the map: [heads, d, rows + 2r, X + 2r, maps]."""
        here = self.empty_padded(piece)
        rows, place = piece.with_halo(self.radius, self.height)
        here[:, :, place, self.radius : self.radius + self.width].copy_(
            self.v[piece.heads, :, rows, :, piece.maps]
        )
        return here

    def empty_padded(self, piece: _Piece) -> Tensor:
        rows, maps = piece.bottom - piece.top + 2 * self.radius, piece.maps.stop - piece.maps.start
        heads = piece.heads.stop - piece.heads.start
        return self.v.new_zeros(heads, self.depth, rows, self.width + 2 * self.radius, maps, dtype=self.dtype)

    def hidden_of(self, piece: _Piece) -> Tensor:
        """[E, tokens of the piece]."""
        return self.hidden[:, piece.top : piece.bottom, :, piece.maps].to(self.dtype).flatten(1)

    def attention(self, piece: _Piece, hidden: Tensor) -> Tensor:
        """H: [heads, K, tokens of the piece]."""
        weight, bias = self.weight[piece.heads], self.bias[piece.heads]
        logits = torch.addmm(bias.flatten()[:, None], weight.flatten(0, 1), hidden)
        return logits.view(weight.shape[0], self.taps, -1).softmax(1)

    def neighbours(self, padded: Tensor, tap: int) -> Tensor:
        """The view of a padded piece that a tap sees: [heads, d, rows, X, maps]."""
        y, x = divmod(tap, self.side)
        return padded[:, :, y : y + padded.shape[2] - 2 * self.radius, x : x + self.width]


def _mix(
    hidden: Tensor, weight: Tensor, bias: Tensor, v: Tensor, mul: Tensor, add: Tensor, size: Size
) -> Tensor:
    taps = _Taps(hidden, weight, bias, v, mul, add, size)
    out = torch.empty_like(taps.v)
    for piece in taps.pieces():
        values = taps.padded(piece)
        attention = taps.attention(piece, taps.hidden_of(piece))
        mul_of, add_of = taps.mul[piece.heads, ..., None], taps.add[piece.heads, ..., None]
        shape = taps.neighbours(values, 0).shape
        mixed, filters = values.new_zeros(shape), values.new_empty(*shape[:2], attention.shape[2])
        for tap in range(taps.taps):
            torch.addcmul(add_of[:, :, tap], mul_of[:, :, tap], attention[:, tap, None], out=filters)
            mixed.addcmul_(filters.view(shape), taps.neighbours(values, tap))
        out[piece.heads, :, piece.top : piece.bottom, :, piece.maps] = mixed.to(out.dtype)
    return out.view_as(v)


class _MixTaps(torch.autograd.Function):
    """:func:`_mix` and its gradients with respect to every tensor."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, ctx.size = arguments
        ctx.save_for_backward(*tensors)
        with torch.autocast(tensors[3].device.type, enabled=False):
            return _mix(*arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        arguments: Any = (*tensors, ctx.size)
        with torch.autocast(tensors[3].device.type, enabled=False):
            results = _gradients(_Taps(*arguments), gradients[0])
        shaped = [
            each.view_as(tensor).to(tensor.dtype) for each, tensor in zip(results, tensors, strict=True)
        ]
        needed = ctx.needs_input_grad
        return *(each if needed[i] else None for i, each in enumerate(shaped)), None


def _gradients(taps: _Taps, d_out: Tensor) -> tuple[Tensor, ...]:
    """Gradients of hidden, weight, bias, v, mul and add."""
    d_out = d_out.contiguous().view_as(taps.v)
    d_hidden = torch.zeros_like(taps.hidden, dtype=taps.dtype)
    d_v = torch.zeros_like(taps.v, dtype=taps.dtype)
    d_weight, d_bias = torch.zeros_like(taps.weight), torch.zeros_like(taps.bias)
    # Tap first, so that each tap's sums are one contiguous block.
    d_mul, d_add = (taps.mul.new_zeros(taps.taps, taps.heads, taps.depth, 1) for _ in range(2))
    for piece in taps.pieces():
        heads = piece.heads
        values, hidden = taps.padded(piece), taps.hidden_of(piece)
        attention = taps.attention(piece, hidden)
        mul, add = taps.mul[heads, ..., None], taps.add[heads, ..., None]
        slope = d_out[heads, :, piece.top : piece.bottom, :, piece.maps].to(taps.dtype).contiguous()
        d_values, d_attention = torch.zeros_like(values), torch.empty_like(attention)
        flat = (*slope.shape[:2], attention.shape[2])
        filters, products = values.new_empty(flat), torch.empty_like(slope)
        for tap in range(taps.taps):
            torch.addcmul(add[:, :, tap], mul[:, :, tap], attention[:, tap, None], out=filters)
            taps.neighbours(d_values, tap).addcmul_(filters.view_as(slope), slope)
            torch.mul(slope, taps.neighbours(values, tap), out=products)
            each = products.view(flat)
            d_attention[:, tap] = torch.bmm(mul[:, :, tap].transpose(1, 2), each)[:, 0]
            d_mul[tap, heads] += torch.bmm(each, attention[:, tap, :, None])
            d_add[tap, heads] += each.sum(2, keepdim=True)
        d_logits = torch.ops.aten._softmax_backward_data(d_attention, attention, 1, taps.dtype)
        d_bias[heads] += d_logits.sum(2, keepdim=True)
        flat_logits = d_logits.flatten(0, 1)
        d_weight[heads] += torch.mm(flat_logits, hidden.t()).view_as(d_weight[heads])
        here = d_hidden[:, piece.top : piece.bottom, :, piece.maps]
        here += torch.mm(taps.weight[heads].flatten(0, 1).t(), flat_logits).view_as(here)
        rows, place = piece.with_halo(taps.radius, taps.height)
        inside = slice(taps.radius, taps.radius + taps.width)
        d_v[heads, :, rows, :, piece.maps] += d_values[:, :, place, inside]
    filters_first = (d.squeeze(-1).permute(1, 2, 0).contiguous() for d in (d_mul, d_add))
    return d_hidden, d_weight, d_bias, d_v, *filters_first
