"""ELSA, Enhanced Local Self-Attention (Zhou et al. 2021, arXiv 2112.12786), as the attention of a SwinIR block.

A token attends to the k x k tokens around it. The attention of a token is no dot product of two positions: queries
and keys meet in a Hadamard product at each position, and two convolutions turn it into one logit for each head and
neighbour. Position enters through these convolutions and the static filters of the ghost head alone.

Letters: B pictures, H x W the padded map, C channels, w the window side; the rest as in ``swinir_elsa_taps``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.swinir_elsa_options import ElsaOptions, query_width
from atelier.archs.swinir_elsa_taps import mix_taps
from atelier.archs.swinir_windows import BOTTOM, CORNER, RIGHT, Layout
from atelier.errors import UserError


class Maps(NamedTuple):
    """Consecutive rows that are ``number`` maps of ``height`` x ``width``, each zero padded on its own.

    ``down`` and ``across`` cut every map further, into regions that do not see each other: the sizes of the parts.
    """

    number: int
    height: int
    width: int
    down: tuple[int, ...]
    across: tuple[int, ...]


Ghost = tuple[Tensor, Tensor]


def maps_of(layout: Layout, elsa: ElsaOptions, shifted: bool) -> tuple[Maps, ...]:
    """The maps that the rows of a block consist of, in their order.

    Raises:
        UserError: an exporter leaves the size open, and ELSA works inside windows.
    """
    if elsa.scope == "image":
        height, width = layout.height, layout.width
        return (Maps(layout.batch, height, width, (height,), (width,)),)
    if layout.open:
        raise UserError(
            "elsa.scope: 'window' cannot be exported with open height or width: how a window is cut depends on "
            "whether it is the last one; export at one fixed size, or a network with scope 'image'"
        )
    window = layout.window
    whole, cut = (window,), (window - window // 2, window // 2)
    maps = []
    for count, kind in layout.groups(shifted):
        keeps = elsa.border == "fork"
        down = cut if kind in (BOTTOM, CORNER) and not keeps else whole
        across = cut if kind in (RIGHT, CORNER) and not keeps else whole
        maps.append(Maps(count, window, window, down, across))
    return tuple(maps)


class ElsaAttention(nn.Module):
    """Local attention with Hadamard logits and a ghost head, on rows of tokens.

    ``ghost_head`` is [2, 1, C, k, k] (multiplied, added) where both ``lam`` and ``gamma`` are 1, else [1, C, k, k].
    """

    def __init__(
        self, dim: int, num_heads: int, options: ElsaOptions, qkv_bias: bool = True, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        side, taps = options.kernel_size, options.kernel_size**2
        self.options = options
        self.width = width = query_width(dim, options.group_width)
        self.scale = options.qk_scale if options.qk_scale is not None else (dim // num_heads) ** -0.5
        parts = [(1, dim, side, side)] * (options.lam + options.gamma)
        self.ghost_head = nn.Parameter(torch.empty((2, *parts[0]) if len(parts) == 2 else parts[0]))
        self.qkv = nn.Linear(dim, 2 * width + dim, bias=qkv_bias)
        self.hadamard_attn = nn.Sequential(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width // options.group_width),
            nn.GELU(),
            nn.Conv2d(width, taps * num_heads, 1),
        )
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        if options.lam:
            nn.init.normal_(self.ghost_head[0] if options.gamma else self.ghost_head)
        if options.gamma:
            nn.init.trunc_normal_(self.ghost_head[-1] if options.lam else self.ghost_head, std=0.02)

    def ghost(self) -> Ghost:
        """(mul, add), [C, k * k] each: filters are ``mul * attention + add``."""
        flat = self.ghost_head.flatten(-2)
        if self.options.lam and self.options.gamma:
            mul, add = flat.squeeze(1).unbind(0)
            return mul, add
        flat = flat.squeeze(0)
        return (flat, torch.zeros_like(flat)) if self.options.lam else (torch.ones_like(flat), flat)

    def forward(self, rows: Tensor, maps: tuple[Maps, ...]) -> Tensor:
        """``rows`` [R, C] that are ``maps`` one after the other, each row by row, to the same shape."""
        ghost = self.ghost()
        mixed = []
        start = 0
        for each in maps:
            count = each.number * each.height * each.width
            # Not narrow: where one group is everything there is nothing to cut, also for an exporter.
            here = rows if len(maps) == 1 else rows[start : start + count]
            start += count
            mixed.append(self._group(here, each, ghost))
        together = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return self.proj_drop(self.proj(together))  # type: ignore[no-any-return]

    def _group(self, rows: Tensor, maps: Maps, ghost: Ghost) -> Tensor:
        """Rows of maps of one kind to rows of the same, before ``proj``."""
        grid = rows.view(maps.number, maps.height, maps.width, -1)
        bands = []
        for band in torch.split(grid, list(maps.down), 1) if len(maps.down) > 1 else (grid,):
            parts = torch.split(band, list(maps.across), 2) if len(maps.across) > 1 else (band,)
            done = [self._map(part, ghost) for part in parts]
            bands.append(done[0] if len(done) == 1 else torch.cat(done, 2))
        together = bands[0] if len(bands) == 1 else torch.cat(bands, 1)
        return together.reshape(-1, together.shape[-1])

    def _map(self, grid: Tensor, ghost: Ghost) -> Tensor:
        """[Z, Y, X, C] to the same; outside [Y, X] are zeros."""
        maps, height, width, channels = grid.shape
        weight, bias = self.qkv.weight, self.qkv.bias
        both = 2 * self.width
        qk = F.linear(grid, weight[:both], None if bias is None else bias[:both])
        product = qk[..., : self.width] * qk[..., self.width :] * self.scale
        spread: Tensor = self.hadamard_attn[1](self.hadamard_attn[0](product.permute(0, 3, 1, 2)))
        hidden = spread.permute(1, 2, 3, 0).reshape(self.width, -1)
        # Values as [channels, tokens (y, x, z)]: the order the taps want, straight from the linear layer.
        tokens = grid.permute(1, 2, 0, 3).reshape(-1, channels).t()
        v = torch.mm(weight[both:], tokens)
        if bias is not None:
            v = v + bias[both:, None]
        last = self.hadamard_attn[2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        mixed = mix_taps(hidden, last.weight.flatten(1), last.bias, v, *ghost, (height, width, maps))
        return mixed.view(channels, height, width, maps).permute(3, 1, 2, 0)
