"""ELSA written from its formulas, one gathered neighbourhood after the other: slow, and nothing shared with ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def neighbours(x: Tensor, side: int, labels: Tensor) -> Tensor:
    """[C, Y, X] to [C, K, Y, X]: what stands at each tap; zero outside the map and where the label is another."""
    radius = side // 2
    _, height, width = x.shape
    out = x.new_zeros(x.shape[0], side * side, height, width)
    gathered = []
    for tap in range(side * side):
        down, across = tap // side - radius, tap % side - radius
        columns = out[:, tap].clone()
        for y in range(max(0, -down), min(height, height - down)):
            for a in range(max(0, -across), min(width, width - across)):
                if labels[y, a] == labels[y + down, a + across]:
                    columns[:, y, a] = x[:, y + down, a + across]
        gathered.append(columns)
    return torch.stack(gathered, 1)


def elsa_map(attention: Any, x: Tensor, labels: Tensor) -> Tensor:
    """One map [Y, X, C] to the same; ``attention`` only lends its weights and options."""
    options = attention.options
    height, width, channels = x.shape
    side, taps = options.kernel_size, options.kernel_size**2
    first, last = attention.hadamard_attn[0], attention.hadamard_attn[2]
    wide = first.weight.shape[0]
    heads = last.weight.shape[0] // taps
    q, k, v = F.linear(x, attention.qkv.weight, attention.qkv.bias).split([wide, wide, channels], -1)
    scale = options.qk_scale if options.qk_scale is not None else (channels / heads) ** -0.5
    product = (q * k * scale).permute(2, 0, 1)
    groups = wide // options.group_width
    around = neighbours(product, side, labels).view(groups, options.group_width, taps, height, width)
    kernel = first.weight.view(groups, -1, options.group_width, taps)
    spread = torch.einsum("goit,gityx->goyx", kernel, around).reshape(wide, height, width)
    spread = F.gelu(spread + first.bias[:, None, None])
    logits = torch.einsum("oc,cyx->oyx", last.weight[:, :, 0, 0], spread) + last.bias[:, None, None]
    weights = logits.view(heads, 1, taps, height, width).softmax(2)
    ghost = attention.ghost_head.view(-1, heads, channels // heads, taps, 1, 1)
    filters = weights
    if options.lam:
        filters = ghost[0] * filters
    if options.gamma:
        filters = filters + ghost[-1]
    values = neighbours(v.permute(2, 0, 1), side, labels).view(heads, -1, taps, height, width)
    mixed = (filters * values).sum(2).reshape(channels, height, width).permute(1, 2, 0)
    return F.linear(mixed, attention.proj.weight, attention.proj.bias)


def elsa_picture(attention: Any, x: Tensor, window: int, shifted: bool) -> Tensor:
    """One picture [H, W, C]: on the whole map, or rolled and window by window as the options say."""
    options = attention.options
    height, width, _ = x.shape
    if options.scope == "image":
        return elsa_map(attention, x, torch.zeros(height, width))
    shift = window // 2 if shifted else 0
    # Regions of the rolled map: what was neighbours before the roll carries one label.
    rows, columns = ((torch.arange(n) >= n - shift).long() for n in (height, width))
    labels = rows[:, None] * 2 + columns[None, :]
    if options.border == "fork":
        labels = torch.zeros_like(labels)
    rolled = x.roll((-shift, -shift), (0, 1))
    out = torch.zeros_like(rolled)
    for y in range(0, height, window):
        for a in range(0, width, window):
            place = (slice(y, y + window), slice(a, a + window))
            out[place] = elsa_map(attention, rolled[place], labels[place])
    return out.roll((shift, shift), (0, 1))


def residual_group(group: Any, x: Tensor, window: int) -> Tensor:
    """A residual group whose blocks all have ELSA, on one picture [H, W, C]."""
    for index, block in enumerate(group.blocks):
        x = x + elsa_picture(block.attn, block.norm1(x), window, shifted=index % 2 == 1)
        x = x + block.mlp(block.norm2(x))
    return x
