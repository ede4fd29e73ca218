"""What the detectors ask of a run's history, against the plain definitions."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest

from atelier.train.run_history import History


def line(step: int, loss: float | None, **details: float) -> dict[str, Any]:
    losses = {} if loss is None else {"l_g_pix": loss}
    return {"kind": "train", "iter": step, "losses": losses, **({"details": details} if details else {})}


@pytest.mark.parametrize("width", [1, 3, 5])
def test_the_best_median_is_that_of_windows_side_by_side(width: int) -> None:
    """Asked after every record, also where terms are missing or not finite."""
    draw = np.random.default_rng(2)
    history, values = History(), []
    for step in range(1, 41):
        loss = [float(draw.random()), None, math.nan][int(draw.choice(3, p=[0.8, 0.1, 0.1]))]
        history.add(line(step, loss))
        values += [] if loss is None or math.isnan(loss) else [loss]
        medians = [
            statistics.median(values[at : at + width]) for at in range(0, len(values) - width + 1, width)
        ]
        assert history.best_median("l_g_pix", width) == (min(medians) if len(medians) > 1 else None)
    assert history.best_median("l_g_gan", width) is None


def test_the_last_steps_need_a_run_that_long() -> None:
    history = History(line(step, 1.0) for step in range(10, 60, 10))
    assert [each["iter"] for each in history.since(20)] == [40, 50]
    assert [each["iter"] for each in history.since(50)] == [10, 20, 30, 40, 50]
    assert history.since(51) == [] and History().since(1) == []
    # A run that goes on after step 100 began there.
    resumed = History(line(step, 1.0) for step in (110, 120))
    assert resumed.since(20) and resumed.since(21) == []


def test_details_and_validations_are_kept_by_name() -> None:
    history = History([line(10, 1.0, share=0.5), line(20, 1.0), line(30, 1.0, share=math.inf, other=2)])
    assert history.details == {"share": [(10, 0.5), (30, math.inf)], "other": [(30, 2.0)]}
    assert [each["iter"] for each in history.taught] == [10, 30]
    for name, value, signs in (
        ("a", 30.0, {}),
        ("b", 9.0, {"chroma": 1.0}),
        ("a", math.nan, {}),
        ("a", 31.0, {}),
    ):
        metrics = {"psnr": {"value": value, "higher_is_better": True}}
        history.add({"kind": "validation", "iter": 30, "set": name, "metrics": metrics, "signs": signs})
    history.add({"kind": "alarm", "iter": 30})
    assert history.deciding == [(30, 30.0, True), (30, 31.0, True)]
    assert history.signs == (30, "b", {"chroma": 1.0}) and len(history.train) == 3


def measured(step: int, value: float, **changes: Any) -> dict[str, Any]:
    metric = {"value": value, "protocol": changes.get("protocol", "PSNR"), "higher_is_better": True}
    return {
        "kind": "validation",
        "iter": step,
        "set": changes.get("set", "val"),
        "images": {name: {} for name in changes.get("images", ("a.png",))},
        "metrics": {changes.get("metric", "psnr"): metric},
    }


@pytest.mark.parametrize(
    "change",
    [{"metric": "ssim"}, {"protocol": "PSNR-Y"}, {"set": "renamed"}, {"images": ("a.png", "b.png")}],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_is_compared_with_its_like_alone(change: dict[str, Any]) -> None:
    """A resumed run may be measured in another way; SSIM's 0.9 is no fall from a PSNR of 30."""
    history = History([measured(10, 30.0), measured(20, 31.0)])
    assert history.deciding == [(10, 30.0, True), (20, 31.0, True)]
    history.add(measured(30, 0.9, **change))
    history.add(measured(40, 0.8, **change))
    assert history.deciding == [(30, 0.9, True), (40, 0.8, True)]
    assert history.first_validation == 10
