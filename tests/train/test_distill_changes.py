"""Resuming with another teacher, mapping, projector or weight: what is still there is kept, the rest is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.archs import SRVGGNetCompact, save_weights
from atelier.options.read import load_run_options
from atelier.train.checkpoint import CheckpointStore
from atelier.train.distributed import Ranks
from atelier.train.folder import RunFolder
from atelier.train.run import train
from atelier.train.trainer import Trainer
from support import small_run

ONE = Ranks(0, 1, torch.device("cpu"))
TAPS = {"student": ["body.0", "body.2"], "teacher": ["body.0", "body.2", "body.4"]}
FEATURE = {"weight": {"grad_ratio": 0.2, "every": 2}}
RESPONSE = {"weight": 0.5}
BASE: dict[str, Any] = {
    "mapping": [[1, 1], [3, 2]],
    "taps": TAPS,
    "terms": {"response": RESPONSE, "feature": FEATURE},
}


def teacher_file(folder: Path, seed: int, num_feat: int) -> Path:
    torch.manual_seed(seed)
    net = SRVGGNetCompact(num_feat=num_feat, num_conv=3, upscale=2)
    metadata = {"arch": net.options.type, "options": net.options.model_dump(mode="json", exclude={"type"})}
    path = folder / f"teacher_{seed}_{num_feat}.pth"
    save_weights(path, {"params": net.state_dict()}, metadata)
    return path


def run_of(root: Path, teacher: Path, **changes: Any) -> dict[str, Any]:
    run = small_run(root)
    run["datasets"] = {"train": run["datasets"]["train"]}
    run["train"]["total_iter"] = 4
    teachers = [{"weights": str(teacher), "quality_check": "off"}]
    return run | {"distill": {"teacher": teachers, **BASE, **changes}}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps, whose teacher is the first one below."""
    root = tmp_path_factory.mktemp("taught")
    return train(run_of(root, teacher_file(root, 1, 10)), quiet=True).folder


class Resumed:
    """A trainer with changed options that has loaded the checkpoint of step 4."""

    def __init__(self, folder: Path, root: Path, teacher: Path | None = None, **changes: Any) -> None:
        before = folder.parent / "teacher_1_10.pth"
        options = run_of(root, teacher or before, allow_change=True, **changes)
        self.trainer = Trainer(load_run_options(options), ONE)
        checkpoint = CheckpointStore(RunFolder(folder)).newest()
        assert checkpoint is not None and checkpoint.iteration == 4
        self.stored = checkpoint.load_state()
        self.fresh = {key: value.clone() for key, value in self._terms().items()}
        self.restored = ", ".join(self.trainer.load(self.stored, checkpoint))
        self.terms = self._terms()
        self.then: dict[str, Tensor] = self.stored["objective"]["terms"]
        self.said = "\n".join(self.trainer.objective.remarks())

    def _terms(self) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.trainer.objective.state_dict().get("terms", {})
        return terms

    def moments(self) -> dict[str, Tensor]:
        """First moments by parameter; those that begin at zero are not there."""
        optimizer = self.trainer.optimizers["g"]
        return {
            name: optimizer.state[each]["exp_avg"]
            for name, each in self.trainer.learners["g"].named_parameters()
            if each in optimizer.state
        }

    def moments_then(self) -> dict[str, Tensor]:
        names = self.stored["parameters"]["g"]
        entries = self.stored["optimizers"][0]["state"]
        return {
            name if name.startswith("terms.") else f"network.{name}": entries[place]["exp_avg"]
            for place, name in enumerate(names)
        }

    def check_student_kept(self) -> None:
        then, now = self.moments_then(), self.moments()
        kept = [name for name in then if name.startswith("network.")]
        assert kept
        for name in kept:
            found = now.get(name, now.get(name.removeprefix("network.")))
            assert found is not None and torch.equal(found, then[name])

    def check_a_step_works(self) -> None:
        class Batch:
            lq = torch.rand(2, 3, 16, 16)
            gt = torch.rand(2, 3, 32, 32)
            numbers = (0, 1)
            samples = ("a", "b")

            def split(self, count: int) -> list[Any]:
                return [self]

        self.trainer.step(Batch())  # type: ignore[arg-type]
        assert self.trainer.iteration == 5


def equal(one: dict[str, Tensor], other: dict[str, Tensor], keys: list[str], then: list[str]) -> bool:
    assert keys
    return all(torch.equal(one[key], other[former]) for key, former in zip(keys, then, strict=True))


def keys_of(state: dict[str, Tensor], part: str) -> list[str]:
    return [key for key in state if part in key]


def test_without_a_change_everything_is_kept_and_nothing_said(taught: Path, tmp_path: Path) -> None:
    again = Resumed(taught, tmp_path)
    assert list(again.terms) == list(again.then)
    assert equal(again.terms, again.then, list(again.then), list(again.then))
    assert not equal(again.terms, again.fresh, list(again.then), list(again.then))
    assert again.said == "" and again.trainer.objective.carried() is None
    again.check_student_kept()


def test_another_teacher_of_the_same_width_is_calibrated_afresh(taught: Path, tmp_path: Path) -> None:
    """The projectors fit it still; the old teacher's mean and variance would not."""
    again = Resumed(taught, tmp_path, teacher_file(tmp_path, 2, 10))
    statistics, projectors = keys_of(again.then, "normalisers"), keys_of(again.then, "projectors")
    assert equal(again.terms, again.fresh, statistics, statistics)
    assert [int(again.then[key]) for key in statistics if key.endswith("batches")] == [4, 4]
    assert equal(again.terms, again.then, projectors, projectors)
    assert again.said == "distill: begins afresh: the teacher's statistics (pairs 1, 2)"
    again.check_student_kept()
    again.check_a_step_works()
    assert {int(each) for key, each in again.terms.items() if key.endswith("batches")} == {1}


def test_another_teacher_of_another_width_begins_with_projectors_that_fit(
    taught: Path, tmp_path: Path
) -> None:
    again = Resumed(taught, tmp_path, teacher_file(tmp_path, 2, 14))
    assert equal(again.terms, again.fresh, list(again.fresh), list(again.fresh))
    assert again.said == (
        "distill: begins afresh: projectors (pairs 1, 2), the teacher's statistics (pairs 1, 2)"
    )
    again.check_student_kept()
    assert all("terms." not in name for name in again.moments())
    assert "the others begin at zero" in again.restored
    again.check_a_step_works()


def test_a_term_more_takes_nothing_from_the_others(taught: Path, tmp_path: Path) -> None:
    terms = {"response": RESPONSE, "feature": FEATURE, "attention": {}}
    again = Resumed(taught, tmp_path, terms=terms)
    assert equal(again.terms, again.then, list(again.then), list(again.then))
    balance = again.trainer.objective.state_dict()["balance"]["log"]
    assert torch.equal(balance["feature"], again.stored["objective"]["balance"]["log"]["feature"])
    assert again.said == "distill: begins afresh: the weight of attention"
    again.check_student_kept()
    again.check_a_step_works()
    assert bool(again.trainer.objective.state_dict()["balance"]["log"]["attention"].isfinite())


def test_a_pair_keeps_its_projector_and_moments_at_another_place(taught: Path, tmp_path: Path) -> None:
    """By position two of the three would be another pair's."""
    again = Resumed(taught, tmp_path, mapping=[[3, 2], [2, 1], [1, 1]])
    moments, before = again.moments(), again.moments_then()
    for now, then in ((0, 1), (2, 0)):
        for part in ("projectors", "normalisers"):
            mine, theirs = (
                keys_of(state, f"{part}.{place}.")
                for state, place in ((again.terms, now), (again.then, then))
            )
            assert equal(again.terms, again.then, mine, theirs)
        for name in ("weight", "bias"):
            here, there = (f"terms.feature.projectors.{place}.{name}" for place in (now, then))
            assert torch.equal(moments[here], before[there])
    assert equal(again.terms, again.fresh, *[keys_of(again.fresh, ".1.")] * 2)
    assert "terms.feature.projectors.1.weight" not in moments
    assert again.said == "distill: begins afresh: projectors (pair 2), the teacher's statistics (pair 2)"
    again.check_student_kept()
    again.check_a_step_works()


def test_a_pair_that_goes_is_named(taught: Path, tmp_path: Path) -> None:
    again = Resumed(taught, tmp_path, mapping=[[3, 2]])
    mine, theirs = keys_of(again.terms, "projectors.0."), keys_of(again.then, "projectors.1.")
    assert equal(again.terms, again.then, mine, theirs)
    assert again.said == (
        "distill: left out of the checkpoint: projectors (pair 1), the teacher's statistics (pair 1)"
    )
    again.check_student_kept()
    again.check_a_step_works()


def test_a_tap_elsewhere_is_another_pair(taught: Path, tmp_path: Path) -> None:
    """The numbers and shapes are the same, the features are not."""
    again = Resumed(taught, tmp_path, taps={**TAPS, "teacher": ["body.0", "body.2", "body.3"]})
    assert equal(again.terms, again.then, *[keys_of(again.then, ".0.")] * 2)
    assert equal(again.terms, again.fresh, *[keys_of(again.fresh, ".1.")] * 2)
    again.check_student_kept()


@pytest.mark.parametrize(
    "terms", [{"response": RESPONSE}, {"response": {"weight": {"grad_ratio": 0.1}}}, {}], ids=str
)
def test_without_the_feature_term_the_student_goes_on(taught: Path, tmp_path: Path, terms: Any) -> None:
    changes: dict[str, Any] = {"terms": terms} if terms else {"recipe": "classic-none@1", "terms": {}}
    again = Resumed(taught, tmp_path, **changes)
    again.check_student_kept()
    assert "left out" in again.said
    again.check_a_step_works()


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"projector": {"type": "mlp"}}, "distill: begins afresh: projectors (pairs 1, 2)"),
        ({"projector": {"type": "conv3"}}, "distill: begins afresh: projectors (pairs 1, 2)"),
        ({"projector": {"bias": False}}, "distill: begins afresh: projectors (pairs 1, 2)"),
        (
            {"target_norm": "instance"},
            "distill: left out of the checkpoint: the teacher's statistics (pairs 1, 2)",
        ),
        ({"weight": {"loss_share": 0.1}}, "distill: begins afresh: the weight of feature"),
    ],
    ids=str,
)
def test_an_option_of_a_term_is_no_traceback(
    taught: Path, tmp_path: Path, feature: dict[str, Any], words: str
) -> None:
    again = Resumed(taught, tmp_path, terms={"response": RESPONSE, "feature": {**FEATURE, **feature}})
    assert again.said == words
    again.check_student_kept()
    projectors = keys_of(again.terms, "projectors")
    if "projector" in feature:  # whole or not at all: no bias of the old one under new weights
        assert equal(again.terms, again.fresh, projectors, projectors)
    else:
        assert equal(again.terms, again.then, projectors, projectors)
    again.check_a_step_works()


def test_projector_lr_is_the_projectors_rate_and_may_change(taught: Path, tmp_path: Path) -> None:
    """A factor so small that they stand still while the student learns; both keep their moments."""
    again = Resumed(taught, tmp_path, projector_lr=1e-9)
    assert [group["rate"] for group in again.trainer.optimizers["g"].param_groups] == [1.0, 1e-9]
    again.check_student_kept()
    moments = again.moments()
    before = {name: each for name, each in again.moments_then().items() if name.startswith("terms.")}
    assert len(before) == 4 and all(torch.equal(moments[name], each) for name, each in before.items())
    student = {key: value.clone() for key, value in again.trainer.nets["g"].state_dict().items()}
    again.check_a_step_works()
    for key in keys_of(again.then, "projectors"):
        torch.testing.assert_close(again.terms[key], again.then[key], rtol=0, atol=1e-8)
    moved = again.trainer.nets["g"].state_dict()
    assert all(not torch.equal(moved[key], value) for key, value in student.items())


def test_a_projector_of_the_other_side_begins_afresh(tmp_path: Path) -> None:
    """Between taps of equal width both sides' projectors have one shape and opposite meanings."""
    file = teacher_file(tmp_path, 1, 8)
    feature = {"target_norm": "none", "projector": {"side": "student"}}
    folder = train(run_of(tmp_path, file, terms={"feature": feature}), quiet=True).folder
    other = {"target_norm": "none", "projector": {"side": "teacher"}}
    again = Resumed(folder, tmp_path, file, terms={"feature": other})
    assert equal(again.terms, again.fresh, list(again.fresh), list(again.fresh))
    assert again.said == "distill: begins afresh: projectors (pairs 1, 2)"


def test_the_log_names_what_could_not_be_kept(taught: Path, tmp_path: Path) -> None:
    """The whole command: two more steps with one pair less, the sentence in the log, and a report of that one pair."""
    shutil.copytree(taught.parent, tmp_path / "copy")
    run = run_of(tmp_path / "copy", tmp_path / "copy/teacher_1_10.pth", mapping=[[3, 2]], allow_change=True)
    run["train"]["total_iter"] = 6
    assert train(run, auto_resume=True, quiet=True).finished
    log = (tmp_path / "copy/small/train.log").read_text()
    assert "left out of the checkpoint: projectors (pair 1)" in log
    assert "Adam, moments of 13 of 13 parameters)" in log
    with np.load(tmp_path / "copy/small/feature_maps.npz") as maps:
        assert "teacher_0" in maps and "teacher_1" not in maps
