"""Weight files of MemFlow: the official ones and those tuned for colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from atelier.archs.load import load_whole
from atelier.archs.load_report import LoadReport
from atelier.archs.memflow import MemFlow
from atelier.archs.weights import read_weights
from atelier.errors import UserError

_OURS = "update_block.encoder.convc1.ffn1.0.weight"


def load_memflow(net: MemFlow, path: Path | str) -> LoadReport:
    """Copy the weights of a MemFlow file into ``net``.

    Args:
        net: receives them; every name and shape must fit.
        path: a bare state or one under ``model``, ``module.`` before the names or not; ``.pth`` or ``.safetensors``.

    Raises:
        UserError: the file cannot be read, holds another variant or no MemFlow at all, or a tensor does not fit;
            the message names it. Nothing was copied then.
    """
    file = read_weights(path, also=("model",))
    _require_the_variant(file.state, path)
    for key, value in file.state.items():
        twin = file.state.get(key.replace(".norm3.", ".downsample.1."))
        if twin is not None and twin.shape == value.shape and not torch.equal(twin, value):
            raise UserError(
                f"{path}: {key} and its second name {key.replace('.norm3.', '.downsample.1.')} differ; they are one "
                f"tensor of MemFlow"
            )
    return load_whole(net, file)


def _require_the_variant(state: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse networks that share the name and most keys, by their own names."""
    if any(key.startswith("cnet.svt") for key in state):
        variant = "MemFlow-T (its encoder is a Twins transformer, keys cnet.svt…)"
    elif any("gru_new" in key for key in state):
        variant = "MemFlow-P (it predicts future flow, keys with gru_new)"
    elif _OURS not in state:
        raise UserError(f"{path} holds no MemFlow: there is no {_OURS}")
    else:
        return
    raise UserError(f"{path} holds {variant}, which is not supported; give a MemFlowNet file")
