"""Rules that carry a SwinIR into one of another width, depth, window, head, number of colours or attention.

Everything that touches the residual stream uses one map of its channels. A larger network: nothing is written into
the new channels but small values from ``conv_first``, and nothing reads them yet; added blocks and groups change
nothing. What only reads new channels or feeds columns of zero keeps its fresh values, so no new unit stays without a
gradient. LayerNorm sees C_new channels where it saw C_old, so its weights are multiplied by sqrt(C_old / C_new),
exact where the old channels have zero mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.archs.swinir_options import MARKER, SwinIROptions
from atelier.compress.axes import Axis, Carry, Drawn, Made, Rule, State, kept, overlap
from atelier.compress.axes import zeros as zero
from atelier.compress.inherit_attention import Attention, AttentionSize, heads_map, resize
from atelier.compress.inherit_colour import (
    input_axis,
    input_bias,
    input_weight,
    output_axis,
    output_bias,
    output_rows,
)
from atelier.compress.inherit_groups import KeptGroups, kept_groups
from atelier.compress.options import InheritOptions
from atelier.errors import UserError

_BLOCK = re.compile(r"(layers\.(\d+)\.residual_group\.blocks\.(\d+)\.)(.+)")
_GROUP_CONV = re.compile(r"(layers\.(\d+)\.conv)\.(.+)")
# Into new channels conv_first writes a tenth of a fresh convolution: enough to tell them apart.
_FAINT = 0.1
_SAME = overlap(3, 3)
_PRODUCERS = re.compile(
    r"conv_first\.weight|.*\.attn\.proj\.weight|.*\.mlp\.fc2\.weight|(layers\.\d+\.conv|conv_after_body)(\.4)?\.weight"
)
_CONSUMERS = re.compile(
    r".*\.attn\.qkv\.weight|.*\.mlp\.fc1\.weight|(layers\.\d+\.conv|conv_after_body)(\.0)?\.weight"
)
_HEAD_ENTRY = {
    "": "conv_last",
    "pixelshuffledirect": "upsample.0",
    "pixelshuffle": "conv_before_upsample.0",
    "nearest+conv": "conv_before_upsample.0",
}


def swinir_rules(
    old: NetworkOptions, new: NetworkOptions, state: State, shapes: Shapes, options: InheritOptions
) -> dict[str, Rule]:
    """A rule for every tensor of ``new``; arguments as of :func:`atelier.compress.inherit.inherit_plan`.

    Raises:
        UserError: one of them has ``extra_residual`` and the other has not: no rule makes up for that.
    """
    old, new = cast(SwinIROptions, old), cast(SwinIROptions, new)
    if old.extra_residual != new.extra_residual:
        raise UserError(
            f"path.load=inherit: the weights are of a SwinIR with extra_residual {str(old.extra_residual).lower()}, "
            f"the network here has {str(new.extra_residual).lower()}; the same weights mean something else there"
        )
    kept = kept_groups(len(old.depths), len(new.depths), options.rstb)
    shorter = KeptGroups(old, kept)
    rules = _SwinIRRules(shorter.options, new, shorter.state(state), shapes, options)
    return {key: shorter.rule(rules.of(key)) for key in shapes}


class _SwinIRRules:
    def __init__(
        self, old: SwinIROptions, new: SwinIROptions, state: State, shapes: Shapes, options: InheritOptions
    ) -> None:
        self.old, self.new, self.state, self.options = old, new, state, options
        self.old_shapes = {key: tuple(value.shape) for key, value in state.items()}
        self.shapes = shapes
        self.stream = self._stream()

    def of(self, key: str) -> Rule:
        """The rule of one key of the new network."""
        if match := _BLOCK.fullmatch(key):
            block, group, index, name = match[1], int(match[2]), int(match[3]), match[4]
            if group >= len(self.old.depths):
                return Drawn()
            if index >= self.old.depths[group]:
                return zero() if name.startswith(("attn.proj.", "mlp.fc2.")) else Drawn()
            return self._block(key, block, (group, index), name)
        if match := _GROUP_CONV.fullmatch(key):
            if int(match[2]) < len(self.old.depths):
                return self._residual_conv(key, match[1], match[3])
            return zero() if match[3] in ("weight", "bias", "4.weight", "4.bias") else Drawn()
        if key.startswith("conv_after_body."):
            return self._residual_conv(key, "conv_after_body", key.removeprefix("conv_after_body."))
        if key.startswith("conv_first."):
            return self._first(key)
        if key.startswith("patch_embed.norm."):
            return self._norm(key, _FAINT)
        if key.startswith("norm."):
            return self._norm(key, 1.0)
        if key == "absolute_pos_embed":
            return self._positions(key)
        if key == MARKER:
            return Carry("marker", key, ())
        return self._head(key)

    def _stream(self) -> Axis:
        old, new = self.old.embed_dim, self.new.embed_dim
        if new >= old or self.options.select == "first":
            return overlap(old, new)
        scores = torch.zeros(old, dtype=torch.float64)
        for norms in self._channel_norms():
            scores += norms
        return kept(scores, new)

    def _channel_norms(self) -> Iterator[Tensor]:
        """Squared norm over every tensor that writes or reads a channel of the old stream, [C] each."""
        entry = _HEAD_ENTRY[self.old.upsampler] + ".weight"
        for key, value in self.state.items():
            if _PRODUCERS.fullmatch(key):
                yield value.double().square().flatten(1).sum(1)
            if _CONSUMERS.fullmatch(key) or key == entry:
                yield value.double().square().transpose(0, 1).flatten(1).sum(1)

    def _first(self, key: str) -> Rule:
        old, new = self.old, self.new
        rows = self.stream.filled(_FAINT)
        if key.endswith("bias"):
            return Carry("stream", key, (rows,), prepare=input_bias(old, new))
        scale = 1.0 if old.img_range == new.img_range else old.img_range / new.img_range
        columns = input_axis(old.in_chans, new.in_chans)
        change = input_weight(old.in_chans, new.in_chans)
        return Carry("stream", key, (rows, columns, _SAME, _SAME), scale, change)

    def _norm(self, key: str, new_weight: float) -> Rule:
        if key not in self.old_shapes:
            return Drawn()
        weight = key.endswith("weight")
        old, new = self.old.embed_dim, self.new.embed_dim
        scale = (old / new) ** 0.5 if weight and new > old else 1.0
        return Carry("LayerNorm", key, (self.stream.filled(new_weight if weight else 0.0),), scale)

    def _positions(self, key: str) -> Rule:
        if key not in self.old_shapes:
            return Made("added: zero", torch.zeros_like)
        old, new = self.old.img_size, self.new.img_size
        places = overlap(new**2, new**2)
        if old == new:
            return Carry("positions", key, (places, self.stream))

        def prepare(value: Tensor, _: State) -> Tensor:
            return resize(value.view(1, old, old, -1), new)

        return Carry("positions, interpolated", key, (places, self.stream), prepare=prepare)

    def _block(self, key: str, block: str, place: tuple[int, int], name: str) -> Rule:
        if name.startswith("norm"):
            return self._norm(key, 1.0)
        if name.startswith("attn."):
            old, new = self._size(self.old, *place), self._size(self.new, *place)
            heads = heads_map(old, new, self.state, block, self.options.select)
            bias = self.options.window_bias
            shapes = self.old_shapes, self.shapes
            return Attention(block, self.stream, old, new, heads, bias, *shapes).rule(name)
        hidden = self._hidden(block + "mlp.fc1.weight", block + "mlp.fc2.weight")
        axes = {
            "mlp.fc1.weight": (hidden.filled(1.0), self.stream),
            "mlp.fc1.bias": (hidden.filled(1.0),),
            "mlp.fc2.weight": (self.stream, hidden),
            "mlp.fc2.bias": (self.stream,),
        }
        return Carry("hidden units", key, axes[name])

    @staticmethod
    def _size(options: SwinIROptions, group: int, index: int) -> AttentionSize:
        elsa = options.elsa_in(group, index)
        if elsa is None:
            return AttentionSize(options.num_heads[group], options.embed_dim, options.qk_scale)
        parts = tuple(name for name, has in (("mul", elsa.lam), ("add", elsa.gamma)) if has)
        return AttentionSize(options.num_heads[group], options.embed_dim, elsa.qk_scale, parts)

    def _hidden(self, rows: str, columns: str) -> Axis:
        """Units between two layers; a smaller network keeps those with the largest row times column."""
        old, new = self.old_shapes[rows][0], self.shapes[rows][0]
        if new >= old:
            return overlap(old, new)
        incoming = self.state[rows].double().flatten(1).norm(dim=1)
        outgoing = self.state[columns].double().transpose(0, 1).flatten(1).norm(dim=1)
        return kept(incoming * outgoing, new)

    def _residual_conv(self, key: str, prefix: str, name: str) -> Rule:
        if self.old.resi_connection != self.new.resi_connection:
            return Drawn()
        if self.old.resi_connection == "1conv":
            axes: tuple[Axis, ...] = (self.stream, self.stream)
        else:
            names = [f"{prefix}.{i}.weight" for i in (0, 2, 4)]
            early, late = self._hidden(*names[:2]), self._hidden(*names[1:])
            axes = {
                "0": (early.filled(1.0), self.stream),
                "2": (late.filled(1.0), early),
                "4": (self.stream, late),
            }[name[0]]
        if name.endswith("bias"):
            return Carry("convolution", key, axes[:1])
        sides = tuple(overlap(side, side) for side in self.shapes[key][2:])
        return Carry("convolution", key, (*axes, *sides))

    def _head(self, key: str) -> Rule:
        old, new = self.old, self.new
        if old.upsampler != new.upsampler:
            return Drawn()
        module, weight = key.rsplit(".", 1)[0], key.endswith("weight")
        if module == ("upsample.0" if new.upsampler == "pixelshuffledirect" else "conv_last"):
            return self._last(key, module, weight)
        source = key
        if module.startswith("upsample."):
            # Every doubling starts as the old first one; a step of 3 has another shape.
            source = key if old.upscale == new.upscale else f"upsample.0.{'weight' if weight else 'bias'}"
        if self.old_shapes.get(source, ())[:1] != self.shapes[key][:1]:
            return Drawn()
        rows = overlap(self.shapes[key][0], self.shapes[key][0])
        rule = "head" if source == key else "head: copy of the first doubling"
        if not weight:
            return Carry(rule, source, (rows,))
        columns = self.stream if module == _HEAD_ENTRY[new.upsampler] else overlap(*self.shapes[key][1:2] * 2)
        return Carry(rule, source, (rows, columns, _SAME, _SAME))

    def _last(self, key: str, module: str, weight: bool) -> Rule:
        """The convolution that makes the picture."""
        old, new = self.old, self.new
        copies = 1
        if module == "upsample.0":
            if old.upscale != new.upscale:
                return Drawn()
            copies = new.upscale**2
        rows = (output_axis(old.in_chans, new.in_chans), overlap(copies, copies))
        scale = 1.0 if old.img_range == new.img_range else new.img_range / old.img_range
        if not weight:
            return Carry("head", key, rows, scale, output_bias(old, new))
        entry = module == _HEAD_ENTRY[new.upsampler]
        columns = self.stream if entry else overlap(*self.shapes[key][1:2] * 2)
        change = output_rows(old.in_chans, new.in_chans)
        return Carry("head", key, (*rows, columns, _SAME, _SAME), scale, change)
