"""Window attention with a learned relative-position bias (Swin, Liu et al. 2021, eq. 4).

On accelerators, under autocast and in compiled code this is ``scaled_dot_product_attention``, one call for each kind
of mask; on the CPU in full precision it is :mod:`atelier.archs.swinir_products`. Both are measured in
``benchmarks/swinir_forward.py`` and ``benchmarks/swinir_training_step.py``.

Letters: n windows of N tokens, h heads of d channels, C = h * d, G kinds of mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.swinir_products import attend
from atelier.archs.swinir_windows import Groups, relative_position_index, shift_masks


def fused_attention(
    qkv: Tensor, biases: Tensor, groups: Groups | Tensor, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T * scale + bias) v for every window and head, one fused call for each kind of mask.

    Args:
        qkv: [n, N, 3, h, d].
        biases: [G, h, N, N], position bias plus mask for each kind of window.
        groups: which windows use which bias; [n] int64 for each window on its own, in one call.
        scale: factor of the logits.
        dropout: probability of dropping an attention weight.

    Returns:
        [n, N, C], heads side by side.
    """
    biases = biases.to(qkv.dtype)
    if isinstance(groups, Tensor):
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = (
            biases.index_select(0, groups) if len(biases) > 1 else biases.expand(groups.shape[0], -1, -1, -1)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
        return _side_by_side(out)
    results = []
    start = 0
    for count, kind in groups:
        q, k, v = qkv[start : start + count].permute(2, 0, 3, 1, 4).unbind(0)
        start += count
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=biases[kind : kind + 1], dropout_p=dropout, scale=scale
        )
        results.append(_side_by_side(out))
    return results[0] if len(results) == 1 else torch.cat(results)


def _side_by_side(out: Tensor) -> Tensor:
    """[n, h, N, d] to [n, N, h * d]."""
    out = out.transpose(1, 2)
    if torch.compiler.is_compiling():
        # A view would be right only for the memory order of the kernel that the trace saw.
        out = out.clone(memory_format=torch.contiguous_format)
    return out.flatten(2)


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

        In evaluation mode without gradients the result is kept until the table is changed or moved. Never in
        training mode: a fused optimiser's step leaves no trace (version, address) that could be checked.
        """
        table = self.relative_position_bias_table
        if (
            self.training
            or torch.compiler.is_compiling()
            or table.is_inference()
            or (torch.is_grad_enabled() and table.requires_grad)
        ):
            self._cached = None
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

    def forward(self, rows: Tensor, biases: Tensor, groups: Groups | Tensor) -> Tensor:
        """``rows`` [n*N, C], window by window, to the same shape; ``biases`` from :meth:`prepare`."""
        dropout = self.attn_drop if self.training else 0.0
        if prefers_products(rows) and not dropout and isinstance(groups, tuple):
            mixed = self._mixed(rows, biases, groups)
        else:
            windows = -1 if isinstance(groups, tuple) else groups.shape[0]
            qkv = self.qkv(rows).view(
                windows, self.window_size**2, 3, self.num_heads, rows.shape[-1] // self.num_heads
            )
            mixed = fused_attention(qkv, biases, groups, self.scale, dropout).flatten(0, 1)
        return self.proj_drop(self.proj(mixed))  # type: ignore[no-any-return]

    def add_to_(self, target: Tensor, rows: Tensor, biases: Tensor, groups: Groups) -> None:
        """``target += forward(rows, ...)`` with less memory traffic; for evaluation, without gradients."""
        mixed = self._mixed(rows, biases, groups)
        target.add_(self.proj.bias).addmm_(mixed, self.proj.weight.t())

    def _mixed(self, rows: Tensor, biases: Tensor, groups: Groups) -> Tensor:
        """Attention before ``proj``, [n*N, C], by matrix products."""
        weight, bias = self.qkv.weight, self.qkv.bias
        columns = rows.t()
        qkv = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
        return attend(qkv, biases, groups, self.scale).t()


def prefers_products(rows: Tensor) -> bool:
    """Plain CPU work in full precision; compilers, exporters and other number formats get the fused call."""
    return (
        rows.device.type == "cpu"
        and rows.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
