"""Success criteria: a plain list of limits, judged against what was measured, with the reason where it was not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from atelier.errors import UserError, did_you_mean

#: Every measure a criterion may name: its unit and decimals.
MEASURES: dict[str, tuple[str, int]] = {
    "psnr": ("dB", 2),
    "psnr_y": ("dB", 2),
    "ssim": ("", 4),
    "ssim_y": ("", 4),
    "lpips": ("", 4),
    "colour_shift": ("levels", 2),
    "parameters": ("", 0),
    "macs": ("", 0),
    "file_mb": ("MB", 2),
    "memory_mb": ("MB", 1),
    "latency_ms": ("ms", 1),
    "latency_ratio": ("×", 2),
    "alarms": ("", 0),
    "device_ms": ("ms", 1),
}

Measured = Mapping[str, float]
State = Literal["pass", "fail", "not measurable"]


class Criterion(BaseModel):
    """One line of a criteria file.

    Attributes:
        name: what is asked, for the table.
        measure: one of :data:`MEASURES`.
        set: judged only where the gt folder's path holds this word.
        at_least, at_most, about: the limit; one of them. With ``relative_to: original`` it is added to the
            original's value.
        within_percent: how far ``about`` reaches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    measure: str
    set: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    about: float | None = None
    within_percent: float | None = None
    relative_to: Literal["original"] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Criterion:
        if self.measure not in MEASURES:
            known = ", ".join(MEASURES)
            raise ValueError(
                f"unknown measure '{self.measure}'{did_you_mean(self.measure, MEASURES)}; known: {known}"
            )
        if sum(limit is not None for limit in (self.at_least, self.at_most, self.about)) != 1:
            raise ValueError("give exactly one of at_least, at_most, about")
        if (self.about is None) != (self.within_percent is None):
            raise ValueError("about and within_percent belong together")
        if self.about is not None and self.relative_to is not None:
            raise ValueError("relative_to works with at_least and at_most only")
        return self

    def limit(self, original: float | None) -> float:
        """The limit in the measure's unit; ``original`` is the original model's value."""
        chosen = next(each for each in (self.at_least, self.at_most, self.about) if each is not None)
        return chosen + (original or 0.0) if self.relative_to is not None else chosen

    def holds(self, value: float, original: float | None) -> bool:
        """Whether ``value`` is within the limit; never for a value that is no number."""
        limit = self.limit(original)
        if self.at_least is not None:
            return value >= limit
        if self.at_most is not None:
            return value <= limit
        return abs(value - limit) <= abs(limit) * (self.within_percent or 0) / 100

    def required(self, original: float | None) -> str:
        """The limit in words: ``at least 31.20 dB (the original's 33.20 − 2.00)``."""
        if self.relative_to is not None and original is None:
            shift = next(each for each in (self.at_least, self.at_most) if each is not None)
            word = "at least" if self.at_least is not None else "at most"
            return f"{word} the original's {_signed(shift, self.measure)}"
        text = show(self.measure, self.limit(original))
        if self.about is not None:
            return f"{text} ± {self.within_percent:g} %"
        word = "at least" if self.at_least is not None else "at most"
        if self.relative_to is None or original is None:
            return f"{word} {text}"
        shift = self.limit(original) - original
        return f"{word} {text} (the original's {show(self.measure, original)} {_signed(shift, self.measure)})"


@dataclass(frozen=True)
class Judgement:
    """One criterion judged.

    Attributes:
        name: the criterion.
        required: its limit in words.
        value: what the judged model has; empty where it was not measured.
        state: pass, fail or not measurable.
        others: what the other columns have: (label, value, whether it would pass too).
        note: why it is not measurable, or what to know about the criterion.
    """

    name: str
    required: str
    value: str
    state: State
    others: list[tuple[str, str, bool]] = field(default_factory=list)
    note: str = ""


def show(measure: str, value: float) -> str:
    """A value with its unit."""
    unit, digits = MEASURES[measure]
    if not math.isfinite(value):
        text = "∞" if value > 0 else ("−∞" if value < 0 else "not a number")
    else:
        text = f"{value:,.{digits}f}".replace("-", "−")
    return f"{text} {unit}".rstrip()


def _signed(shift: float, measure: str) -> str:
    return ("− " if shift < 0 else "+ ") + show(measure, abs(shift))


def read_criteria(path: Path | None = None) -> list[Criterion]:
    """The criteria of a YAML file (a list under ``criteria:``); None: those of the source plan, shipped beside this.

    Raises:
        UserError: the file cannot be read or a line of it is wrong, naming file and criterion.
    """
    source = path or Path(__file__).with_name("criteria.yml")
    entries = _read_yaml(source).get("criteria")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{source}: expected a list of criteria under 'criteria:'")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(Criterion.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            reason = first["msg"].removeprefix("Value error, ")
            raise UserError(
                f"{source}, criterion {number}{': ' + key if key else ''}: {reason}; given {first['input']!r}"
                if key
                else f"{source}, criterion {number}: {reason}"
            ) from error
    return found


def read_figures(path: Path) -> dict[str, float]:
    """Figures measured elsewhere (a YAML mapping of measure to number), for example ``device_ms`` on a phone.

    Raises:
        UserError: the file cannot be read, or a key is no measure, or a value no number.
    """
    figures: dict[str, float] = {}
    for key, value in _read_yaml(path).items():
        if key not in MEASURES:
            raise UserError(f"{path}: unknown measure '{key}'{did_you_mean(str(key), MEASURES)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"{path}: {key} must be a number, given {value!r}")
        figures[key] = float(value)
    return figures


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{path}: expected a mapping")
    return parsed


def judge_criteria(
    criteria: list[Criterion],
    values: Mapping[str, Measured],
    *,
    judged: str,
    original: str | None,
    where: str,
    why_not: Mapping[str, str],
) -> list[Judgement]:
    """Every criterion judged.

    Args:
        criteria: what is asked.
        values: label -> measure -> value, of models and of plain upsampling.
        judged: label of the model that is judged.
        original: label of the model it is compared with; None where there is only one.
        where: the gt folder's path, searched for a criterion's ``set``.
        why_not: measure -> why it was not measured.
    """
    return [_judge(each, values, judged, original, where, why_not) for each in criteria]


def _judge(
    criterion: Criterion,
    values: Mapping[str, Measured],
    judged: str,
    original: str | None,
    where: str,
    why_not: Mapping[str, str],
) -> Judgement:
    measure = criterion.measure
    reference = values[original].get(measure) if original is not None else None
    value = values[judged].get(measure)
    reason = None
    if criterion.set is not None and criterion.set.casefold() not in where.casefold():
        reason = f"these pictures are not {criterion.set}"
    elif value is None:
        reason = why_not.get(measure, "not measured")
    elif criterion.relative_to is not None and reference is None:
        reason = "no original model is given to compare with"
        if original is not None:
            reason = f"{original} has no value to compare with"
    if reason is not None or value is None:
        return Judgement(criterion.name, criterion.required(None), "", "not measurable", note=reason or "")
    passed = criterion.holds(value, reference)
    others = [
        (label, show(measure, each[measure]), criterion.holds(each[measure], reference))
        for label, each in values.items()
        if label != judged and measure in each
    ]
    note = []
    absolute = criterion.relative_to is None and criterion.about is None
    if absolute and reference is not None and not criterion.holds(reference, reference):
        note.append(f"stricter than the source: {original} itself does not pass")
    plain = [label for label, _, passes in others if label in ("nearest", "bicubic") and passes]
    if plain:
        verb = "passes" if len(plain) == 1 else "pass"
        note.append(f"{' and '.join(plain)} upsampling {verb} too, so this says little")
    state: State = "pass" if passed else "fail"
    return Judgement(
        criterion.name, criterion.required(reference), show(measure, value), state, others, "; ".join(note)
    )
