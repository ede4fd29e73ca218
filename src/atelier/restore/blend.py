"""A network between two: their weights interpolated (deep network interpolation, Wang et al., CVPR 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.archs import LoadedNetwork


@torch.no_grad()
def blend(first: LoadedNetwork, second: LoadedNetwork, share: float) -> None:
    """Put ``share`` of ``first``'s weights and ``1 - share`` of ``second``'s into ``first``'s network.

    Real-ESRGAN's denoising strength ``-dn`` is the share of the network that denoises; the other one keeps noise.

    Args:
        share: in [0, 1].

    Raises:
        UserError: the share is outside [0, 1], or the networks differ in architecture or size.
    """
    if not 0 <= share <= 1:
        raise UserError(f"-dn {share:g}: the share of the first network is from 0 to 1")
    mine, others = first.net.state_dict(), second.net.state_dict()
    shapes = [{key: value.shape for key, value in each.items()} for each in (mine, others)]
    if first.facts.architecture != second.facts.architecture or shapes[0] != shapes[1]:
        raise UserError(
            f"{_name(first)} ({_kind(first)}) and {_name(second)} ({_kind(second)}) cannot be mixed: both must be the "
            "same network with other weights"
        )
    for key, value in mine.items():
        if value.is_floating_point():
            value.mul_(share).add_(others[key], alpha=1 - share)


def _name(loaded: LoadedNetwork) -> Path | str:
    return loaded.report.path or "the network"


def _kind(loaded: LoadedNetwork) -> str:
    count = sum(each.numel() for each in loaded.net.parameters())
    return f"{loaded.facts.architecture} x{loaded.facts.scale}, {count:,} parameters"
