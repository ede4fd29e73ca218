"""A smaller network solved to answer as the one it comes from, as the start of a run (:mod:`transferring`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from atelier.archs.compact import SRVGGNetCompact
from atelier.archs.compact_options import SRVGGNetCompactOptions
from atelier.archs.load_report import Inherited
from atelier.archs.network_options import NetworkOptions
from atelier.compress.transfer_options import TransferOptions
from atelier.compress.transferring import ticks, transfer
from atelier.progress import progress

RULE = "solved by least squares"
_MOST, _LEAST = 128, 16
_PIXELS = 131_072


def solvable(old: NetworkOptions, new: NetworkOptions) -> bool:
    """Whether ``new`` is an SRVGGNetCompact like ``old`` with fewer features or fewer convolutions."""
    if not isinstance(old, SRVGGNetCompactOptions) or not isinstance(new, SRVGGNetCompactOptions):
        return False
    resized = old.model_copy(update={"num_feat": new.num_feat, "num_conv": new.num_conv})
    smaller = new.num_feat <= old.num_feat and new.num_conv <= old.num_conv
    return smaller and resized == new and old != new


def crops_for(side: int) -> int:
    """How many crops of ``side`` x ``side`` pixels are enough: the solved weights hardly gain from more."""
    return max(_LEAST, min(_MOST, _PIXELS // side**2))


def solved(
    old: NetworkOptions,
    old_state: Mapping[str, Tensor],
    new: NetworkOptions,
    pictures: Sequence[Tensor],
    *,
    quiet: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Inherited]]:
    """The weights of ``new`` and how each was made, for a pair that is :func:`solvable`.

    Args:
        old, old_state: the network that was learned, on the CPU.
        new: the smaller one.
        pictures: inputs [N, C, H, W] in [0, 1] of one size, on which both shall agree.
        quiet: no progress bar.
    """
    new = cast(SRVGGNetCompactOptions, new)
    with torch.random.fork_rng(devices=()):  # drawn only to be replaced
        source = cast(SRVGGNetCompact, old.build())
    source.load_state_dict(dict(old_state))
    options = TransferOptions(num_feat=new.num_feat, num_conv=new.num_conv)
    crops = torch.cat(list(pictures)).to("cpu", torch.float32)
    total = ticks(source, options)
    with (
        torch.random.fork_rng(devices=()),
        progress("start from the teacher", total, "parts", quiet=quiet) as bar,
    ):
        made = transfer(source.eval(), options, crops, tick=bar.advance)
    state = {key: value.detach() for key, value in made.net.state_dict().items()}
    return state, {key: _record(key, value, made.steps, old_state) for key, value in state.items()}


def _record(key: str, value: Tensor, steps: Sequence[int], old_state: Mapping[str, Tensor]) -> Inherited:
    _, place, name = key.split(".")
    layer, activation = divmod(int(place), 2)
    source = old_state.get(f"body.{2 * steps[layer] + activation}.{name}")
    shape = tuple(source.shape) if source is not None else None
    return Inherited(RULE, shape, tuple(value.shape), value.numel())
