"""What a measurement yields: values per picture, their means, the protocol behind each number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from atelier.errors import UserError

Pixels = npt.NDArray[Any]

#: Measures of colour of which neither more nor less is better: they are to be like the truth's.
LIKE_THE_TRUTH = frozenset({"colourfulness", "colourfulness_share", "cdc"})


class Described(Protocol):
    """How a number is to be read."""

    @property
    def protocol(self) -> str:
        """How the number is computed, for example ``PSNR-Y (BT.601, crop 4)``."""

    @property
    def higher_is_better(self) -> bool:
        """False for distances."""


class MetricLike(Described, Protocol):
    """What is needed of a metric: ``metric(restored, gt) -> float`` on ``H×W×C`` pixels, and how to read it."""

    def __call__(self, restored: Any, gt: Any, /) -> float:
        """The value for one picture."""


@dataclass(frozen=True)
class MetricMean:
    """The mean of one metric over a set.

    Attributes:
        value: float64 mean over the pictures with a finite value, in the order of the set; if there are none, the
            first picture's value (``inf`` for a PSNR where every picture equals its gt).
        protocol: how the metric is computed.
        higher_is_better: False for distances.
        excluded: pictures left out of the mean because their value is infinite or not a number.
    """

    value: float
    protocol: str
    higher_is_better: bool
    excluded: int = 0


@dataclass(frozen=True)
class ValidationResult:
    """The measurement of one network (or of a baseline) on one set.

    Attributes:
        name: the set.
        images: picture -> metric -> value, in the order of the set.
        metrics: metric -> mean over the set, in the order of the options.
        iteration: of the network; 0 for a baseline.
        method: None for a network, ``bicubic`` or ``input`` for a baseline.
    """

    name: str
    images: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, MetricMean] = field(default_factory=dict)
    iteration: int = 0
    method: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        images: Mapping[str, Mapping[str, float]],
        metrics: Mapping[str, Described],
        *,
        iteration: int = 0,
        method: str | None = None,
    ) -> ValidationResult:
        """Compute the means of ``images`` for every metric of ``metrics``."""
        means = {
            key: _mean([values[key] for values in images.values()], metric) for key, metric in metrics.items()
        }
        return cls(name, images, means, iteration, method)

    def to_json(self, *, ema: bool | None = None) -> dict[str, Any]:
        """The record of ``metrics.jsonl`` (ARCHITECTURE, "Files of a run").

        Non-finite values become the strings ``inf``, ``-inf`` or ``nan``, since JSON has no such numbers. ``ema``
        is written for networks only: whether the averaged weights were measured.
        """
        record: dict[str, Any] = {
            "kind": "validation" if self.method is None else "baseline",
            "iter": self.iteration,
            "set": self.name,
            "images": {
                image: {key: _json_number(value) for key, value in values.items()}
                for image, values in self.images.items()
            },
            "metrics": {
                key: {
                    "value": _json_number(mean.value),
                    "protocol": mean.protocol,
                    "higher_is_better": mean.higher_is_better,
                }
                | ({"excluded": mean.excluded} if mean.excluded else {})
                for key, mean in self.metrics.items()
            },
        }
        if self.method is not None:
            record["method"] = self.method
        elif ema is not None:
            record["ema"] = ema
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ValidationResult:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: the record has another shape.
        """
        return cls(
            name=str(record["set"]),
            images={
                str(image): {str(key): float(value) for key, value in values.items()}
                for image, values in record.get("images", {}).items()
            },
            metrics={
                str(key): MetricMean(
                    float(mean["value"]),
                    str(mean["protocol"]),
                    bool(mean["higher_is_better"]),
                    int(mean.get("excluded", 0)),
                )
                for key, mean in record["metrics"].items()
            },
            iteration=int(record["iter"]),
            method=str(record["method"]) if record["kind"] == "baseline" else None,
        )


def _mean(values: Sequence[float], metric: Described) -> MetricMean:
    finite = [value for value in values if math.isfinite(value)]
    # math.fsum rounds once, so the mean depends on nothing but the values.
    value = math.fsum(finite) / len(finite) if finite else (values[0] if values else math.nan)
    return MetricMean(float(value), metric.protocol, metric.higher_is_better, len(values) - len(finite))


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def format_value(value: float, protocol: str) -> str:
    """A number as the field prints it: PSNR with two decimals and ``dB``, other metrics with four decimals."""
    if math.isnan(value):
        return "not a number"
    unit = " dB" if is_decibel(protocol) else ""
    if math.isinf(value):
        return ("∞" if value > 0 else "−∞") + unit
    return f"{value:.{decimals(protocol)}f}{unit}".replace("-", "−")


def format_change(change: float, protocol: str) -> str:
    """A difference with its sign, in the metric's decimals and unit."""
    if not math.isfinite(change):
        return "–"
    text = f"{change:+.{decimals(protocol)}f}".replace("-", "−")
    return text + (" dB" if is_decibel(protocol) else "")


def shows_change(change: float, protocol: str) -> bool:
    """Whether the decimals of :func:`format_change` show that there is one."""
    return any(digit in "123456789" for digit in format_change(change, protocol))


def is_decibel(protocol: str) -> bool:
    """Whether values of this protocol are in dB."""
    return protocol.upper().startswith("PSNR")


def decimals(protocol: str) -> int:
    """How many decimals mean something: 2 for dB, 4 otherwise."""
    return 2 if is_decibel(protocol) else 4


def as_dtype(pixels: Pixels, dtype: npt.DTypeLike) -> Pixels:
    """``H×W×C`` pixels of one type as another: clamped to the value range, rounded half to even for integers.

    Integer types span their whole range, floating ones [0, 1].

    Raises:
        ValueError: a pixel is not finite.
    """
    target = np.dtype(dtype)
    if pixels.dtype == target and target.kind == "u":
        return pixels
    if pixels.dtype.kind == "u":
        unit = pixels / np.iinfo(pixels.dtype).max
    else:
        # In the array's own precision, as ``images.from_tensor`` does it: what is measured here is, pixel for
        # pixel, what restoring writes to a file.
        if not np.isfinite(pixels).all():
            raise ValueError(
                f"{np.count_nonzero(~np.isfinite(pixels))} of {pixels.size} values are not finite"
            )
        unit = np.clip(pixels, 0, 1)
    if target.kind == "u":
        unit = np.rint(unit * unit.dtype.type(np.iinfo(target).max))
    return np.ascontiguousarray(unit.astype(target))


def check_comparable(results: Mapping[str, ValidationResult]) -> list[str]:
    """The metrics that all ``results`` share.

    Raises:
        UserError: the pictures differ, or a metric was computed by different protocols, so the numbers must not
            stand side by side.
    """
    every = list(results.values())
    for label, result in results.items():
        if set(result.images) != set(every[0].images):
            odd = ", ".join(sorted(set(result.images) ^ set(every[0].images))[:5])
            raise UserError(f"'{label}' was measured on other pictures than '{next(iter(results))}' ({odd})")
    shared = [
        key for key in (every[0].metrics if every else {}) if all(key in each.metrics for each in every)
    ]
    for key in shared:
        protocols = {label: result.metrics[key].protocol for label, result in results.items()}
        if len(set(protocols.values())) > 1:
            listed = ", ".join(f"{label}: {protocol}" for label, protocol in protocols.items())
            raise UserError(
                f"metric '{key}' was computed by different protocols and cannot be compared ({listed})"
            )
    return shared
