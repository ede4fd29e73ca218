"""The studies that ship: its plan, and (slow) what it finds where the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier.experiment import run
from atelier.experiment.options import load_study
from atelier.experiment.overlap import check_overlap
from atelier.experiment.plan import Plan, make_plan
from atelier.options.read import load_run_options
from support import REPOSITORY

STUDY = REPOSITORY / "options" / "experiments" / "quick_cpu.yml"
FRESH = REPOSITORY / "options" / "experiments" / "apprentice_cpu.yml"
TEACHER = REPOSITORY / "options" / "distill" / "compact_teacher_x2.yml"


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(REPOSITORY)
    return make_plan(load_study(STUDY))


def test_the_base_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_study(STUDY).base.samefile(REPOSITORY / "options" / "distill" / "compact_student_x2.yml")


def test_the_study_needs_no_excuse(plan: Plan) -> None:
    assert plan.warnings == ()
    assert len(plan.runs) == 60
    assert {arm.steps for arm in plan.arms.values()} == {1000}


def test_the_shipped_apprentice_is_the_studys_arm(plan: Plan) -> None:
    alone = load_run_options(REPOSITORY / "options" / "distill" / "compact_apprentice_x2.yml")
    arm = plan.arms["apprentice"].options
    assert alone.objective == arm.objective and alone.datasets == arm.datasets
    assert (alone.network_g, alone.train) == (arm.network_g, arm.train)


def test_no_picture_serves_twice(plan: Plan) -> None:
    assert set(check_overlap(plan)) == {"datasets.train", "datasets.val", "test.photographs"}


def test_the_teacher_saw_what_the_student_sees_and_is_where_the_student_looks(plan: Plan) -> None:
    teacher, student = load_run_options(TEACHER), plan.reference.options
    assert teacher.datasets == student.datasets
    place = teacher.run_dir / "models" / f"net_g_{teacher.train.total_iter}.pth"
    assert [Path(each["weights"]) for each in student.objective.model_dump(mode="json")["teacher"]] == [place]


def test_the_student_is_less_than_a_tenth_of_its_teacher(plan: Plan) -> None:
    def count(options: object) -> int:
        return sum(each.numel() for each in options.build().parameters())  # type: ignore[attr-defined]

    teacher, student = count(load_run_options(TEACHER).network_g), count(plan.reference.options.network_g)
    assert (teacher, student) == (78_636, 5_616)


def test_arms_with_a_known_answer_differ_as_declared(plan: Plan) -> None:
    assert plan.arms["same"].changes == () and plan.arms["same"].seeds == plan.reference.seeds
    assert plan.arms["null"].changes == () and not set(plan.arms["null"].seeds) & set(plan.reference.seeds)
    assert [change.path for change in plan.arms["crippled"].changes] == [("train", "optim_g", "lr")]
    random = {change.path for change in plan.arms["feature_random"].changes}
    assert random - {change.path for change in plan.arms["feature"].changes} == {
        ("distill", "random_teacher")
    }


def test_arms_that_begin_as_their_teacher_are_shown_as_such(plan: Plan) -> None:
    other = {name for name, arm in plan.arms.items() if not arm.same_start}
    assert other == {"apprentice", "apprentice_random"}


def test_the_confirming_study_asks_the_same_of_fresh_seeds(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks, data, steps, measure and shared arms are those of the first study; no seed is."""
    monkeypatch.chdir(REPOSITORY)
    fresh = make_plan(load_study(FRESH))
    assert fresh.warnings == ()
    assert {*fresh.study.test} == {*plan.study.test} and fresh.study.test == plan.study.test
    assert (fresh.study.primary, fresh.study.min_effect) == (plan.study.primary, plan.study.min_effect)
    for name in set(fresh.arms) & set(plan.arms):
        one, other = (each.arms[name].options.model_dump(mode="json") for each in (fresh, plan))
        assert one == other
    assert {"none", "apprentice", "apprentice_random", "null"} == set(fresh.arms) & set(plan.arms)

    def seeds(of: Plan) -> set[int]:
        return {seed for arm in of.arms.values() for seed in arm.seeds}

    assert not seeds(fresh) & seeds(plan)


@pytest.mark.slow
def test_known_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atelier.train.run import train

    monkeypatch.chdir(tmp_path)
    train(load_run_options(TEACHER))
    result = run(STUDY, jobs=2)
    assert result.complete and result.study is not None
    assert result.verdict("same") == "identical"
    assert result.verdict("null") == "not distinguishable"
    assert result.verdict("crippled") == "worse"
    contrasts = {(each["arm"], each["against"]): each["verdict"] for each in result.study["contrasts"]}
    assert result.verdict("apprentice") == "better"
    assert contrasts["apprentice", "apprentice_random"] == "better"
    assert contrasts["feature", "feature_random"] == contrasts["none", "crippled"] == "better"
