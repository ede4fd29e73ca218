"""Trained fusion networks from files: our model files, bare weights, and checkpoints of the code base before this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from atelier.archs.checks import checked
from atelier.archs.fusion import FusionNet
from atelier.archs.fusion_options import FUSIONS, FusionOptions, fusion_from_shapes
from atelier.archs.load import load_whole
from atelier.archs.load_report import LoadReport
from atelier.archs.weights import StateFile, read_weights
from atelier.errors import UserError

# Entries of the older program's checkpoints.
_OLD_FUSION, _OLD_MATCHING = "fusion_unet", "swintexco_nonlocal"
_OWN_FUSION, _OWN_MATCHING = "fusion.", "exemplar.nonlocal_net."


@dataclass(frozen=True)
class FusionCheckpoint:
    """What a file holds for a colorizer.

    Attributes:
        fusion: the network with its weights, in evaluation mode.
        matching: weights of SwinTExCo's matching network that were trained with it; None where the file has none. Give
            them to :meth:`~atelier.colorize.system.FusionSystem.load_matching`.
        report: what became of the fusion network's tensors.
    """

    fusion: FusionNet
    matching: StateFile | None
    report: LoadReport


def load_fusion(path: Path | str) -> FusionCheckpoint:
    """The fusion network of a file, recognised by its names and shapes.

    A checkpoint of the older program holds ``fusion_unet``, whose networks correct the flow's colours
    (``base: flow``), and perhaps ``swintexco_nonlocal``. Of our model files the parts are taken; bare weights are a
    fusion network on the average.

    Raises:
        UserError: no such file, no fusion network in it, one whose decoder was never trained, or tensors that do not
            fit, by name.
    """
    file = read_weights(path, also=(_OLD_FUSION,))
    matching = None
    if file.param_key == _OLD_FUSION:
        options = _from_shapes(file, foreign=True)
        matching = _entry(path, _OLD_MATCHING)
    elif any(key.startswith(_OWN_FUSION) for key in file.state):
        matching = _part(file, _OWN_MATCHING)
        options = _own_options(file)
        file = _part(file, _OWN_FUSION) or file
    else:
        options = _from_shapes(file, foreign=False)
    with torch.random.fork_rng(devices=()):
        net = options.build()
    report = load_whole(net, file)
    return FusionCheckpoint(net.eval(), matching, report)


def _from_shapes(file: StateFile, *, foreign: bool) -> FusionOptions:
    try:
        return fusion_from_shapes(file.shapes, foreign=foreign)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from None


def _own_options(file: StateFile) -> FusionOptions:
    """What the file says about its fusion network; what its shapes say where it says nothing."""
    told = file.metadata.get("options")
    fusion = told.get("fusion") if isinstance(told, Mapping) else None
    if isinstance(fusion, Mapping):
        return checked(FUSIONS.options_class(str(fusion.get("type"))), **dict(fusion))
    return _from_shapes(_part(file, _OWN_FUSION) or file, foreign=False)


def _part(file: StateFile, prefix: str) -> StateFile | None:
    state = {key.removeprefix(prefix): value for key, value in file.state.items() if key.startswith(prefix)}
    return replace(file, state=state) if state else None


def _entry(path: Path | str, name: str) -> StateFile | None:
    """An entry of a file that could be read; None where there is no such entry."""
    try:
        return read_weights(path, name)
    except UserError:
        return None
