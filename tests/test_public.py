"""The public surface: a change of it is made here on purpose."""

from __future__ import annotations

import atelier

PUBLIC = {
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
}


def test_inventory() -> None:
    assert set(atelier.__all__) == PUBLIC
    for name in PUBLIC:
        value = getattr(atelier, name)
        assert value.__doc__, f"{name} has no docstring"


def test_what_the_design_shows_works() -> None:
    from atelier.archs import SRVGGNetCompact, SwinIR

    assert SRVGGNetCompact and SwinIR
    assert callable(atelier.images.imresize)
    assert callable(atelier.metrics.psnr)
    assert callable(atelier.metrics.ssim)
