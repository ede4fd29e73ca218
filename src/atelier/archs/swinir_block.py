"""One Swin layer on rows of tokens, and the residual group that chains them around a convolution."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atelier.archs.swinir_attention import WindowAttention, prefers_products
from atelier.archs.swinir_elsa import ElsaAttention, Maps, maps_of
from atelier.archs.swinir_options import SwinIROptions
from atelier.archs.swinir_windows import Groups, Layout, Order, in_parts, rearrange

# Numbers of the rows that pass through a whole block while they are still in the cache (evaluation on the CPU);
# much less, and the threads wait for each other more than they work.
_PIECE_NUMBERS = 4096 * 180

Parts = Groups | Tensor | tuple[Maps, ...]


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, Linear."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, rows: Tensor) -> Tensor:
        """[R, C] to [R, C]."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(rows)))))  # type: ignore[no-any-return]

    def add_to_(self, target: Tensor, rows: Tensor) -> None:
        """``target += forward(rows)`` with less memory traffic; for evaluation, without gradients."""
        hidden = torch.ops.aten.gelu_(self.fc1(rows))
        target.add_(self.fc2.bias).addmm_(hidden, self.fc2.weight.t())


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops the branch for whole pictures, scales the rest by 1 / keep."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, rows: Tensor, batch: int, tokens: int) -> Tensor:
        """``rows`` [n*B*N, C] with the B pictures inside each of n windows of N tokens (one window: the map)."""
        if not self.training or self.rate == 0:
            return rows
        keep = 1 - self.rate
        kept = rows.new_empty(batch, 1, 1).bernoulli_(keep).div_(keep)
        return (rows.view(-1, batch, tokens, rows.shape[-1]) * kept).view_as(rows)


class SwinBlock(nn.Module):
    """``t + attn(norm1(t))``, then ``t + mlp(norm2(t))``, on rows in the order that its attention wants.

    Block ``index`` of RSTB ``group``; odd ones are shifted, except where ELSA works without windows.
    """

    def __init__(self, options: SwinIROptions, group: int, index: int, drop_path: float) -> None:
        super().__init__()
        dim, heads = options.embed_dim, options.num_heads[group]
        self.shifted = index % 2 == 1
        self.window_tokens = options.window_size**2
        self.norm1 = nn.LayerNorm(dim)
        self.attn: WindowAttention | ElsaAttention
        elsa = options.elsa_in(group, index)
        if elsa is not None:
            self.attn = ElsaAttention(dim, heads, elsa, options.qkv_bias, options.drop_rate)
        else:
            self.attn = WindowAttention(
                dim,
                options.window_size,
                heads,
                options.qkv_bias,
                options.qk_scale,
                options.attn_drop_rate,
                options.drop_rate,
            )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * options.mlp_ratio), options.drop_rate)
        self.drop_path = DropPath(drop_path)
        self.extra_residual = options.extra_residual

    @property
    def order(self) -> Order:
        """The token order this block works in."""
        if isinstance(self.attn, ElsaAttention) and self.attn.options.scope == "image":
            return "image"
        return "shifted" if self.shifted else "plain"

    def parts(self, layout: Layout) -> Parts:
        """What the rows of :attr:`order` consist of: windows by kind of mask, or ELSA's maps."""
        if isinstance(self.attn, ElsaAttention):
            return maps_of(layout, self.attn.options, self.shifted)
        if layout.open:
            return layout.kinds()
        return layout.groups(self.shifted)

    def forward(self, rows: Tensor, parts: Parts, batch: int) -> Tensor:
        """``rows`` [B*H*W, C] in :attr:`order` to the same shape; ``parts`` from :meth:`parts`."""
        out = self._plain(rows, parts, batch)
        return out + rows if self.extra_residual else out

    def _plain(self, rows: Tensor, parts: Parts, batch: int) -> Tensor:
        if self.training or torch.is_grad_enabled() or not prefers_products(rows):
            return self._layer(rows, parts, batch)
        if isinstance(self.attn, ElsaAttention):
            out: Tensor = rows + self.attn(self.norm1(rows), parts)
            for piece in torch.split(out, max(1, _PIECE_NUMBERS // rows.shape[1])):
                self.mlp.add_to_(piece, self.norm2(piece))
            return out
        biases = self.attn.prepare(self.shifted)
        out = rows.clone()
        most = max(1, _PIECE_NUMBERS // (self.window_tokens * rows.shape[1]))
        for first, count, groups in in_parts(cast(Groups, parts), most):
            piece = out[first * self.window_tokens : (first + count) * self.window_tokens]
            self.attn.add_to_(piece, self.norm1(piece), biases, groups)
            self.mlp.add_to_(piece, self.norm2(piece))
        return out

    def _layer(self, rows: Tensor, parts: Parts, batch: int) -> Tensor:
        normed = self.norm1(rows)
        if isinstance(self.attn, ElsaAttention):
            attended = self.attn(normed, parts)
        else:
            attended = self.attn(normed, self.attn.prepare(self.shifted), parts)
        tokens = rows.shape[0] // batch if self.order == "image" else self.window_tokens
        mixed: Tensor = self.drop_path(attended, batch, tokens)
        rows = rows + mixed
        changed: Tensor = self.drop_path(self.mlp(self.norm2(rows)), batch, tokens)
        return rows + changed


class ResidualGroup(nn.Module):
    """The blocks of one RSTB, alternately unshifted and shifted."""

    def __init__(self, options: SwinIROptions, group: int, drop_path: list[float]) -> None:
        super().__init__()
        self.use_checkpoint = options.use_checkpoint
        self.blocks = nn.ModuleList(
            SwinBlock(options, group, j, drop_path[j]) for j in range(options.depths[group])
        )

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        """``rows`` [B*H*W, C] in image order to the same."""
        order: Order = "image"
        for block in self.blocks:
            assert isinstance(block, SwinBlock)
            rows, order = rearrange(rows, layout, order, block.order), block.order
            parts = block.parts(layout)
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                rows = checkpoint(block, rows, parts, layout.batch, use_reentrant=False)
            else:
                rows = block(rows, parts, layout.batch)
        return rearrange(rows, layout, order, "image")


class RSTB(nn.Module):
    """Residual Swin Transformer block: ``conv(blocks(t)) + t``."""

    def __init__(self, options: SwinIROptions, group: int, drop_path: list[float]) -> None:
        super().__init__()
        self.residual_group = ResidualGroup(options, group, drop_path)
        self.conv = residual_conv(options.embed_dim, options.resi_connection)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """[B, C, H, W] in channels_last memory to the same."""
        rows = self.residual_group(to_rows(x), layout)
        return self.conv(from_rows(rows, x)) + x  # type: ignore[no-any-return]


def residual_conv(dim: int, kind: str) -> nn.Module:
    """The convolution that ends an RSTB and the body: one, or three with a bottleneck of a quarter."""
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1)
    quarter = dim // 4
    return nn.Sequential(
        nn.Conv2d(dim, quarter, 3, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(quarter, quarter, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(quarter, dim, 3, padding=1),
    )


def to_rows(x: Tensor) -> Tensor:
    """[B, C, H, W] to [B*H*W, C]; no copy in channels_last memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """The reverse of :func:`to_rows`: a channels_last view shaped as ``like``."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
