"""From the study file to the options of every run: overrides, steps, schedules, and what must be alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.experiment.options import StudyOptions
from atelier.options.read import load_run_options
from atelier.options.schema import RunOptions
from atelier.options.write import OptionChange, as_in_files, diff_options

#: Keys of a run that the study decides; an arm that sets them is refused.
_STUDY_DECIDES = {
    "train.total_iter": "equal budgets are what makes arms comparable; the study's budget sets the steps",
    "manual_seed": "the study's seeds set it; seeds: [...] in the arm gives it seeds of its own",
    "name": "the study names its runs",
    "path.experiments_root": "the base's path.experiments_root holds the whole study",
    "path.resume_state": "a run of a study begins at its beginning",
}
#: What may differ in datasets.train without any sample changing.
_NO_DATA = ("name", "num_worker_per_gpu", "prefetch", "pin_memory")


def load_arm(study: StudyOptions, arm: str) -> RunOptions:
    """The options of an arm as its file and overrides say, before seed, budget and folder are put in.

    Raises:
        UserError: naming the arm: an unknown key, a wrong value, or a key that the study decides.
    """
    options = study.arms[arm]
    overrides = list(_arguments(options.overrides))
    for key, _ in overrides:
        for decided, why in _STUDY_DECIDES.items():
            if key == decided or decided.startswith(f"{key}.") or key.startswith(f"{decided}."):
                raise UserError(f"arm '{arm}' sets {key}: {why}")
    try:
        return load_run_options(
            options.file or study.base, [f"{key}={json.dumps(value)}" for key, value in overrides]
        )
    except UserError as error:
        text = str(error).replace("command line: ", "")
        raise UserError("\n".join(f"arm '{arm}': {line}" for line in text.splitlines())) from None


def declared_keys(study: StudyOptions, arm: str) -> list[str]:
    """The dotted keys that an arm overrides, sections under the names they have in files."""
    keys = [key for key, _ in _arguments(study.arms[arm].overrides)]
    return [
        f"distill{key.removeprefix('objective')}" if key.startswith("objective.") else key for key in keys
    ]


def _arguments(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{train: {optim_g: {lr: 1}}}`` as ``train.optim_g.lr`` = 1; a component (with ``type``) is replaced whole."""
    for key, value in overrides.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and "type" not in value:
            yield from _arguments(value, f"{path}.")
        else:
            yield path, value


def with_budget(options: RunOptions, steps: int) -> RunOptions:
    """The run cut or stretched to ``steps``, its schedules in proportion.

    Scaled are the scheduler's milestones and periods, the warm-up, and iterations in the weights of distillation
    terms (percentages follow by themselves). How often is validated, saved and printed stays.
    """
    before = options.train.total_iter
    if steps == before:
        return options
    data = options.model_dump(mode="json")
    train = data["train"]
    train["total_iter"] = steps
    for key in ("milestones", "periods"):
        if key in train["scheduler"]:
            train["scheduler"][key] = _scaled(
                train["scheduler"][key], steps / before, rising=key == "milestones"
            )
    if train["warmup_iter"] > 0:
        train["warmup_iter"] = max(1, round(train["warmup_iter"] * steps / before))
    for term in (data["objective"].get("terms") or {}).values():
        weight = (term or {}).get("weight") or {}
        for key in ("start", "ramp", "end"):
            if isinstance(weight.get(key), int):
                weight[key] = round(weight[key] * steps / before)
    return load_run_options(data)


def _scaled(places: list[int], ratio: float, *, rising: bool) -> list[int]:
    scaled = [max(1, round(place * ratio)) for place in places]
    if rising and any(later <= earlier for earlier, later in pairwise(scaled)):
        raise UserError(
            f"train.scheduler.milestones {places} fall together in a run {ratio:g} times as long; give the budget "
            "more steps, or the base fewer milestones"
        )
    return scaled


def run_options(options: RunOptions, *, folder: Path, seed: int) -> RunOptions:
    """The options of one run of an arm, in ``folder/seed_K``."""
    path = options.path.model_copy(update={"experiments_root": folder})
    return options.model_copy(update={"name": f"seed_{seed}", "manual_seed": seed, "path": path})


def digest_of(options: RunOptions) -> str:
    """32 hexadecimal digits for everything that decides a run's result; its place on disk is not part of it."""
    data = options.model_dump(mode="json")
    data.pop("name")
    data["path"].pop("experiments_root")
    for key in _NO_DATA:
        data["datasets"]["train"].pop(key, None)
    text = json.dumps(data, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest().hex()


def changes_between(reference: RunOptions, arm: RunOptions) -> list[OptionChange]:
    """What an arm does otherwise than the reference, names and places left out; keys as they stand in files."""
    objectives = {reference.objective.type, arm.objective.type}
    return [
        as_in_files(change, arm.objective.type) if len(objectives) == 1 else change
        for change in diff_options(reference.model_dump(mode="json"), arm.model_dump(mode="json"))
        if change.path not in {("name",), ("manual_seed",), ("path", "experiments_root")}
    ]


def data_of(options: RunOptions) -> dict[str, Any]:
    """What decides the training samples: pictures, crops, batch, degradation, channels."""
    train = options.datasets.train.model_dump(mode="json", exclude=set(_NO_DATA))
    return {
        "scale": options.scale,
        "in_channels": options.network_g.in_channels,
        "degradation": options.effective_degradation.model_dump(mode="json"),
        "datasets": {"train": train},
    }


def validation_of(options: RunOptions) -> dict[str, Any]:
    """What validation measures on and how; arms must share it, for it chooses checkpoints."""
    return {
        "datasets": {key: each.model_dump(mode="json") for key, each in options.datasets.validation.items()},
        "val": {
            "metrics": {key: each.model_dump(mode="json") for key, each in options.val.metrics.items()},
            "tile": options.val.tile,
            "padding": options.val.padding,
        },
    }
