"""What a run's validation sets must be, found before anything is moved or trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.errors import UserError
from atelier.images import write_image
from atelier.metrics.options import METRICS
from atelier.train.run import look_ahead_of, train
from support import small_run


def run_on(root: Path, sides: dict[str, tuple[int, int]], **metrics: Any) -> dict[str, Any]:
    folder = root / "pictures"
    folder.mkdir()
    for name, (height, width) in sides.items():
        write_image(folder / name, np.full((height, width, 3), 90, np.uint8))
    run = small_run(root / "runs", val={"metrics": metrics, "val_freq": 1}, train={"total_iter": 1})
    run["datasets"]["val"] = {"dataroot_gt": str(folder)}
    return run


def test_pictures_too_small_for_a_metric_are_all_named_before_the_older_run_is_moved(tmp_path: Path) -> None:
    sides = {"a.png": (12, 20), "b.png": (40, 40), "c.png": (30, 14)}
    run = run_on(tmp_path, sides, psnr={"type": "psnr"}, ssim={"type": "ssim"})
    older = tmp_path / "runs" / "small"
    (older / "models").mkdir(parents=True)
    message = (
        r"(?s)must have 15x15 pixels, so that ssim \(SSIM-RGB \(crop 2\)\).*"
        r"a\.png: 12x20 pixels\n.*c\.png: 30x14 pixels$"
    )
    for start in (look_ahead_of, train):
        with pytest.raises(UserError, match=message) as found:
            start(run, quiet=True)
        assert "b.png" not in str(found.value)
    assert [path.name for path in older.parent.iterdir()] == ["small"]


def test_pictures_of_just_that_size_are_measured(tmp_path: Path) -> None:
    run = run_on(tmp_path, {"a.png": (16, 16)}, ssim={"type": "ssim"}, psnrb={"type": "psnrb"})
    assert set(train(run, quiet=True).metrics["val"]) == {"ssim", "psnrb"}


@pytest.mark.parametrize(
    "kind", [name for name in METRICS.names() if not name.startswith("calculate_") and name != "lpips"]
)
@pytest.mark.parametrize("crop", [0, 8])
def test_a_metric_states_the_smallest_picture_it_measures(kind: str, crop: int) -> None:
    metric = METRICS.options_class(kind).model_validate({"type": kind, "crop_border": crop}).build(2)
    smallest = np.full((metric.least, metric.least, 3), 90, np.uint8)
    metric(smallest, smallest)
    with pytest.raises(UserError, match="too small"):
        metric(smallest[1:], smallest[1:])
