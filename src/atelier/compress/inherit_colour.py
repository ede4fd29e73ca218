"""The first and the last convolution where the number of colours or SwinIR's ``img_range`` changes.

Grey to RGB: the RGB network answers a grey picture as the grey network did (weights spread over the inputs, repeated
on the outputs). RGB to grey: the grey network answers as the RGB network does to a grey picture, outputs averaged.
SwinIR takes a mean from RGB input only; the biases make up for it, exactly inside the picture, while at its border the
zeros around it now stand for another grey.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atelier.archs.swinir import _RGB_MEAN
from atelier.archs.swinir_options import SwinIROptions
from atelier.compress.axes import Axis, Prepare, State, overlap


def input_axis(old: int, new: int) -> Axis:
    """Colours of the first convolution, after :func:`input_weight`."""
    return overlap(new, new) if 1 in (old, new) else overlap(old, new)


def input_weight(old: int, new: int) -> Prepare | None:
    """[F, old, 3, 3] to [F, new, 3, 3]; None where nothing but overlap is needed."""
    if old == new or 1 not in (old, new):
        return None
    if old == 1:
        return lambda weight, _: weight.expand(-1, new, -1, -1) / new
    return lambda weight, _: weight.sum(1, keepdim=True)


def input_bias(old: SwinIROptions, new: SwinIROptions) -> Prepare | None:
    """[F] with the change of the mean taken back."""
    if mean(old.in_chans).equal(mean(new.in_chans)):
        return None

    def shifted(bias: Tensor, state: State) -> Tensor:
        weight = state["conv_first.weight"].to(bias.dtype)
        change = input_weight(old.in_chans, new.in_chans)
        spread = change(weight, state) if change is not None else weight[:, : new.in_chans]
        before = (weight.sum((2, 3)) * mean(old.in_chans)).sum(1)
        after = (spread.sum((2, 3)) * mean(new.in_chans)[: spread.shape[1]]).sum(1)
        return bias + old.img_range * (after - before)

    return shifted


def output_axis(old: int, new: int, fill: float = 1.0) -> Axis:
    """Colours of the last convolution, after :func:`output_rows`."""
    return overlap(new, new) if 1 in (old, new) else overlap(old, new, fill)


def output_rows(old: int, new: int) -> Prepare | None:
    """The last convolution's rows [old * n, ...] to [new * n, ...]; None where overlap is all that is needed."""
    if old == new or 1 not in (old, new):
        return None

    def rows(value: Tensor, state: State) -> Tensor:
        grid = value.reshape(old, -1, *value.shape[1:])
        grid = grid.expand(new, *grid.shape[1:]) if old == 1 else grid.mean(0, keepdim=True)
        return grid.flatten(0, 1)

    return rows


def output_bias(old: SwinIROptions, new: SwinIROptions) -> Prepare | None:
    """The last bias. Only a network without upsampler adds its input, mean and all; others add the mean at the end."""
    rows = output_rows(old.in_chans, new.in_chans)
    if old.upsampler == "" or mean(old.in_chans).equal(mean(new.in_chans)):
        return rows
    copies = old.scale**2 if old.upsampler == "pixelshuffledirect" else 1

    def shifted(bias: Tensor, state: State) -> Tensor:
        total = bias + old.img_range * _each(old.in_chans, copies)
        changed = rows(total, state) if rows is not None else total[: new.in_chans * copies]
        means = _each(new.in_chans, copies)[: len(changed)]
        return changed - old.img_range * means

    return shifted


def mean(channels: int) -> Tensor:
    """[channels], what the network takes from its input."""
    return torch.tensor(_RGB_MEAN) if channels == 3 else torch.zeros(channels)


def _each(channels: int, copies: int) -> Tensor:
    return mean(channels).repeat_interleave(copies)
