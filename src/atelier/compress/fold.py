"""A smaller scale or a grey network out of a trained one, by averaging rows of its last convolution: exact."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from atelier.archs.compact import SRVGGNetCompact
from atelier.compress.chain import Chain, compact_chain, compact_state
from atelier.errors import UserError


def fold_rows(rows: Tensor, colours: int, scale: int, to: int) -> Tensor:
    """Rows before a pixel shuffle of ``scale``, averaged into those before one of ``to``.

    The shuffle orders rows as ``c * s * s + dy * s + dx``; those of each box of sub-pixels are averaged, so the new
    output is the box mean of the old one.

    Args:
        rows: [colours * scale ** 2, ...], a weight or a bias.
        colours: of the picture.
        scale, to: old and new scale; ``to`` divides ``scale``.

    Returns:
        [colours * to ** 2, ...]
    """
    box = scale // to
    grid = rows.double().reshape(colours, to, box, to, box, *rows.shape[1:])
    return grid.mean((2, 4)).flatten(0, 2).to(rows.dtype)


def fold_scale(net: SRVGGNetCompact, to: int) -> SRVGGNetCompact:
    """``net`` at scale ``to``; its output is the box mean of ``net``'s (the enlarged input folds by itself).

    Raises:
        UserError: ``to`` does not divide the network's scale.
    """
    scale = net.options.upscale
    if to < 1 or scale % to:
        allowed = ", ".join(str(n) for n in range(1, scale + 1) if scale % n == 0)
        raise UserError(f"a network of scale {scale} cannot be folded to {to}; allowed: {allowed}")
    *body, last = compact_chain(net.options, net.state_dict())
    folded = replace(
        last,
        weight=fold_rows(last.weight, net.options.num_out_ch, scale, to),
        bias=fold_rows(last.bias, net.options.num_out_ch, scale, to),
    )
    return built((*body, folded), net, upscale=to)


def to_grey(net: SRVGGNetCompact) -> SRVGGNetCompact:
    """The 1-channel network that answers a grey picture with the mean of what ``net`` answers to it in all channels.

    Raises:
        UserError: ``net`` has one channel already.
    """
    options = net.options
    if options.num_in_ch == options.num_out_ch == 1:
        raise UserError("the network is grey already")
    first, *body, last = compact_chain(options, net.state_dict())

    def mean(rows: Tensor) -> Tensor:
        return rows.double().reshape(options.num_out_ch, -1, *rows.shape[1:]).mean(0).to(rows.dtype)

    first = replace(first, weight=first.weight.double().sum(1, keepdim=True).float())
    last = replace(last, weight=mean(last.weight), bias=mean(last.bias))
    return built((first, *body, last), net, num_out_ch=1)


def built(layers: Chain, like: SRVGGNetCompact, **changes: int) -> SRVGGNetCompact:
    """The network that ``layers`` make up, in evaluation mode.

    Args:
        layers: the chain; width, depth and colours of the input are read off it.
        like: gives the other options.
        changes: of these.
    """
    width, colours = layers[0].weight.shape[:2]
    sizes = {"num_in_ch": colours, "num_feat": width, "num_conv": len(layers) - 2}
    options = like.options.model_validate({**like.options.model_dump(), **sizes, **changes})
    with torch.random.fork_rng(devices=()):  # drawn only to be replaced
        net = options.build()
    net.load_state_dict(compact_state(layers, options.act_type))
    return net.eval()
