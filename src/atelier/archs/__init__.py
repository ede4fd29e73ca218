"""Networks, their registry, and weight files. Names are loaded on first use, because they need torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier.archs.compact import SRVGGNetCompact
    from atelier.archs.compiling import compile_blocks
    from atelier.archs.dncnn import DnCNN, fold_batch_norm
    from atelier.archs.facts import NetworkFacts
    from atelier.archs.fusion import ConfidenceAverage, FusionNet, SimpleFusionNet, UNetFusionNet
    from atelier.archs.fusion_options import FUSIONS
    from atelier.archs.fusion_vidnet import FusionNetV1
    from atelier.archs.load import LoadedNetwork, load_network, load_state
    from atelier.archs.load_report import LoadReport
    from atelier.archs.msrresnet import MSRResNet1
    from atelier.archs.network_options import NetworkOptions
    from atelier.archs.registry import NETWORKS
    from atelier.archs.rrdbnet import RRDBNet
    from atelier.archs.swinir import SwinIR
    from atelier.archs.weights import StateFile, read_weights, save_weights, written_state

_HOME = {
    "FUSIONS": "fusion_options",
    "NETWORKS": "registry",
    "ConfidenceAverage": "fusion",
    "DnCNN": "dncnn",
    "FusionNet": "fusion",
    "FusionNetV1": "fusion_vidnet",
    "LoadReport": "load_report",
    "LoadedNetwork": "load",
    "MSRResNet1": "msrresnet",
    "NetworkFacts": "facts",
    "NetworkOptions": "network_options",
    "RRDBNet": "rrdbnet",
    "SRVGGNetCompact": "compact",
    "SimpleFusionNet": "fusion",
    "StateFile": "weights",
    "SwinIR": "swinir",
    "UNetFusionNet": "fusion",
    "compile_blocks": "compiling",
    "fold_batch_norm": "dncnn",
    "load_network": "load",
    "load_state": "load",
    "read_weights": "weights",
    "save_weights": "weights",
    "written_state": "weights",
}

__all__ = [
    "FUSIONS",
    "NETWORKS",
    "ConfidenceAverage",
    "DnCNN",
    "FusionNet",
    "FusionNetV1",
    "LoadReport",
    "LoadedNetwork",
    "MSRResNet1",
    "NetworkFacts",
    "NetworkOptions",
    "RRDBNet",
    "SRVGGNetCompact",
    "SimpleFusionNet",
    "StateFile",
    "SwinIR",
    "UNetFusionNet",
    "compile_blocks",
    "fold_batch_norm",
    "load_network",
    "load_state",
    "read_weights",
    "save_weights",
    "written_state",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
