"""LayerNorms of a network that was made out of another, adjusted by what pictures show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from atelier.archs.network_options import NetworkOptions
from atelier.errors import UserError

State = Mapping[str, Tensor]


def calibrated(
    old: NetworkOptions, old_state: State, new: NetworkOptions, new_state: State, pictures: Sequence[Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """``new_state`` with every LayerNorm that both networks have adjusted, and the keys that changed.

    A LayerNorm takes mean and spread over its channels; another set of channels has others. Each weight becomes that of
    the plain carry-over (without the factor sqrt(C_old / C_new) of a growing network) times the measured ratio of
    spreads, and each bias takes back the measured difference of means, so that on average the channels which both
    networks share leave the norm as before. The norms are adjusted in the order in which the picture meets them, each
    under those before it.

    Args:
        old, old_state: the network that was learned.
        new, new_state: the network made out of it.
        pictures: input pictures [B, C, H, W] or [C, H, W] in [0, 1] with the colours of the old network; they are cut
            to the size of the smallest.

    Raises:
        UserError: there is no picture, or the two networks take different numbers of colours.
    """
    if old.in_channels != new.in_channels:
        raise UserError(
            f"inherit.calibrate compares both networks on the same pictures; they take {old.in_channels} and "
            f"{new.in_channels} colours"
        )
    batch = _batch(pictures)
    before: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(name: str, norm: nn.LayerNorm, x: Tensor) -> None:
        before[name] = _statistics(x)

    with _watched(_network(old, old_state), measure) as net:
        net(batch)
    state = {key: value.clone() for key, value in new_state.items()}

    def adjust(name: str, norm: nn.LayerNorm, x: Tensor) -> None:
        if name not in before:
            return
        width, wide = len(old_state[name + ".weight"]), len(norm.weight)
        common, plain = min(width, wide), (width / wide) ** 0.5 if wide > width else 1.0
        (mean_old, spread_old), (mean, spread) = before[name], _statistics(x)
        norm.weight[:common] *= spread / spread_old / plain
        norm.bias[:common] -= norm.weight[:common] * (mean_old - mean) / spread
        state[name + ".weight"], state[name + ".bias"] = norm.weight.clone(), norm.bias.clone()

    with _watched(_network(new, new_state), adjust) as net:
        net(batch)
    changed = tuple(key for key, value in state.items() if not torch.equal(value, new_state[key]))
    return state, changed


def _batch(pictures: Sequence[Tensor]) -> Tensor:
    if not pictures:
        raise UserError("inherit.calibrate needs at least one picture")
    batches = [each if each.ndim == 4 else each.unsqueeze(0) for each in pictures]
    height, width = (min(each.shape[axis] for each in batches) for axis in (2, 3))
    return torch.cat([each[..., :height, :width] for each in batches])


def _network(options: NetworkOptions, state: State) -> nn.Module:
    with torch.random.fork_rng(devices=()):  # drawn only to be replaced
        net = options.build()
    net.load_state_dict(dict(state))
    return net.eval().requires_grad_(False)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """(average mean, root of the average variance) over channels; x is [..., C]."""
    x = x.double()
    return x.mean().float(), x.var(-1, unbiased=False).mean().sqrt().float()


@contextmanager
def _watched(net: nn.Module, look: Any) -> Iterator[nn.Module]:
    """``net`` with ``look(name, norm, input)`` before every LayerNorm.

    Under ``enable_grad``, because evaluation without gradients sends rows through a norm piece by piece; no parameter
    needs a gradient, so nothing is stored.
    """
    for name, module in net.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda norm, inputs, name=name: look(name, norm, inputs[0]))
    with torch.enable_grad():
        yield net
