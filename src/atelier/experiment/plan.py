"""What a study is going to do: arms × seeds, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.experiment.arms import (
    changes_between,
    data_of,
    declared_keys,
    digest_of,
    load_arm,
    run_options,
    validation_of,
    with_budget,
)
from atelier.experiment.options import STUDY_FOLDER, StudyOptions
from atelier.objectives.distill.options import DistillOptions
from atelier.options.schema import RunOptions
from atelier.options.write import OptionChange, diff_options, render_changes

#: Terms that look inside the teacher; a study of one needs a control that tells knowledge from regularisation.
_FEATURE_LIKE = ("feature", "affinity", "attention")


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: as in the study file.
        options: of a run without seed and folder, budget put in.
        seeds: one run each.
        paired: shares its seeds with the reference.
        changes: what it does otherwise than the reference.
        same_start: network and start weights are the reference's, so that runs of a seed begin bit-equal.
    """

    name: str
    options: RunOptions
    seeds: tuple[int, ...]
    paired: bool
    changes: tuple[OptionChange, ...] = ()
    same_start: bool = True

    @property
    def steps(self) -> int:
        """Optimiser steps of each of its runs."""
        return self.options.train.total_iter


@dataclass(frozen=True)
class Run:
    """One training run of the study."""

    arm: str
    seed: int
    options: RunOptions
    digest: str

    @property
    def key(self) -> str:
        """``arm/seed_0``."""
        return f"{self.arm}/seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """An ordinary run's folder."""
        return self.options.run_dir


@dataclass(frozen=True)
class Plan:
    """The whole study, checked.

    Attributes:
        study: the study file.
        root: ``experiments/NAME``.
        arms: the arms in the file's order.
        runs: seed by seed, so that an interrupted study is balanced.
        warnings: what weakens the conclusions, one sentence each.
    """

    study: StudyOptions
    root: Path
    arms: Mapping[str, Arm]
    runs: tuple[Run, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def reference(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arms[self.study.reference_arm]

    @property
    def own(self) -> Path:
        """The folder of the study's own files."""
        return self.root / STUDY_FOLDER

    def run_of(self, arm: str, seed: int) -> Run:
        """One run by its names."""
        return next(run for run in self.runs if run.arm == arm and run.seed == seed)


def make_plan(study: StudyOptions, steps: Mapping[str, int] | None = None) -> Plan:
    """The plan of a study.

    Args:
        study: the checked study file.
        steps: arm -> steps where the budget had to be timed or counted; None: the same steps for all.

    Raises:
        UserError: an arm that cannot be run, whose data or validation are not the reference's, or whose steps were set.
    """
    loaded = {name: load_arm(study, name) for name in study.arms}
    reference = loaded[study.reference_arm]
    total = study.budget.steps or reference.train.total_iter
    warnings: list[str] = []
    for name, options in loaded.items():
        _refuse_other_data(study, name, options, reference)
        _refuse_other_measure(study, name, options, reference)
    _check_names(study, reference)
    root = reference.path.experiments_root / study.name
    scaled = {
        name: with_budget(options, steps[name] if steps is not None else total)
        for name, options in loaded.items()
    }
    arms = {name: _arm(study, name, options, scaled[study.reference_arm]) for name, options in scaled.items()}
    longest = max(len(arm.seeds) for arm in arms.values())
    runs = tuple(
        _run(arm, arm.seeds[place], root)
        for place in range(longest)
        for arm in arms.values()
        if place < len(arm.seeds)
    )
    warnings += _of_whole_files(study, arms)
    warnings += _of_the_reference(study, arms)
    warnings += _of_controls(study, arms)
    if reference.train.total_iter != total and steps is None:
        warnings.append(
            f"the budget is {total:,} steps, the base's {reference.train.total_iter:,}: milestones, periods and "
            "warm-up are scaled in proportion"
        )
    return Plan(study, root, arms, runs, tuple(warnings))


def _run(arm: Arm, seed: int, root: Path) -> Run:
    options = run_options(arm.options, folder=root / arm.name, seed=seed)
    return Run(arm.name, seed, options, digest_of(options))


def _arm(study: StudyOptions, name: str, options: RunOptions, reference: RunOptions) -> Arm:
    changes = changes_between(reference, options)
    start = ("network_g", "path", "weight_init")
    return Arm(
        name,
        options,
        tuple(study.seeds_of(name)),
        study.is_paired(name, study.reference_arm),
        tuple(changes),
        _heritage(options) == _heritage(reference)
        and not any(part in start for change in changes for part in change.path[:2]),
    )


def _heritage(options: RunOptions) -> tuple[Path, bool] | None:
    """The teacher that the student begins as, and whether as its untrained twin; None for a start at random."""
    objective = options.objective
    if not isinstance(objective, DistillOptions) or objective.begins_as is None:
        return None
    return objective.teacher[0].weights, "start" in objective.random_teacher


def _refuse_other_data(study: StudyOptions, name: str, options: RunOptions, reference: RunOptions) -> None:
    changes = diff_options(data_of(reference), data_of(options))
    if not changes or study.arms[name].other_data:
        return
    listed = "\n".join(f"  {line}" for line in render_changes(changes).splitlines())
    raise UserError(
        f"arm '{name}' trains on other data than '{study.reference_arm}', so nothing could be said about the rest of "
        f"its change:\n{listed}\nmake them equal, or say other_data: true in the arm where that is what is studied"
    )


def _refuse_other_measure(study: StudyOptions, name: str, options: RunOptions, reference: RunOptions) -> None:
    changes = diff_options(validation_of(reference), validation_of(options))
    if changes:
        listed = "\n".join(f"  {line}" for line in render_changes(changes).splitlines())
        raise UserError(
            f"arm '{name}' is measured otherwise than '{study.reference_arm}'; all arms share validation:\n{listed}"
        )
    if options.scale != reference.scale:
        raise UserError(f"arm '{name}' is x{options.scale}, '{study.reference_arm}' is x{reference.scale}")
    wants_raw = study.primary.weights == "raw" and options.train.ema_decay > 0
    if wants_raw and options.checkpoint_format == "safetensors":
        raise UserError(
            f"primary.weights raw: checkpoint_format safetensors keeps the averaged weights alone; use pth "
            f"(arm '{name}')"
        )
    if study.primary.checkpoint == "best" and not options.datasets.validation:
        raise UserError("primary.checkpoint best needs a validation set (datasets.val) in the base")


def _check_names(study: StudyOptions, reference: RunOptions) -> None:
    """Results of validation and test stand in one table, told apart by the set's name."""
    labels = {each.name for each in reference.datasets.validation.values()} | set(
        reference.datasets.validation
    )
    twice = sorted(labels & set(study.test))
    if twice:
        raise UserError(
            f"test.{twice[0]} has the name of a validation set; validation chooses and test judges, so name it "
            "otherwise"
        )


def _of_whole_files(study: StudyOptions, arms: Mapping[str, Arm]) -> list[str]:
    """An arm out of a whole file may differ in more than was meant."""
    notes = []
    for name, arm in arms.items():
        if study.arms[name].file is None or not arm.changes:
            continue
        listed = "; ".join(change.in_full() for change in arm.changes)
        notes.append(
            f"arm '{name}' comes from {study.arms[name].file} and differs from '{study.reference_arm}' in "
            f"{len(arm.changes)} options: {listed}"
        )
    return notes


def _of_the_reference(study: StudyOptions, arms: Mapping[str, Arm]) -> list[str]:
    """What the reference alone declares is a difference of every other arm that does not say the same."""
    notes = []
    sets = declared_keys(study, study.reference_arm)
    for name, arm in arms.items():
        if name == study.reference_arm or study.arms[name].file is not None:
            continue
        declared = declared_keys(study, name)
        silent = [key for key in sets if not any(_overlap(key, own) for own in declared)]
        more = [
            change
            for change in arm.changes
            if any(_overlap(".".join(map(str, change.path)), key) for key in silent)
        ]
        if more:
            listed = "; ".join(change.in_full() for change in more)
            notes.append(
                f"arm '{name}' differs from '{study.reference_arm}' in more than it declares, because "
                f"'{study.reference_arm}' sets {', '.join(silent)}: {listed}"
            )
    return notes


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one lies inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _of_controls(study: StudyOptions, arms: Mapping[str, Arm]) -> list[str]:
    """What a reader will ask that this study cannot answer."""
    terms = {name: _terms(arm.options) for name, arm in arms.items()}
    looks_inside = [name for name, found in terms.items() if any(term in found for term in _FEATURE_LIKE)]
    randoms = [name for name, arm in arms.items() if getattr(arm.options.objective, "random_terms", ())]
    heritages = {name: _heritage(arm.options) for name, arm in arms.items()}
    begun = [name for name, heritage in heritages.items() if heritage is not None]
    controls = [name for name, heritage in heritages.items() if heritage is not None and heritage[1]]
    notes = []
    if looks_inside and set(looks_inside) == set(randoms):
        looks_inside = []
    if looks_inside and not any(set(found) == {"response"} for found in terms.values()):
        notes.append(
            f"no arm has the response term alone, so what features add in {', '.join(looks_inside)} is not known"
        )
    if looks_inside and not randoms:
        notes.append(
            f"no arm has a random teacher (distill.random_teacher), so a gain of {', '.join(looks_inside)} may come "
            "from the extra loss and not from the teacher's knowledge"
        )
    if begun and not controls:
        notes.append(
            f"no arm begins as a random teacher made small (distill.random_teacher: [start]), so a gain of "
            f"{', '.join(begun)} may come from how the start was made and not from what the teacher learned"
        )
    again = any(arm.seeds != arms[study.reference_arm].seeds and not arm.changes for arm in arms.values())
    if not again:
        free = max(seed for arm in arms.values() for seed in arm.seeds) + 1
        seeds = list(range(free, free + len(arms[study.reference_arm].seeds)))
        notes.append(
            f"no arm repeats '{study.reference_arm}' with other seeds, which shows how far chance alone goes; for "
            f"example again: {{seeds: {seeds}}}"
            + ("" if study.arms[study.reference_arm].overrides == {} else ", with the reference's overrides")
        )
    if min(len(arm.seeds) for arm in arms.values()) < 2:
        notes.append("one seed allows no claim: it cannot tell a gain from chance")
    return notes


def _terms(options: RunOptions) -> dict[str, Any]:
    terms = getattr(options.objective, "terms", None)
    return dict(terms.active) if terms is not None else {}
