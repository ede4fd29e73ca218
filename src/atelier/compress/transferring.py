"""A trained SRVGGNetCompact transferred into one of another width and depth, before any training.

Methods: ``l2`` keeps the rule of the small networks published so far, wires that do not match included, as a reference;
``l2-aligned`` and ``activation`` choose one set of channels per layer and keep it everywhere; ``least-squares`` chooses
channels by elimination and solves every layer to reproduce the source on calibration pictures.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atelier.archs.compact import SRVGGNetCompact
from atelier.compress.chain import Chain, Layer, compact_chain, run
from atelier.compress.fold import built
from atelier.compress.growth import deepen, duplicate, require_growable, widen
from atelier.compress.least_squares import Tick, collect, relative_errors, solve
from atelier.compress.moments import Moments
from atelier.compress.polish import polish
from atelier.compress.select import Kept, activation_scores, by_elimination, by_scores, l2_scores
from atelier.compress.sweeps import sweep
from atelier.compress.transfer_options import TransferOptions
from atelier.errors import UserError
from atelier.randomness import Streams


@dataclass(frozen=True)
class Transferred:
    """A transferred network and how it came about.

    Attributes:
        net: in evaluation mode.
        steps: the source's layers that were kept, counted from 0; added layers are not among them.
        kept: output channels of the source in each of these; None for ``l2``, which has no such sets.
        errors: relative error of each of these layers on the calibration pictures, see :func:`relative_errors`;
            before growth, sweeps and polish. Empty without calibration pictures or for ``l2``.
    """

    net: SRVGGNetCompact
    steps: tuple[int, ...]
    kept: Kept | None
    errors: tuple[float, ...]


def transfer(
    source: nn.Module,
    options: TransferOptions,
    calibration: Tensor | None = None,
    *,
    tick: Tick = lambda: None,
) -> Transferred:
    """A network of ``options.num_feat`` and ``options.num_conv`` that does what ``source`` does as well as it can.

    Args:
        source: an SRVGGNetCompact; unchanged.
        options: what is wanted and how.
        calibration: crops [N, C, H, W] in [0, 1] as the network will meet them; ``l2`` and ``l2-aligned`` need none
            unless polished.
        tick: called after each layer that was solved, each sweep and each step of the polish (:func:`ticks` in all).

    Raises:
        UserError: the source is another network, or the sizes do not go with the method.
    """
    if not isinstance(source, SRVGGNetCompact):
        raise UserError(f"transfer takes an SRVGGNetCompact; the source is a {type(source).__name__}")
    check(source, options, calibration)
    layers = compact_chain(source.options, source.state_dict())
    chain, steps, kept, errors = _sized(layers, source, options, calibration, tick)
    net = built(chain, source)
    if options.polish:
        assert calibration is not None
        polish(
            net, source, calibration, steps=options.polish, lr=options.polish_lr, seed=options.seed, tick=tick
        )
    return Transferred(net, steps, kept, errors)


def ticks(source: SRVGGNetCompact, options: TransferOptions) -> int:
    """How often :func:`transfer` will call ``tick``."""
    solved = min(options.num_conv, source.options.num_conv) + 2 + options.sweeps
    return (solved if options.method == "least-squares" else 0) + options.polish


def _sized(
    layers: Chain, source: SRVGGNetCompact, options: TransferOptions, calibration: Tensor | None, tick: Tick
) -> tuple[Chain, tuple[int, ...], Kept | None, tuple[float, ...]]:
    width, depth = options.num_feat, options.num_conv
    steps = tuple(range(len(layers)))
    if options.method == "l2":
        return document_rule(layers, width, depth), steps[: depth + 1] + steps[-1:], None, ()
    outputs = len(layers[-1].bias)
    narrow = min(width, source.options.num_feat)
    places = torch.zeros(0, dtype=torch.long)
    if calibration is not None:
        pixels = calibration.shape[2] * calibration.shape[3]
        drawn = Streams(options.seed, 0, 0)("calibration rows").permutation(pixels)[: options.rows]
        places = torch.from_numpy(drawn).sort().values
    if options.method == "l2-aligned":
        kept = by_scores(l2_scores(layers), narrow, outputs)
        chain = aligned(layers, kept)
    elif options.method == "activation":
        assert calibration is not None
        moments = collect(layers, [(i, i) for i in steps[1:]], calibration, places)
        kept = by_scores(activation_scores(layers, moments), narrow, outputs)
        chain = aligned(layers, kept)
    else:
        assert calibration is not None
        steps = _shortened(layers, min(depth, len(layers) - 2), calibration, places, options.ridge)
        if narrow < source.options.num_feat:
            moments = collect(layers, [(a + 1, b) for a, b in itertools.pairwise(steps)], calibration, places)
            kept = by_elimination([layers[i] for i in steps], moments, narrow, options.ridge)
        else:
            kept = tuple(tuple(range(len(layers[i].bias))) for i in steps)
        learned = source.options.act_type == "prelu"
        chain = solve(layers, steps, kept, calibration, places, options.ridge, fit_slopes=learned, tick=tick)
    errors = relative_errors(layers, steps, kept, chain, calibration[:16]) if calibration is not None else ()
    if width > narrow:
        chain = widen(chain, width)
    if depth > len(chain) - 2:
        chain = (
            duplicate(chain, depth)
            if options.grow == "duplicate"
            else deepen(chain, depth, source.options.act_type, options.where)
        )
    if options.method == "least-squares" and options.sweeps:
        assert calibration is not None
        # Added layers take part: from here on they are as free as the others.
        with torch.no_grad():
            wanted = torch.cat([run(layers, batch) for batch in torch.split(calibration, 8)])
        chain = sweep(
            chain,
            calibration,
            wanted,
            places,
            sweeps=options.sweeps,
            seed=options.seed,
            fit_slopes=source.options.act_type == "prelu",
            tick=tick,
        )
    return chain, steps, kept, errors


def document_rule(layers: Chain, width: int, num_conv: int) -> Chain:
    """The rule ``l2``, kept exactly for comparison; every tensor chooses its rows by itself.

    Rows of the largest L2 norm in ascending order; inner layer i comes from inner layer ``i mod n`` and takes its own
    row indices for its columns too, although the layer before kept others; biases of the first layer go by their own
    size, all others and all slopes by evenly spaced indices.
    """
    source_width = len(layers[0].bias)
    spaced = torch.linspace(0, source_width - 1, width).long()

    def slopes(layer: Layer) -> Tensor | None:
        return None if layer.slope is None else layer.slope[spaced]

    first, *inner, last = layers
    top, top_bias = _largest(first.weight.flatten(1).norm(dim=1), width), _largest(first.bias.abs(), width)
    made = [Layer(first.weight[top], first.bias[top_bias], slopes(first))]
    for i in range(num_conv):
        layer = inner[i % len(inner)]
        top = _largest(layer.weight.flatten(1).norm(dim=1), width)
        made.append(Layer(layer.weight[top][:, top], layer.bias[spaced], slopes(layer)))
    columns = _largest(last.weight.transpose(0, 1).flatten(1).norm(dim=1), width)
    return (*made, Layer(last.weight[:, columns], last.bias, None))


def _largest(values: Tensor, count: int) -> Tensor:
    return torch.topk(values, count).indices.sort().values


def aligned(layers: Chain, kept: Kept) -> Chain:
    """The channels ``kept`` of every layer: rows, bias and slopes of it, columns of the next."""
    inner = (layers[i].columns(kept[i - 1]).rows(kept[i]) for i in range(1, len(layers)))
    return (layers[0].rows(kept[0]), *inner)


def _shortened(layers: Chain, num_conv: int, x: Tensor, places: Tensor, ridge: float) -> tuple[int, ...]:
    """Layers left after dropping, one by one, the inner layer that the next one, solved anew, misses least."""
    steps = list(range(len(layers)))
    while len(steps) - 2 > num_conv:
        pairs = [(steps[k - 1] + 1, steps[k + 1]) for k in range(1, len(steps) - 1)]
        costs = [_relative(each, ridge) for each in collect(layers, pairs, x, places)]
        del steps[1 + min(range(len(costs)), key=costs.__getitem__)]
    return tuple(steps)


def _relative(moments: Moments, ridge: float) -> float:
    missed = moments.error(moments.solve(ridge))
    return float(missed.sum() / moments.targets.sum().clamp(min=1e-30))


def check(source: SRVGGNetCompact, options: TransferOptions, calibration: Tensor | None) -> None:
    """Raises :class:`UserError` where :func:`transfer` could not do what ``options`` ask for."""
    width, depth = source.options.num_feat, source.options.num_conv
    if options.num_feat > width and (options.method == "l2" or options.grow != "split"):
        raise UserError(
            f"num_feat {options.num_feat} is above the source's {width}: --method {options.method} chooses among the "
            f"channels that exist; more of them need --grow split with another method than l2"
        )
    if options.num_conv < depth and options.method in ("l2-aligned", "activation"):
        raise UserError(
            f"num_conv {options.num_conv} is below the source's {depth}: --method {options.method} cannot leave layers "
            f"out; use least-squares, which solves the others anew"
        )
    if options.num_conv > depth and options.method != "l2" and options.grow != "duplicate":
        require_growable(source.options.act_type)
    if depth == 0 and options.num_conv > 0 and (options.method == "l2" or options.grow == "duplicate"):
        raise UserError("the source has no inner convolution that could be repeated; use --grow identity")
    if calibration is None and (options.polish or options.method in ("activation", "least-squares")):
        raise UserError(f"--method {options.method} with polish {options.polish} needs calibration pictures")
    if calibration is not None:
        if calibration.ndim != 4 or len(calibration) == 0:
            raise UserError("there is no calibration picture")
        if calibration.shape[1] != source.options.num_in_ch:
            raise UserError(
                f"calibration pictures have {calibration.shape[1]} channels, the source takes "
                f"{source.options.num_in_ch}"
            )
