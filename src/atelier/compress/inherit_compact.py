"""Rules that carry an SRVGGNetCompact into one of another width, depth, scale or number of colours.

A chain without normalisation grows exactly (Net2Net, Chen et al. 2016): columns for new features are zero, and an added
convolution is the identity, with slopes of 1 (PReLU) or over what is not negative (ReLU). Only with LeakyReLU, whose
slope is fixed, an added convolution changes the result. Each layer's features are chosen by themselves.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.network_options import NetworkOptions, Shapes
from atelier.compress.axes import Axis, Carry, Made, Rule, State, carried, kept, overlap
from atelier.compress.inherit_colour import input_axis, input_weight, output_axis, output_rows
from atelier.compress.options import InheritOptions

_SAME = overlap(3, 3)
_FIXED_SLOPE = {"relu": 0.0, "leakyrelu": 0.1}


def compact_rules(
    old: NetworkOptions, new: NetworkOptions, state: State, shapes: Shapes, options: InheritOptions
) -> dict[str, Rule]:
    """A rule for every tensor of ``new``; arguments as of :func:`atelier.compress.inherit.inherit_plan`."""
    rules = _CompactRules(
        cast(SRVGGNetCompactOptions, old), cast(SRVGGNetCompactOptions, new), state, options.select
    )
    return {key: rules.of(key) for key in shapes}


class _CompactRules:
    def __init__(
        self, old: SRVGGNetCompactOptions, new: SRVGGNetCompactOptions, state: State, select: str
    ) -> None:
        self.old, self.new, self.state, self.select = old, new, state, select
        # Features after convolution i; those after an added one are those after the last old one.
        common = min(old.num_conv, new.num_conv)
        self.features = [self._features(i) for i in range(common + 1)]
        self.features += [self.features[-1]] * (new.num_conv - common)

    def of(self, key: str) -> Rule:
        """The rule of ``body.N.weight`` or ``body.N.bias`` of the new network."""
        place, name = int(key.split(".")[1]), key.split(".")[2]
        layer, activation = divmod(place, 2)
        if activation:
            return self._slopes(layer, key)
        if layer == self.new.num_conv + 1:
            return self._last(name)
        rows = self.features[layer].filled(1.0)
        if layer > self.old.num_conv:
            return self._identity(rows, name)
        if name == "bias":
            return Carry("features", key, (rows,))
        if layer > 0:
            return Carry("features", key, (rows, self.features[layer - 1], _SAME, _SAME))
        old, new = self.old.num_in_ch, self.new.num_in_ch
        axes = (rows, input_axis(old, new), _SAME, _SAME)
        return Carry("features", key, axes, prepare=input_weight(old, new))

    def _features(self, layer: int) -> Axis:
        old, new = self.old.num_feat, self.new.num_feat
        if new >= old or self.select == "first":
            return overlap(old, new)
        rows = self.state[f"body.{2 * layer}.weight"].double().flatten(1).norm(dim=1)
        columns = self.state[f"body.{2 * layer + 2}.weight"].double().transpose(0, 1).flatten(1).norm(dim=1)
        return kept(rows * columns, new)

    def _slopes(self, layer: int, key: str) -> Rule:
        features = self.features[layer]
        if layer > self.old.num_conv:
            slopes = torch.ones(features.length)
            return Made("added as identity", lambda fresh: carried(slopes, (features.filled(1.0),), fresh))
        if self.old.act_type == "prelu":
            return Carry("features", key, (features.filled(1.0),))
        slope = _FIXED_SLOPE[self.old.act_type]
        return Made(f"slope of {self.old.act_type}", lambda fresh: torch.full_like(fresh, slope))

    def _identity(self, rows: Axis, name: str) -> Rule:
        count = rows.length
        if name == "bias":
            return Made("added as identity", lambda fresh: carried(torch.zeros(count), (rows,), fresh))
        same = nn.init.dirac_(torch.empty(count, count, 3, 3))
        axes = (rows, rows.filled(0.0), _SAME, _SAME)
        return Made("added as identity", lambda fresh: carried(same, axes, fresh))

    def _last(self, name: str) -> Rule:
        old, new = self.old, self.new
        key = f"body.{2 * (old.num_conv + 1)}.{name}"
        # Sub-pixels of another scale: the one at the same place.
        side = Axis(tuple(i * old.upscale // new.upscale for i in range(new.upscale)), old.upscale)
        axes: tuple[Axis, ...] = (output_axis(old.num_out_ch, new.num_out_ch), side, side)
        if name == "weight":
            axes = (*axes, self.features[new.num_conv], _SAME, _SAME)
        return Carry("last convolution", key, axes, prepare=output_rows(old.num_out_ch, new.num_out_ch))
