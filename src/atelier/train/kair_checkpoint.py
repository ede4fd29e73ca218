"""KAIR's checkpoints: ``models/N_G.pth``, ``N_E.pth`` and ``N_optimizerG.pth``, bare and without a manifest.

The fork that distils also writes ``N_P.pth``, the projectors (``0.weight``, ``0.bias`` ...), whose moments follow the
network's in ``N_optimizerG.pth``.

KAIR takes the largest N of each kind alone and mixes what it finds; here a checkpoint is a set that has every kind
the folder holds at all, and each of its files must be readable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from atelier.archs.load import options_of
from atelier.archs.network_options import NetworkOptions
from atelier.archs.swinir_keys import fork_state
from atelier.archs.swinir_options import SwinIROptions
from atelier.archs.weights import StateFile, read_weights, written_state
from atelier.errors import UserError
from atelier.files import atomic_path
from atelier.objectives.distill.apprentice import PROJECTORS
from atelier.train.checkpoint import Checkpoint
from atelier.train.folder import RunFolder
from atelier.train.moments import parameter_names, with_tensor_steps

_NAME = re.compile(r"(\d+)_(G|E|P|optimizerG)\.pth")


@dataclass(frozen=True)
class KairCheckpoint(Checkpoint):
    """One set of KAIR's files; ``state_path`` is ``N_G.pth``."""

    average: Path | None = None
    optimizer: Path | None = None
    projectors: Path | None = None

    def load_state(self) -> dict[str, Any]:
        """The step, and the optimiser with the names of its parameters, in the shape of a state of ours."""
        state: dict[str, Any] = {"iter": self.iteration, "roles": ["g"], "foreign": "KAIR"}
        beside = read_weights(self.projectors).state if self.projectors is not None else {}
        state["files"] = {"p": beside} if beside else {}
        if self.optimizer is not None:
            weights = read_weights(self.state_path)
            state["optimizers"] = [_read_optimizer(self.optimizer)]
            names = parameter_names(weights.state, options_of(weights))
            state["parameters"] = {"g": [*names, *(f"{PROJECTORS}.{key}" for key in beside)]}
        return state

    def weights(self, role: str, state: Mapping[str, Any]) -> tuple[StateFile, StateFile | None]:
        """(``N_G.pth``, ``N_E.pth`` if it is there)."""
        return (
            read_weights(self.models[role]),
            read_weights(self.average) if self.average is not None else None,
        )


def newest_kair_checkpoint(
    folder: RunFolder, report: Callable[[str], None] | None = None
) -> KairCheckpoint | None:
    """The newest complete, readable set in a run's folder; newer ones that are not are named through ``report``.

    Steps with a manifest are ours, whatever names they have beside it, and those set aside no longer count.
    """
    models = folder.models
    kinds: dict[str, set[int]] = {}
    if models.is_dir():
        for entry in models.iterdir():
            match = _NAME.fullmatch(entry.name)
            if match and not folder.is_claimed(int(match[1])):
                kinds.setdefault(match[2], set()).add(int(match[1]))
    if "G" not in kinds:
        return None
    for iteration in sorted(set.union(*kinds.values()), reverse=True):
        absent = [
            f"{iteration}_{kind}.pth" for kind, found in sorted(kinds.items()) if iteration not in found
        ]
        try:
            if absent:
                raise UserError(f"{', '.join(absent)} is missing")
            return _checked(models, iteration, set(kinds))
        except UserError as error:
            if report is not None:
                report(f"KAIR's checkpoint of step {iteration} in {models} does not count: {error}")
    return None


def kair_files(folder: RunFolder) -> list[tuple[Path, int | None]]:
    """Everything in a run's folder that looks like a network of KAIR's, whole or not, with the step in its name."""
    found = sorted(folder.models.glob("*_G.pth"))
    matches = (_NAME.fullmatch(path.name) for path in found)
    return [(path, int(match[1]) if match else None) for path, match in zip(found, matches, strict=True)]


def kair_checkpoint_at(path: Path) -> KairCheckpoint:
    """The set that ``models/N_G.pth`` belongs to.

    Raises:
        UserError: the name has another form, or a file of the set is missing or unreadable.
    """
    match = _NAME.fullmatch(path.name)
    if match is None or match[2] != "G":
        raise UserError(
            f"path.resume_state: {path}: expected training_states/N.state, or KAIR's models/N_G.pth"
        )
    iteration = int(match[1])
    beside = {
        kind for kind in ("G", "E", "P", "optimizerG") if (path.parent / f"{iteration}_{kind}.pth").exists()
    }
    return _checked(path.parent, iteration, beside)


def _checked(models: Path, iteration: int, kinds: set[str]) -> KairCheckpoint:
    paths = {kind: models / f"{iteration}_{kind}.pth" for kind in kinds}
    for kind, path in paths.items():
        _ = _read_optimizer(path) if kind == "optimizerG" else read_weights(path)
    return KairCheckpoint(
        iteration,
        paths["G"],
        {"g": paths["G"]},
        average=paths.get("E"),
        optimizer=paths.get("optimizerG"),
        projectors=paths.get("P"),
    )


def _read_optimizer(path: Path) -> dict[str, Any]:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        return with_tensor_steps(stored)
    except Exception:  # torch raises a different type for each kind of damage
        raise UserError(f"{path} is damaged or holds no optimiser") from None


def _kair_state(net: nn.Module) -> dict[str, Tensor]:
    """The state of ``net`` as KAIR names it, or its fork with ELSA attention where that has such a network."""
    options = getattr(net, "options", None)
    if isinstance(options, SwinIROptions) and options.attention == "elsa":
        cpu = {key: value.detach().cpu() for key, value in net.state_dict().items()}
        with suppress(UserError):
            return fork_state(cpu, options)
    return written_state(net)


def write_kair_files(
    models: Path,
    iteration: int,
    net: nn.Module,
    average: nn.Module | None,
    optimizer: Optimizer,
    projectors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``N_G.pth``, ``N_E.pth``, ``N_P.pth`` and ``N_optimizerG.pth`` as KAIR and its fork read them.

    Args:
        models: the folder.
        iteration: N.
        net: the network; its parameters come first in ``optimizer``.
        average: its average, if there is one.
        optimizer: of the network and, behind it, the projectors.
        projectors: their state; None or empty where there are none.

    Raises:
        UserError: a file cannot be written.
    """
    files: dict[str, Any] = {"G": _kair_state(net)}
    if average is not None:
        files["E"] = _kair_state(average)
    options = getattr(net, "options", None)
    beside = {key: value.detach().cpu() for key, value in (projectors or {}).items()}
    if beside:
        files["P"] = beside
    all_names = (*(name for name, _ in net.named_parameters()), *(f"{PROJECTORS}.{key}" for key in beside))
    ours = {name: place for place, name in enumerate(all_names)}
    stored = optimizer.state_dict()
    names = parameter_names(files["G"], options if isinstance(options, NetworkOptions) else None)
    names += [f"{PROJECTORS}.{key}" for key in beside]
    files["optimizerG"] = {
        "state": {
            place: stored["state"][ours[name]]
            for place, name in enumerate(names)
            if name is not None and ours[name] in stored["state"]
        },
        "param_groups": [{**stored["param_groups"][0], "params": list(range(len(names)))}],
    }
    for kind, content in files.items():
        with atomic_path(models / f"{iteration}_{kind}.pth") as temporary:
            torch.save(content, temporary)
