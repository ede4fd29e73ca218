"""BasicSR's checkpoints: ``training_states/N.state`` with ``models/net_g_N.pth`` and ``net_d_N.pth``, no manifest.

A state holds epoch, step, one optimiser a network (generator first) and schedulers, but neither random state nor names
of parameters: optimisers number them in the order of the network, which is that of the weight file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.archs.load import options_of
from atelier.archs.weights import read_weights
from atelier.errors import UserError
from atelier.train.checkpoint import Checkpoint, read_state
from atelier.train.folder import RunFolder
from atelier.train.moments import parameter_names, with_tensor_steps

_ROLES = {1: ["g"], 2: ["g", "d"]}


@dataclass(frozen=True)
class BasicSRCheckpoint(Checkpoint):
    """One state and the weight files of its step."""

    def load_state(self) -> dict[str, Any]:
        """The step, and the optimisers with the names of their parameters, in the shape of a state of ours.

        Raises:
            UserError: an optimiser counts other parameters than its network's file has.
        """
        stored = read_state(self.state_path)
        state: dict[str, Any] = {
            "iter": self.iteration,
            "roles": list(self.models),
            "foreign": "BasicSR",
            "optimizers": [],
            "parameters": {},
        }
        for role, optimizer in zip(self.models, stored["optimizers"], strict=True):
            file = read_weights(self.models[role], "params")
            names = parameter_names(file.state, options_of(file) if role == "g" else None)
            try:
                count = sum(len(group["params"]) for group in optimizer["param_groups"])
                state["optimizers"].append(with_tensor_steps(optimizer))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{self.state_path}: no optimiser of network_{role}: {error}") from None
            if count != len(names):
                raise UserError(
                    f"{self.state_path}: its optimiser of network_{role} counts {count} parameters, but "
                    f"{self.models[role]} has {len(names)}, so they cannot be told apart; begin with its weights "
                    f"alone: path.pretrain_network_{role}={self.models[role]}"
                )
            state["parameters"][role] = names
        return state


def basicsr_checkpoint_at(path: Path) -> BasicSRCheckpoint | None:
    """The checkpoint that ``training_states/N.state`` belongs to; None where the state is one of ours.

    Raises:
        UserError: the state or a weight file is missing or cannot be read.
    """
    state = read_state(path)
    if not _is_basicsr(state):
        return None
    optimizers, iteration = state["optimizers"], state["iter"]
    roles = _ROLES.get(len(optimizers)) if isinstance(optimizers, list) else None
    if roles is None or not isinstance(iteration, int):
        raise UserError(f"{path} is no training state of a network with or without a discriminator")
    models = {role: path.parent.parent / "models" / f"net_{role}_{iteration}.pth" for role in roles}
    for file in models.values():
        read_weights(file, "params")
    return BasicSRCheckpoint(iteration, path, models)


def newest_basicsr_checkpoint(
    folder: RunFolder, report: Callable[[str], None] | None = None
) -> BasicSRCheckpoint | None:
    """The newest complete one in a run's folder; newer ones that are not are named through ``report``.

    States with a manifest, or one set aside, are ours.
    """
    if not folder.states.is_dir():
        return None
    states = {int(path.stem): path for path in folder.states.glob("*.state") if path.stem.isdigit()}
    for step, path in sorted(states.items(), reverse=True):
        if folder.is_claimed(step):
            continue
        try:
            found = basicsr_checkpoint_at(path)
        except UserError as error:
            if report is not None:
                report(f"checkpoint {path} is incomplete, going back to an older one: {error}")
            continue
        if found is not None:
            return found
    return None


def _is_basicsr(state: Mapping[str, Any]) -> bool:
    """Ours name the networks that were trained."""
    return "optimizers" in state and "roles" not in state
