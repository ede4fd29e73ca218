"""Checkpoints that count only when they are whole.

A checkpoint of step N is ``models/net_g_N.pth`` (one file per trained network), ``training_states/N.state`` and the
manifest ``training_states/N.json``. Each file is written under a temporary name, flushed and renamed; the manifest,
which holds size and SHA-256 of the others, comes last. Without a matching manifest there is no checkpoint.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.errors import RunStopped, UserError
from atelier.files import atomic_path, atomic_write, sha256_of
from atelier.train.folder import RunFolder

if TYPE_CHECKING:
    from atelier.archs.weights import StateFile


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    iteration: int
    state_path: Path
    models: Mapping[str, Path]

    def load_state(self) -> dict[str, Any]:
        """The training state (optimisers, counters), read with ``weights_only=True``."""
        return read_state(self.state_path)

    def weights(self, role: str, state: Mapping[str, Any]) -> tuple[StateFile, StateFile | None]:
        """(trained, averaged) weights of a network; the second is None for all but g, and where none were kept.

        ``state`` is what :meth:`load_state` gave: it holds the weights where the weight file cannot hold both sets.
        """
        from atelier.archs.weights import StateFile, read_weights

        path = self.models[role]
        if "params" in state:
            network = dict(state["past"][f"network_{role}"])
            record = state.get("records", {}).get(role, {})
            metadata = {"arch": network.pop("type"), "options": network, **record}
            average = state.get("params_ema") if role == "g" else None
            return (
                StateFile(state["params"][role], "params", metadata, path),
                StateFile(average, "params_ema", metadata, path) if average is not None else None,
            )
        trained = read_weights(path, "params")
        averaged = read_weights(path) if role == "g" else None
        return trained, averaged if averaged is not None and averaged.param_key == "params_ema" else None

    @property
    def run(self) -> Path:
        """The folder of the run that wrote it."""
        return self.state_path.parent.parent


def read_state(path: Path) -> dict[str, Any]:
    """Read a ``.state`` file; an unreadable one is a :class:`UserError` naming it."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"training state {path} does not exist") from error
    except Exception as error:  # torch raises a different type for each kind of damage
        raise UserError(f"training state {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or "iter" not in state:
        raise UserError(f"{path} is no training state: expected a dictionary with 'iter'")
    return state


class CheckpointStore:
    """Writes, finds and prunes the checkpoints of one run folder.

    Args:
        folder: the run's folder.
        suffix: ``.pth`` or ``.safetensors`` for the weight files.
    """

    def __init__(self, folder: RunFolder, suffix: str = ".pth") -> None:
        self.folder = folder
        self.suffix = suffix

    def save(
        self, iteration: int, writers: Mapping[str, Callable[[Path], None]], state: Mapping[str, Any]
    ) -> Checkpoint:
        """Write the checkpoint of ``iteration``.

        Args:
            iteration: the step whose result is saved.
            writers: role ("g", "d") -> function that writes that network's weight file to the given path.
            state: everything else a resume needs; tensors and plain values only.

        Raises:
            RunStopped: a file could not be written (full disk, no permission); older checkpoints are untouched and
                nothing of this one is left.
        """
        import torch

        models = {role: self.folder.models / f"net_{role}_{iteration}{self.suffix}" for role in writers}
        state_path = self.folder.states / f"{iteration}.state"
        manifest = self._manifest(iteration)
        replaced = manifest.exists()
        try:
            if replaced:
                # The old files are about to change one by one: until the new manifest is written this is no checkpoint.
                manifest.unlink()
            for role, write in writers.items():
                write(models[role])
            with atomic_path(state_path) as temporary:
                torch.save(dict(state), temporary)
            files = {}
            for path in (*models.values(), state_path):
                files[str(path.relative_to(self.folder.root))] = {
                    "bytes": path.stat().st_size,
                    "sha256": sha256_of(path),
                }
            atomic_write(manifest, json.dumps({"iter": iteration, "files": files}, indent=1))
        except (UserError, OSError, RuntimeError) as error:
            for path in (*models.values(), state_path, manifest):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            newest = self.newest()
            kept = (
                f"the newest complete checkpoint is that of step {newest.iteration}"
                if newest
                else "there is none"
            )
            raise RunStopped(f"checkpoint of step {iteration} not saved: {error}; {kept}") from error
        for role, path in models.items():
            self.alias(path, f"net_{role}_latest")
        return Checkpoint(iteration, state_path, models)

    def alias(self, path: Path, name: str) -> None:
        """Give a weight file a second name (``net_g_latest``), as a hard link where the file system has them."""
        target = path.with_name(name + path.suffix)
        temporary = target.with_name(f".{target.name}.link")
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
            temporary.replace(target)
        except OSError:
            atomic_write(target, path.read_bytes())

    def iterations(self) -> list[int]:
        """Steps for which a manifest exists, ascending."""
        if not self.folder.states.is_dir():
            return []
        names = (re.fullmatch(r"(\d+)\.json", entry.name) for entry in self.folder.states.iterdir())
        return sorted(int(match.group(1)) for match in names if match)

    def complete(self, iteration: int) -> Checkpoint | None:
        """The checkpoint of ``iteration`` if every file has the size and hash of its manifest."""
        try:
            manifest = json.loads(self._manifest(iteration).read_text(encoding="utf-8"))
            models: dict[str, Path] = {}
            state_path = None
            for name, facts in manifest["files"].items():
                path = self.folder.root / name
                if path.stat().st_size != facts["bytes"] or sha256_of(path) != facts["sha256"]:
                    return None
                if path.suffix == ".state":
                    state_path = path
                else:
                    models[path.name.split("_")[1]] = path
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Checkpoint(iteration, state_path, models) if state_path is not None else None

    def newest(self, report: Callable[[str], None] | None = None) -> Checkpoint | None:
        """The newest complete checkpoint; each damaged newer one is named through ``report``."""
        for iteration in reversed(self.iterations()):
            checkpoint = self.complete(iteration)
            if checkpoint is not None:
                return checkpoint
            if report is not None:
                report(f"checkpoint of step {iteration} is damaged or incomplete; going back to an older one")
        return None

    def prune(self, keep_last: int | None, newest: int) -> None:
        """Remove checkpoints older than the ``keep_last`` newest; the best weights have a file of their own."""
        if keep_last is None:
            return
        for iteration in [step for step in self.iterations() if step <= newest][:-keep_last]:
            self._manifest(iteration).unlink(missing_ok=True)
            (self.folder.states / f"{iteration}.state").unlink(missing_ok=True)
            for path in (
                *self.folder.models.glob(f"net_*_{iteration}.*"),
                *self.folder.models.glob(f"{iteration}_*.pth"),
            ):
                path.unlink(missing_ok=True)

    def supersede_after(self, iteration: int) -> list[int]:
        """Set aside checkpoints of later steps, which a resume from ``iteration`` will compute again.

        ``N.superseded`` says so of step N: our manifest under another name, or an empty file for a checkpoint of KAIR's
        or BasicSR's, which has none. Their files stay until they are overwritten. The step resumed from counts again.
        """
        foreign = (
            *self.folder.states.glob("*.state"),
            *self.folder.models.glob("*_G.pth"),
        )
        numbers = (re.match(r"(\d+)(?:\.state|_G\.pth)$", path.name) for path in foreign)
        steps = {*self.iterations(), *(int(match[1]) for match in numbers if match)}
        later = []
        for step in sorted(step for step in steps if step > iteration):
            manifest, aside = self._manifest(step), self._set_aside(step)
            if manifest.exists():
                manifest.rename(aside)
            elif aside.exists():
                continue
            else:
                aside.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(aside, "")
            later.append(step)
        self._set_aside(iteration).unlink(missing_ok=True)
        return later

    def _manifest(self, iteration: int) -> Path:
        return self.folder.states / f"{iteration}.json"

    def _set_aside(self, iteration: int) -> Path:
        return self._manifest(iteration).with_suffix(".superseded")
