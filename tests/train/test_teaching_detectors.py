"""Alarms of distilled runs, on records made by hand."""

from __future__ import annotations

from typing import Any

from atelier.train.detector_options import DetectorOptions, TeachingOptions
from atelier.train.detectors import Watch
from atelier.train.run_history import History
from atelier.train.teaching_detectors import dead_term, feature_collapse

OPTIONS = TeachingOptions()


def line(step: int, **details: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "iter": step,
        "losses": {"l_g_L1": 0.1},
        "images_per_s": 1e6,
        "data_share": 0.0,
        "details": details,
    }


def test_features_that_shrink_below_the_limit_are_told() -> None:
    steady = [line(10, tap_std_student_1=1.0, tap_std_student_2=2.0)]
    assert feature_collapse(History(steady), OPTIONS) is None
    assert (
        feature_collapse(History([*steady, line(20, tap_std_student_1=0.61, tap_std_student_2=2.5)]), OPTIONS)
        is None
    )
    alarm = feature_collapse(
        History([*steady, line(20, tap_std_student_1=1.0, tap_std_student_2=1.1)]), OPTIONS
    )
    assert alarm is not None
    assert "pair 2 have 55%" in alarm.message


def test_a_term_is_dead_only_after_its_whole_window() -> None:
    quiet = [line(step, share_feature=0.0005, share_response=0.4) for step in range(10, 60, 10)]
    assert dead_term(History(quiet[:2]), OPTIONS, 1000) is None
    alarm = dead_term(History(quiet), OPTIONS, 1000)
    assert alarm is not None
    assert alarm.message.startswith("feature was below 0.1%")
    lively = [*quiet[:3], line(40, share_feature=0.01), quiet[4]]
    assert dead_term(History(lively), OPTIONS, 1000) is None


def test_a_measured_gradient_says_more_than_the_loss() -> None:
    """The share of the gradient, every so many steps, decides from its second measurement on."""

    def lines(first: float, second: float, loss: float) -> list[dict[str, Any]]:
        found = [line(step, share_feature=loss) for step in range(100, 1100, 100)]
        found[0]["details"]["grad_share_feature"] = first
        found[-1]["details"]["grad_share_feature"] = second
        return [*found, line(1100, share_feature=loss)]

    alarm = dead_term(History(lines(0.0004, 0.0005, 0.3)), OPTIONS, 6000)
    assert alarm is not None and "0.1% of the student's gradient over the last 300 steps" in alarm.message
    assert dead_term(History(lines(0.0004, 0.2, 0.0001)), OPTIONS, 6000) is None
    # Measured at the beginning alone: the loss tells.
    young = lines(0.0004, 0.0004, 0.3)[:5]
    assert dead_term(History(young), OPTIONS, 1000) is None


def test_runs_without_terms_are_left_alone() -> None:
    plain = [{key: value for key, value in line(step).items() if key != "details"} for step in (10, 20, 30)]
    assert feature_collapse(History(plain), OPTIONS) is None
    assert dead_term(History(plain), OPTIONS, 30) is None


def test_the_watch_tells_each_once() -> None:
    watch = Watch(DetectorOptions(), 1000, 1)
    told = [
        alarm.detector
        for step in range(10, 80, 10)
        for alarm in watch.see(line(step, tap_std_student_1=1.0 if step == 10 else 0.3, share_feature=0.0))
    ]
    assert sorted(told) == ["dead term", "feature collapse"]
