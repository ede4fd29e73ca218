"""An optimiser's moments carried over by parameter name, for networks that are no longer quite the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from atelier.archs.network_options import NetworkOptions

# Kept for these two alone: the same two moments, whatever the decay. Others hold weights or a velocity whose
# meaning ends with the network they belonged to.
_CARRIED = frozenset({"Adam", "AdamW"})
_LISTED = 10
# Not parameters, whatever the network: its optimiser knows nothing of them.
_BUFFERS = (
    "attn_mask",
    "relative_position_index",
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "weight_u",
    "weight_v",
    "extra_residual",
)


def same_moments(former: str, now: str) -> bool:
    """Whether an optimiser of class ``now`` can go on with the state of one of class ``former``."""
    return former == now or {former, now} <= _CARRIED


@dataclass(frozen=True)
class Moments:
    """What became of the moments of every parameter that is trained now.

    Attributes:
        restored: parameters that go on with their moments and their own step count.
        reset: parameters whose moments start at zero.
        why: one reason that holds for all of ``reset``, None where each has its own (it is new or changed shape).
    """

    restored: tuple[str, ...]
    reset: tuple[str, ...]
    why: str | None = None

    def text(self) -> str:
        """Lines for the log; at most ten parameters are named."""
        total = len(self.restored) + len(self.reset)
        lines = [f"optimiser: moments of {len(self.restored)} of {total} parameters restored"]
        if self.reset:
            why = f" ({self.why})" if self.why else ""
            lines[0] += f"; {len(self.reset)} start at zero{why}:"
            lines += [f"  - {name}" for name in self.reset[:_LISTED]]
            if len(self.reset) > _LISTED:
                lines.append(f"  ... and {len(self.reset) - _LISTED} more")
        return "\n".join(lines)

    @property
    def by_fate(self) -> dict[str, tuple[str, ...]]:
        """The two lists under their names, as a load report keeps them."""
        return {"restored": self.restored, "reset": self.reset}


def carry_moments(
    optimizer: Optimizer,
    names: Sequence[str],
    stored: Mapping[str, Any] | None,
    stored_names: Sequence[str | None],
    *,
    stored_type: str,
    survivors: Collection[str],
) -> Moments:
    """Give ``optimizer`` the stored moments of every parameter in ``survivors``; all others start afresh.

    Args:
        optimizer: freshly built over the parameters ``names``, in that order.
        names: names of its parameters.
        stored: a ``state_dict`` of the former optimiser, None where there is none.
        stored_names: names of the parameters by position in ``stored``; None at a place that no longer exists.
        stored_type: name of the former optimiser's class.
        survivors: parameters whose weights were loaded unchanged.

    Returns:
        What was restored and what was not. Learning rate and the like are those of ``optimizer``'s own options.
    """
    if stored is None:
        return Moments((), tuple(names), "the checkpoint holds no optimiser")
    if not {type(optimizer).__name__, stored_type} <= _CARRIED:
        here = type(optimizer).__name__
        kinds = (
            f"from {stored_type} to {here}" if stored_type != here else f"parameter by parameter for {here}"
        )
        return Moments((), tuple(names), f"moments are not carried {kinds}")
    places = {name: place for place, name in enumerate(stored_names) if name is not None}
    fresh = optimizer.state_dict()
    indices = [index for group in fresh["param_groups"] for index in group["params"]]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    restored, reset = [], []
    for name, index, parameter in zip(names, indices, parameters, strict=True):
        entry = stored["state"].get(places[name]) if name in places and name in survivors else None
        if entry is not None and _fits(entry, parameter):
            fresh["state"][index] = dict(entry)
            restored.append(name)
        else:
            reset.append(name)
    optimizer.load_state_dict(fresh)
    return Moments(tuple(restored), tuple(reset))


def with_tensor_steps(stored: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's ``state_dict`` with its step counts as tensors: older versions of PyTorch kept plain numbers.

    Raises:
        KeyError, TypeError: it is no such dictionary.
    """
    state = {
        place: {**entry, "step": torch.as_tensor(entry["step"], dtype=torch.float32)}
        if "step" in entry
        else entry
        for place, entry in stored["state"].items()
    }
    return {**stored, "state": state}


def parameter_names(file_state: Mapping[str, Tensor], options: NetworkOptions | None) -> list[str | None]:
    """Our names of the parameters in ``file_state`` by position; None for one that our network does without."""
    own = options.network_state(file_state)[0] if options is not None else file_state
    # By the tensors themselves: what a name becomes may depend on the names beside it.
    renamed = {id(value): name for name, value in own.items()}
    return [
        renamed.get(id(value)) for key, value in file_state.items() if key.rpartition(".")[2] not in _BUFFERS
    ]


def _fits(entry: Mapping[str, Any], parameter: Tensor) -> bool:
    moments = [entry.get("exp_avg"), entry.get("exp_avg_sq")]
    return "step" in entry and all(
        isinstance(each, Tensor) and each.shape == parameter.shape for each in moments
    )
