"""Tiny studies for tests: a x2 Compact of a few steps on small bundled photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from support import small_run


def write_base(root: Path, **sections: Any) -> Path:
    """An option file of a run of a second; validation on one picture, test pictures untouched."""
    run = small_run(root / "experiments", **sections)
    run["datasets"] = {
        **run["datasets"],
        "val": {"dataroot_gt": "bundled", "pictures": ["moon"], "convert_channels": True, "middle": 48},
    }
    run["val"] = {"val_freq": 4, "save_img": False} | sections.get("val", {})
    if "datasets" in sections:
        run["datasets"] |= sections["datasets"]
    file = root / "base.yml"
    file.write_text(yaml.safe_dump(run))
    return file


def study_of(root: Path, **changes: Any) -> dict[str, Any]:
    """A study of two arms and two seeds; top-level keys by name."""
    base = root / "base.yml"
    if not base.exists():
        write_base(root)
    study: dict[str, Any] = {
        "name": "lr",
        "base": str(base),
        "seeds": [0, 1],
        "arms": {"none": {}, "low": {"train.optim_g.lr": 1e-5}},
        "test": {
            "cat": {"gt": "bundled", "pictures": ["chelsea"], "middle": 32},
            "grey": {
                "gt": "bundled",
                "pictures": ["camera", "brick"],
                "middle": 32,
                "convert_channels": True,
            },
        },
    }
    return study | changes
