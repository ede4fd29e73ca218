"""Attention of one SwinIR block in another size: window attention, ELSA, or the one in place of the other.

Letters: h heads of d channels, C = h * d channels of the stream, K = k * k taps of ELSA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from atelier.archs.network_options import Shapes
from atelier.compress.axes import (
    Axis,
    Carry,
    Drawn,
    Made,
    Prepare,
    Rule,
    State,
    centred,
    joined,
    kept,
    overlap,
    product,
)
from atelier.compress.axes import zeros as zero

_TABLE = "attn.relative_position_bias_table"


@dataclass(frozen=True)
class AttentionSize:
    """What the shapes of a block's attention do not say.

    Attributes:
        heads: of this block.
        dim: channels of the stream.
        qk_scale: factor of the logits; None: d ** -0.5.
        parts: of ELSA's ghost head, "mul" and "add" as far as it has them.
    """

    heads: int
    dim: int
    qk_scale: float | None = None
    parts: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """d."""
        return self.dim // self.heads

    @property
    def logits(self) -> float:
        """What the logits are multiplied by."""
        return self.qk_scale if self.qk_scale is not None else self.width**-0.5


@dataclass(frozen=True)
class Attention:
    """Rules for the attention of one block.

    Attributes:
        block: prefix of its keys.
        stream: map of the stream's channels.
        old, new: sizes.
        heads: map of the heads.
        window_bias: "offset" or "interpolate".
        old_shapes, new_shapes: of the two networks.
    """

    block: str
    stream: Axis
    old: AttentionSize
    new: AttentionSize
    heads: Axis
    window_bias: str
    old_shapes: Shapes
    new_shapes: Shapes

    def rule(self, name: str) -> Rule:
        """The rule of ``attn.*`` key ``name`` of this block."""
        if not self._alike():
            # The block's attention starts as if it were not there; its MLP and norms are inherited.
            if name.startswith("attn.proj."):
                return Made("other attention: zero", torch.zeros_like)
            return Drawn()
        key = self.block + name
        if key not in self.old_shapes:
            return zero()  # qkv.bias, where the old network had none
        if name == "attn.proj.weight":
            return Carry("heads", key, (self.stream, self.heads, self._channels()))
        if name == "attn.proj.bias":
            return Carry("stream", key, (self.stream,))
        return self._elsa(name, key) if self._is_elsa(self.new_shapes) else self._window(name, key)

    def _window(self, name: str, key: str) -> Rule:
        if name == _TABLE:
            return self._table(key)
        # A wider head: zero q leaves the logits alone, k and v wait for it and for proj.
        scale, fill = self._logits_scale((3, 1, 1, 1)), torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1, 1)
        parts, heads = overlap(3, 3), self.heads.filled(1.0)
        if name == "attn.qkv.weight":
            return Carry("heads", key, (parts, heads, self._channels(fill), self.stream), scale)
        if isinstance(scale, Tensor):
            scale = scale.view(3, 1, 1)
        return Carry("heads", key, (parts, heads, self._channels(fill.view(3, 1, 1))), scale)

    def _table(self, key: str) -> Rule:
        old, new = (math.isqrt(shapes[key][0]) for shapes in (self.old_shapes, self.new_shapes))
        if old == new:
            return Carry("bias table", key, (overlap(old**2, new**2), self.heads))
        if self.window_bias == "interpolate":
            resized = overlap(new**2, new**2)

            def prepare(table: Tensor, _: State) -> Tensor:
                return resize(table.view(1, old, old, -1), new).flatten(0, 2)

            return Carry("bias table, interpolated", key, (resized, self.heads), prepare=prepare)
        # Offsets -(w - 1) .. w - 1; beyond the old reach, its edge.
        shift = (old - new) // 2
        axis = Axis(tuple(min(max(i + shift, 0), old - 1) for i in range(new)), old)
        return Carry("bias table, equal offsets", key, (axis, axis, self.heads))

    def _elsa(self, name: str, key: str) -> Rule:
        heads, side = self.heads.filled(1.0), self._taps()
        mixed = overlap(self._mixed(self.old_shapes), self._mixed(self.new_shapes), 1.0)
        if name == "attn.ghost_head":
            parts = overlap(len(self.new.parts), len(self.new.parts))
            axes = (parts, heads, self._channels(1.0), side, side)
            return Carry("ELSA filters", key, axes, prepare=self._ghost())
        if name.startswith("attn.qkv."):
            values = product(heads, self._channels(), 1.0)
            rows = joined([mixed, mixed, values], 1.0)
            scale = self._logits_scale((len(rows.source), 1), ones_after=len(mixed.source))
            if name.endswith("weight"):
                return Carry("ELSA channels", key, (rows, self.stream), scale)
            return Carry(
                "ELSA channels", key, (rows,), scale.flatten() if isinstance(scale, Tensor) else scale
            )
        if name == "attn.hadamard_attn.0.weight":
            group = overlap(self.old_shapes[key][1], self.new_shapes[key][1])
            return Carry("ELSA channels", key, (mixed, group, side, side))
        if name == "attn.hadamard_attn.0.bias":
            return Carry("ELSA channels", key, (mixed,))
        if name == "attn.hadamard_attn.2.weight":
            return Carry("ELSA heads", key, (heads, side, side, mixed.filled(0.0)))
        return Carry("ELSA heads", key, (heads, side, side))

    def _ghost(self) -> Prepare | None:
        old, new = self.old.parts, self.new.parts
        if old == new:
            return None

        def prepare(ghost: Tensor, _: State) -> Tensor:
            have = dict(zip(old, ghost.unbind(0), strict=True))
            # Without a factor it was 1, without a summand 0.
            absent = {"mul": torch.ones_like(ghost[0]), "add": torch.zeros_like(ghost[0])}
            return torch.stack([have.get(part, absent[part]) for part in new])

        return prepare

    def _channels(self, fill: float | Tensor = 0.0) -> Axis:
        return overlap(self.old.width, self.new.width, fill)

    def _logits_scale(self, shape: tuple[int, ...], ones_after: int = 1) -> float | Tensor:
        """On q alone, so that the logits keep their scale."""
        factor = self.old.logits / self.new.logits
        if factor == 1.0:
            return 1.0
        scale = torch.ones(shape)
        scale[:ones_after] = factor
        return scale

    def _mixed(self, shapes: Shapes) -> int:
        return shapes[self.block + "attn.hadamard_attn.0.weight"][0]

    def _taps(self) -> Axis:
        old, new = (
            shapes[self.block + "attn.ghost_head"][-1] for shapes in (self.old_shapes, self.new_shapes)
        )
        return centred(old, new)

    def _is_elsa(self, shapes: Shapes) -> bool:
        return self.block + "attn.ghost_head" in shapes

    def _alike(self) -> bool:
        old, new = self._is_elsa(self.old_shapes), self._is_elsa(self.new_shapes)
        if not (old and new):
            return old == new
        groups = self.block + "attn.hadamard_attn.0.weight"
        return self.old_shapes[groups][1] == self.new_shapes[groups][1]


def heads_map(old: AttentionSize, new: AttentionSize, state: State, block: str, select: str) -> Axis:
    """The first heads; a smaller network by "l2" keeps those with the largest v rows and proj columns."""
    if select == "first" or new.heads >= old.heads:
        return overlap(old.heads, new.heads)
    values = state[block + "attn.qkv.weight"][-old.dim :].double().view(old.heads, old.width, -1)
    outputs = state[block + "attn.proj.weight"].double().view(-1, old.heads, old.width)
    return kept(values.norm(dim=(1, 2)) * outputs.norm(dim=(0, 2)), new.heads)


def resize(grid: Tensor, side: int) -> Tensor:
    """[1, H, W, C] to [1, side, side, C], bicubic, corners on corners."""
    resized = F.interpolate(
        grid.permute(0, 3, 1, 2).float(), size=(side, side), mode="bicubic", align_corners=True
    )
    return resized.permute(0, 2, 3, 1).to(grid.dtype)
