"""What a run folder tells: its records, options, environment and sample pictures, however incomplete."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from atelier.errors import UserError
from atelier.evaluate.results import MetricMean, ValidationResult

_PARTS = ("metrics.jsonl", "options.yml", "environment.json", "visualization", "train.log", "models")


@dataclass(frozen=True)
class AlarmLine:
    """One alarm of a health detector, as recorded."""

    iteration: int
    detector: str
    message: str
    remedy: str


@dataclass
class RunRecord:
    """A run as it lies on disk.

    Attributes:
        folder: the run's folder.
        name: the run's name (from the options, else the folder's name).
        train: the ``train`` records, one an iteration, ascending.
        validations: set -> its results, ascending by iteration.
        baselines: set -> the baseline's result.
        caches: folder -> bytes of what the run's objective keeps on disk beside it (a teacher's stored answers).
        rows: set -> title -> measure -> mean, of the last table of coloured films; empty for pictures.
        alarms: what the health detectors saw, in the order of the file.
        ema: (set, iteration) -> whether averaged weights were measured.
        options_text: ``options.yml`` as written, None where it is missing.
        options: the same, parsed; empty where it cannot be.
        environment: ``environment.json``; empty where it is missing.
        missing: what could not be read or is not there, one sentence each.
    """

    folder: Path
    name: str
    train: list[dict[str, Any]] = field(default_factory=list)
    validations: dict[str, list[ValidationResult]] = field(default_factory=dict)
    baselines: dict[str, ValidationResult] = field(default_factory=dict)
    caches: dict[str, int] = field(default_factory=dict)
    rows: dict[str, dict[str, Mapping[str, MetricMean]]] = field(default_factory=dict)
    alarms: list[AlarmLine] = field(default_factory=list)
    ema: dict[tuple[str, int], bool] = field(default_factory=dict)
    options_text: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def last(self, name: str) -> ValidationResult:
        """The latest result of set ``name``."""
        return self.validations[name][-1]


def read_run(folder: Path) -> RunRecord:
    """Read ``experiments/NAME``; whatever is missing or torn is noted, not an error.

    Raises:
        UserError: ``folder`` is no folder of a run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a run, such as experiments/NAME")
    if not any((folder / part).exists() for part in _PARTS):
        raise UserError(f"{folder} holds no run: none of {', '.join(_PARTS)} is there")
    record = RunRecord(folder, folder.resolve().name)
    _read_options(record)
    _read_environment(record)
    _read_metrics(record)
    if not record.train:
        record.missing.append("No training lines are recorded, so there are no loss and speed curves.")
    if not record.validations:
        record.missing.append("No validation is recorded, so nothing can be said about quality.")
    for name in record.validations:
        if name not in record.baselines:
            record.missing.append(f"No baseline is recorded for set '{name}', so gains are not shown for it.")
    return record


def _read_options(record: RunRecord) -> None:
    text = _text(record.folder / "options.yml")
    if text is None:
        record.missing.append("options.yml is missing or cannot be read.")
        return
    record.options_text = text
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        record.missing.append("options.yml is no valid YAML; it is shown as it is.")
        return
    if isinstance(parsed, dict):
        record.options = parsed
        record.name = str(parsed.get("name") or record.name)


def _read_environment(record: RunRecord) -> None:
    text = _text(record.folder / "environment.json")
    try:
        parsed = json.loads(text) if text is not None else None
    except json.JSONDecodeError:
        parsed = None
    if isinstance(parsed, dict):
        record.environment = parsed
    else:
        record.missing.append("environment.json is missing or cannot be read.")


def _read_metrics(record: RunRecord) -> None:
    text = _text(record.folder / "metrics.jsonl")
    if text is None:
        record.missing.append("metrics.jsonl is missing or cannot be read.")
        return
    train: dict[int, dict[str, Any]] = {}
    validations: dict[str, dict[int, ValidationResult]] = {}
    unreadable = 0
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            kind = entry["kind"]
            if kind == "train":
                # A later line of the same iteration is from a resumed run and stands for what was continued.
                train[int(entry["iter"])] = entry
            elif kind == "validation":
                result = ValidationResult.from_json(entry)
                validations.setdefault(result.name, {})[result.iteration] = result
                if "ema" in entry:
                    record.ema[result.name, result.iteration] = bool(entry["ema"])
            elif kind == "rows":
                record.rows[str(entry["set"])] = {
                    title: ValidationResult.from_json(
                        {**entry, "kind": "validation", "metrics": means}
                    ).metrics
                    for title, means in entry["rows"].items()
                }
            elif kind == "baseline":
                result = ValidationResult.from_json(entry)
                record.baselines[result.name] = result
            elif kind == "caches":
                record.caches = {str(folder): int(size) for folder, size in entry["bytes"].items()}
            elif kind == "alarm":
                texts = (str(entry[key]) for key in ("detector", "message", "remedy"))
                record.alarms.append(AlarmLine(int(entry["iter"]), *texts))
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += 1
    if unreadable:
        lines = "1 unreadable line" if unreadable == 1 else f"{unreadable} unreadable lines"
        record.missing.append(f"metrics.jsonl: {lines} left out (torn while being written).")
    record.train = [train[key] for key in sorted(train)]
    record.validations = {
        name: [results[key] for key in sorted(results)] for name, results in validations.items()
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


@dataclass(frozen=True)
class SampleFiles:
    """The saved pictures of one validation image; ``restored`` is the latest, measured at ``iteration``."""

    restored: Path
    iteration: int
    others: Mapping[str, Path]


def find_samples(visualization: Path, image: str) -> SampleFiles | None:
    """What the folder ``visualization`` holds of ``image``, None when no restored picture is there."""
    relative = Path(image)
    if relative.is_absolute() or ".." in relative.parts or not relative.name:
        return None
    home = visualization / relative
    pattern = re.compile(re.escape(relative.name) + r"_(\d+)\.png")
    try:
        found = {int(match[1]): path for path in home.iterdir() if (match := pattern.fullmatch(path.name))}
    except OSError:
        return None
    if not found:
        return None
    kinds = {kind: home / f"{relative.name}_{kind}.png" for kind in ("lq", "bicubic", "gt")}
    iteration = max(found)
    return SampleFiles(found[iteration], iteration, {k: path for k, path in kinds.items() if path.is_file()})
