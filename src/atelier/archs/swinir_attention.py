"""Window attention with a learned relative-position bias (Swin, Liu et al. 2021, eq. 4).

On accelerators this is ``scaled_dot_product_attention``, one call for each kind of mask. On the CPU in float32 the
fused kernel is the slower choice for windows of 64 tokens and heads of 10 to 30 channels, and it falls back to its
slowest form as soon as the bias needs a gradient. There, batched matrix products over as many windows as fit the
cache take its place; the backward pass recomputes the probabilities instead of storing them, and sums the bias
gradient on the way. Measured in ``benchmarks/swinir_forward.py`` and ``benchmarks/swinir_training_step.py``.

Letters: n windows, N tokens in each, h heads of d channels, C = h * d, G kinds of mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.swinir_windows import Groups, relative_position_index, shift_masks

# Logits of one piece of work: about what the caches of two cores hold beside q, k and v.
_PIECE_BYTES = 3 << 19


def window_attention(
    qkv: Tensor, biases: Tensor, groups: Groups, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T * scale + bias) v for every window and head.

    Args:
        qkv: [n, N, 3, h, d].
        biases: [G, h, N, N], position bias plus mask for each kind of window.
        groups: which windows use which bias.
        scale: factor of the logits.
        dropout: probability of dropping an attention weight.

    Returns:
        [n, N, C], heads side by side.
    """
    if _by_matrix_products(qkv) and not dropout:
        if torch.is_grad_enabled() and (qkv.requires_grad or biases.requires_grad):
            return _Attention.apply(qkv, biases, groups, scale)  # type: ignore[no-any-return]
        return _attend(qkv, biases, groups, scale)
    biases = biases.to(qkv.dtype)
    results = []
    start = 0
    for count, kind in groups:
        q, k, v = qkv[start : start + count].permute(2, 0, 3, 1, 4).unbind(0)
        start += count
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=biases[kind : kind + 1], dropout_p=dropout, scale=scale
        )
        results.append(out.transpose(1, 2).flatten(2))
    return results[0] if len(results) == 1 else torch.cat(results)


def _by_matrix_products(qkv: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and qkv.device.type == "cpu"
        and qkv.dtype in (torch.float32, torch.float64)
    )


def _pieces(groups: Groups, bytes_per_window: int) -> Iterator[tuple[int, int, int]]:
    """(first window, last window + 1, kind) of pieces small enough for the cache."""
    most = max(1, _PIECE_BYTES // bytes_per_window)
    start = 0
    for count, kind in groups:
        for first in range(start, start + count, most):
            yield first, min(first + most, start + count), kind
        start += count


def _probabilities(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """[m*h, N, N] from q and k [m*h, N, d] and bias [h, N, N]."""
    heads, tokens = bias.shape[:2]
    # Always a copy (reshape would give a view of a single window's bias), because the product is added in place.
    logits = bias.expand(q.shape[0] // heads, *bias.shape).clone(memory_format=torch.contiguous_format)
    return logits.view(-1, tokens, tokens).baddbmm_(q, k.transpose(1, 2), alpha=scale).softmax(-1)


def _attend(qkv: Tensor, biases: Tensor, groups: Groups, scale: float) -> Tensor:
    windows, tokens, _, heads, width = qkv.shape
    out = qkv.new_empty(windows, tokens, heads, width)
    for first, last, kind in _pieces(groups, heads * tokens * tokens * qkv.element_size()):
        q, k, v = qkv[first:last].permute(2, 0, 3, 1, 4).reshape(3, -1, tokens, width).unbind(0)
        probabilities = _probabilities(q, k, biases[kind], scale)
        # v^T p^T rather than p v: the long side of the product then lies along the rows (2 to 4 times faster).
        mixed = torch.bmm(v.transpose(1, 2), probabilities.transpose(1, 2))
        out[first:last] = mixed.view(-1, heads, width, tokens).permute(0, 3, 1, 2)
    return out.flatten(2)


class _Attention(torch.autograd.Function):
    """:func:`_attend` with a backward that keeps only qkv and the bias, and works piece by piece."""

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
        windows, tokens, _, heads, width = qkv.shape
        d_out = gradients[0].view(windows, tokens, heads, width)
        d_qkv = torch.empty_like(qkv)
        d_biases = torch.zeros_like(biases)
        for first, last, kind in _pieces(ctx.groups, heads * tokens * tokens * qkv.element_size()):
            q, k, v = qkv[first:last].permute(2, 0, 3, 1, 4).reshape(3, -1, tokens, width).unbind(0)
            d_mixed = d_out[first:last].transpose(1, 2).reshape(-1, tokens, width)
            probabilities = _probabilities(q, k, biases[kind], scale)
            d_part = qkv.new_empty(3, q.shape[0], width, tokens)
            torch.bmm(d_mixed.transpose(1, 2), probabilities, out=d_part[2])
            d_probabilities = torch.bmm(d_mixed, v.transpose(1, 2))
            # The softmax's own backward, p * (dp - sum(p * dp)), in one pass.
            d_logits = torch.ops.aten._softmax_backward_data(d_probabilities, probabilities, -1, qkv.dtype)
            d_biases[kind] += d_logits.view(-1, heads, tokens, tokens).sum(0)
            torch.bmm(k.transpose(1, 2), d_logits.transpose(1, 2), out=d_part[0])
            torch.bmm(q.transpose(1, 2), d_logits, out=d_part[1])
            d_part[:2].mul_(scale)
            d_qkv[first:last] = d_part.view(3, -1, heads, width, tokens).permute(1, 4, 0, 2, 3)
        return d_qkv, d_biases, None, None


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows; keys as in the official network, without its constant buffers.

    Another kind of attention takes its place by offering the same two calls: :meth:`prepare` once for each block and
    forward pass, :meth:`forward` on any consecutive windows.
    """

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.window_size, self.num_heads = window_size, num_heads
        self.scale = qk_scale if qk_scale is not None else (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self._cached: tuple[tuple[Any, ...], Tensor] | None = None

    def train(self, mode: bool = True) -> WindowAttention:
        """Also drops the cached bias: a change made through ``.data`` leaves no trace that could be checked."""
        self._cached = None
        return super().train(mode)

    def prepare(self, shifted: bool) -> Tensor:
        """[G, h, N, N]: position bias, plus the four shift masks (G = 4) or nothing (G = 1).

        Where no gradient is needed the result is kept until the table is changed or moved.
        """
        table = self.relative_position_bias_table
        if (
            torch.compiler.is_compiling()
            or table.is_inference()
            or (torch.is_grad_enabled() and table.requires_grad)
        ):
            return self._bias(table, shifted)
        key = (table._version, table.data_ptr(), table.device, table.dtype, shifted)
        if self._cached is None or self._cached[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._cached = (key, self._bias(table, shifted))
        return self._cached[1]

    def _bias(self, table: Tensor, shifted: bool) -> Tensor:
        index = relative_position_index(self.window_size, table.device)
        # Through embedding, because its backward adds up the 4096 gradients in one fast pass.
        bias = F.embedding(index.flatten(), table).view(*index.shape, -1).permute(2, 0, 1).unsqueeze(0)
        if not shifted:
            return bias.contiguous()
        return bias.contiguous() + shift_masks(self.window_size, table.device, table.dtype).unsqueeze(1)

    def forward(self, rows: Tensor, biases: Tensor, groups: Groups) -> Tensor:
        """``rows`` [n*N, C], window by window, to the same shape; ``biases`` from :meth:`prepare`."""
        tokens = self.window_size**2
        qkv = self.qkv(rows).view(-1, tokens, 3, self.num_heads, rows.shape[-1] // self.num_heads)
        mixed = window_attention(qkv, biases, groups, self.scale, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(mixed.flatten(0, 1)))  # type: ignore[no-any-return]
