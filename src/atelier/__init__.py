"""Atelier: a workshop for image and video restoration networks.

The public surface in one place. Names are loaded on first use, so ``import atelier`` costs nothing:

    model = atelier.load_model("net_g_latest.pth")     # any registry or spandrel architecture
    restored = model.restore(picture)                  # H x W x C numpy in, the same out
    atelier.train("options/demo.yml", ["train.total_iter=100"])
    atelier.images.imresize(picture, scale=1 / 4)      # MATLAB's antialiased bicubic
    atelier.metrics.psnr(a, b, crop_border=4, y=True)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atelier import archs, images, metrics
    from atelier.archs.fusion import SimpleFusionNet, UNetFusionNet
    from atelier.colorize.system import FusionSystem
    from atelier.errors import UserError
    from atelier.losses.fusion_loss import FusionLoss
    from atelier.options.read import load_run_options
    from atelier.restore.model import RestorationModel, load_model
    from atelier.train.run import train

__version__ = "0.1.0"

__all__ = [
    "FusionLoss",
    "FusionSystem",
    "RestorationModel",
    "SimpleFusionNet",
    "UNetFusionNet",
    "UserError",
    "archs",
    "images",
    "load_model",
    "load_run_options",
    "metrics",
    "train",
]

_HOMES = {
    "FusionLoss": "atelier.losses.fusion_loss",
    "FusionSystem": "atelier.colorize.system",
    "RestorationModel": "atelier.restore.model",
    "SimpleFusionNet": "atelier.archs.fusion",
    "UNetFusionNet": "atelier.archs.fusion",
    "UserError": "atelier.errors",
    "load_model": "atelier.restore.model",
    "load_run_options": "atelier.options.read",
    "train": "atelier.train.run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in {"archs", "images", "metrics"}:
        value = importlib.import_module(f"atelier.{name}")
    else:
        raise AttributeError(f"module 'atelier' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
