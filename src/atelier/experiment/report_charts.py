"""The curves of a study's page: one line an arm, its band from the lowest to the highest seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from atelier.evaluate.band_charts import BandChart, Series, band_of, make_band_chart
from atelier.evaluate.charts import show_number
from atelier.evaluate.results import format_value
from atelier.experiment.cells import change_cell

Points = list[tuple[float, float]]

#: Longest training that is shown in a unit, its seconds, and its name.
_UNITS = ((180.0, 1.0, "seconds"), (10800.0, 60.0, "minutes"), (math.inf, 3600.0, "hours"))


def validation_charts(
    study: Mapping[str, Any], protocols: Mapping[str, Mapping[str, str]]
) -> list[list[BandChart]]:
    """For every validation set and metric: over steps, over training time, difference to the reference over steps.

    Args:
        study: the content of ``study.json``.
        protocols: validation set -> metric -> how it is computed.
    """
    several = len(protocols) > 1
    rows = []
    for name, metrics in protocols.items():
        for metric, protocol in metrics.items():

            def show(value: float, protocol: str = protocol) -> str:
                return format_value(value, protocol)

            def change(value: float, protocol: str = protocol) -> str:
                return change_cell(value, protocol)

            curves = {arm["name"]: _validations(arm, name, metric) for arm in study["arms"]}
            title = f"{protocol}, {name}" if several else protocol
            charts = [
                make_band_chart(title, _series(study, curves), unit="over steps", show=show),
                _over_time(study, title, curves, show),
                make_band_chart(
                    f"Difference to {study['reference']}",
                    _series(study, _differences(study, curves)),
                    unit=f"{metric}, seed by seed, over steps",
                    show=change,
                    reference=(0.0, ""),
                ),
            ]
            rows.append([chart for chart in charts if chart is not None])
    return [row for row in rows if row]


def training_charts(study: Mapping[str, Any]) -> dict[str, list[BandChart]]:
    """Group -> charts of what training logged: losses, shares of loss and gradient, other numbers of the terms."""
    groups: dict[str, list[BandChart | None]] = {
        "Losses": [],
        "Shares of loss and gradient": [],
        "Inside the terms": [],
    }
    for name in _names(study, "losses"):
        chart = _of_training(study, "losses", name, f"Loss {name}", unit="weighted", may_be_log=True)
        groups["Losses"].append(chart)
    for name in _names(study, "details"):
        words = name.split("_")
        if "share" in words:
            what = "gradient" if any(word.startswith("grad") for word in words) else "total loss"
            term = " ".join(word for word in words if word != "share" and not word.startswith("grad"))
            chart = _of_training(
                study,
                "details",
                name,
                f"Share of {term}",
                unit=f"% of the {what}",
                factor=100.0,
                show=_percent,
                from_zero=True,
            )
            groups["Shares of loss and gradient"].append(chart)
        else:
            title, unit = _inside(words)
            chart = _of_training(study, "details", name, title, unit=unit, may_be_log=True)
            groups["Inside the terms"].append(chart)
    found = {
        title: [chart for chart in charts if chart is not None] for title, charts in groups.items() if charts
    }
    return {title: charts for title, charts in found.items() if charts}


def _inside(words: Sequence[str]) -> tuple[str, str]:
    """Title and unit of ``raw_feature``, ``tap_std_student_1``, ``tap_error_1``."""
    if words[0] == "raw":
        return f"Term {' '.join(words[1:])}", "raw, before its weight"
    if words[:2] == ["tap", "std"] and len(words) == 4:
        return f"Std of the {words[2]}'s tap", f"pair {words[3]}"
    if words[:2] == ["tap", "error"] and len(words) == 3:
        return "Relative error of the taps", f"pair {words[2]}"
    return " ".join(words), ""


def _percent(value: float) -> str:
    return f"{value:.1f} %".replace("-", "−")


def _number(value: Any) -> float:
    """A logged value as float; NaN for null and for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _validations(arm: Mapping[str, Any], name: str, metric: str) -> dict[str, Points]:
    """Seed -> curve of one arm."""
    found = {
        seed: curves["validation"].get(name, {}).get(metric, []) for seed, curves in arm["curves"].items()
    }
    return {
        seed: [(float(step), _number(value)) for step, value in points]
        for seed, points in found.items()
        if points
    }


def _series(study: Mapping[str, Any], curves: Mapping[str, Mapping[str, Points]]) -> list[Series]:
    """Arms keep their place, and with it their colour, in every chart."""
    return [
        Series(arm["name"], band_of(list(curves[arm["name"]].values())), place)
        for place, arm in enumerate(study["arms"])
        if curves.get(arm["name"])
    ]


def _over_time(
    study: Mapping[str, Any],
    title: str,
    curves: Mapping[str, Mapping[str, Points]],
    show: Callable[[float], str],
) -> BandChart | None:
    """The same curves at the time an arm needs for so many steps; arms whose steps were not timed are left out."""
    step_seconds = {
        arm["name"]: arm["cost"]["step_seconds"] for arm in study["arms"] if arm["cost"]["step_seconds"]
    }
    ends = [
        step_seconds[name] * points[-1][0]
        for name, seeds in curves.items()
        if name in step_seconds
        for points in seeds.values()
    ]
    if not ends:
        return None
    seconds, unit = next((size, name) for most, size, name in _UNITS if max(ends) <= most)
    timed = {
        name: {
            seed: [(step * step_seconds[name] / seconds, value) for step, value in points]
            for seed, points in seeds.items()
        }
        for name, seeds in curves.items()
        if name in step_seconds
    }
    return make_band_chart(
        title,
        _series(study, timed),
        unit=f"over {unit} of training",
        show=show,
        show_x=lambda x: f"{show_number(x)} {unit}",
        whole_x=False,
    )


def _differences(
    study: Mapping[str, Any], curves: Mapping[str, Mapping[str, Points]]
) -> dict[str, dict[str, Points]]:
    """Arm minus reference in every seed they share, at the steps they share; paired arms alone."""
    reference = {seed: dict(points) for seed, points in curves.get(study["reference"], {}).items()}
    return {
        arm["name"]: {
            seed: [(step, value - reference[seed][step]) for step, value in points if step in reference[seed]]
            for seed, points in curves[arm["name"]].items()
            if seed in reference
        }
        for arm in study["arms"]
        if arm["paired"] and not arm["reference"]
    }


def _names(study: Mapping[str, Any], group: str) -> Iterable[str]:
    names: dict[str, None] = {}
    for arm in study["arms"]:
        for curves in arm["curves"].values():
            names |= dict.fromkeys(curves["train"].get(group, {}))
    return names


def _of_training(
    study: Mapping[str, Any], group: str, name: str, title: str, *, factor: float = 1.0, **options: Any
) -> BandChart | None:
    curves: dict[str, dict[str, Points]] = {}
    for arm in study["arms"]:
        for seed, each in arm["curves"].items():
            values = each["train"].get(group, {}).get(name)
            if values is not None:
                points = zip(each["train"]["step"], values, strict=True)
                curves.setdefault(arm["name"], {})[seed] = [
                    (float(step), factor * _number(value)) for step, value in points if value is not None
                ]
    return make_band_chart(title, _series(study, curves), **options)
