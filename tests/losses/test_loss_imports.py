"""Option files are checked before torch is loaded, so option classes must not pull it in."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "atelier.losses",
    "atelier.losses.colour_options",
    "atelier.losses.l1",
    "atelier.losses.perceptual",
    "atelier.losses.ssim",
    "atelier.objectives",
    "atelier.objectives.pixel",
    "atelier.train.optimizers",
    "atelier.train.schedules",
    "atelier.train.health",
)


def test_options_of_losses_objectives_and_optimisers_need_no_torch():
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {MODULES!r}];"
        "from atelier.losses import LOSSES; [LOSSES.options_class(name)(type=name) for name in LOSSES];"
        "print([name for name in ('torch', 'torchvision', 'cv2', 'spandrel') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
