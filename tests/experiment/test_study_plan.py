"""Arms × seeds as runs: pairing, budgets, schedules, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from atelier.data.loader import TrainingData
from atelier.errors import UserError
from atelier.experiment import budget
from atelier.experiment.arms import with_budget
from atelier.experiment.options import load_study
from atelier.experiment.overlap import check_overlap
from atelier.experiment.plan import Plan, Run, make_plan
from atelier.images import read_image, write_image
from atelier.options.read import load_run_options
from atelier.train.distributed import Ranks
from atelier.train.trainer import Trainer
from studies import study_of, write_base


def plan_of(root: Path, **changes: Any) -> Plan:
    return make_plan(load_study(study_of(root, **changes)))


def refused(root: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan_of(root, **changes)
    return str(caught.value)


def test_runs_are_ordinary_runs_seed_by_seed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert [run.key for run in plan.runs] == ["none/seed_0", "low/seed_0", "none/seed_1", "low/seed_1"]
    run = plan.run_of("low", 1)
    assert run.folder == tmp_path / "experiments" / "lr" / "low" / "seed_1"
    assert run.options.manual_seed == 1
    assert run.options.train.optim_g.lr == 1e-5
    assert [str(change) for change in plan.arms["low"].changes] == ["train.optim_g.lr: 0.001 -> 1e-05"]


def test_equal_arms_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, arms={"none": {}, "same": None, "low": {"train.optim_g.lr": 1e-5}})
    digests = {run.key: run.digest for run in plan.runs}
    assert digests["none/seed_0"] == digests["same/seed_0"]
    assert len(set(digests.values())) == 4


def test_nested_and_dotted_overrides_mean_the_same(tmp_path: Path) -> None:
    nested = {"train": {"optim_g": {"lr": 1e-5}}}
    plan = plan_of(tmp_path, arms={"none": {}, "low": {"train.optim_g.lr": 1e-5}, "nested": nested})
    assert plan.run_of("low", 0).digest == plan.run_of("nested", 0).digest


def start_and_batch(run: Run) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Weights before step 1, and the first two steps' pictures."""
    options = run.options
    ranks = Ranks(0, 1, torch.device("cpu"))
    train = options.datasets.train
    data = TrainingData(
        train,
        scale=options.scale,
        degradation=options.effective_degradation.build(options.scale),
        seed=options.manual_seed,
        global_batch=train.batch_size_per_gpu,
        rank=0,
        world=1,
        in_channels=options.network_g.in_channels,
        device=ranks.device,
        cache=options.cache,
        quiet=True,
    )
    try:
        batches = [tensor.clone() for batch in data.batches(1, 2) for tensor in (batch.lq, batch.gt)]
    finally:
        data.close()
    return Trainer(options, ranks).nets["g"].state_dict(), batches


def test_arms_of_a_seed_begin_with_the_same_weights_and_see_the_same_samples(tmp_path: Path) -> None:
    arms = {
        "none": {},
        "low": {"train.optim_g.lr": 1e-5},
        "loss": {"train.pixel_opt": {"type": "CharbonnierLoss"}},
    }
    plan = plan_of(tmp_path, arms=arms)
    weights, batches = start_and_batch(plan.run_of("none", 0))
    for arm in ("low", "loss"):
        others, pictures = start_and_batch(plan.run_of(arm, 0))
        assert all(torch.equal(weights[key], others[key]) for key in weights)
        assert all(torch.equal(a, b) for a, b in zip(batches, pictures, strict=True))
    # Teeth: another seed shares neither.
    others, pictures = start_and_batch(plan.run_of("none", 1))
    assert not torch.equal(weights["body.0.weight"], others["body.0.weight"])
    assert not torch.equal(batches[0], pictures[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"train.total_iter": 9}, "the study's budget sets the steps"),
        ({"train": {"total_iter": 9}}, "the study's budget sets the steps"),
        ({"manual_seed": 9}, "seeds: [...] in the arm"),
        ({"train.optim_g.lrr": 1}, "did you mean 'lr'"),
        ({"train.optim_g.lr": "fast"}, "arm 'odd': train.optim_g.lr: given 'fast'"),
        ({"datasets.train.pictures": ["coffee"]}, "other data than 'none'"),
        ({"datasets.train.gt_size": 48}, "datasets.train.gt_size: 32 -> 48"),
        ({"val.padding": "official"}, "measured otherwise"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(
    tmp_path: Path, override: dict[str, Any], message: str
) -> None:
    text = refused(tmp_path, arms={"none": {}, "odd": override})
    assert "arm 'odd'" in text
    assert message in text


def test_other_data_on_purpose(tmp_path: Path) -> None:
    odd = {"datasets.train.pictures": ["coffee"], "other_data": True}
    assert "odd" in plan_of(tmp_path, arms={"none": {}, "odd": odd}).arms


def test_two_folders_differing_by_one_picture_are_other_data(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    for name, count in (("a", 3), ("b", 2)):
        for index in range(count):
            write_image(tmp_path / name / f"{index}.png", picture)
    train = {
        "dataroot_gt": str(tmp_path / "a"),
        "gt_size": 32,
        "batch_size_per_gpu": 4,
        "num_worker_per_gpu": 0,
    }
    write_base(tmp_path, datasets={"train": train})
    arms = {"none": {}, "odd": {"datasets.train.dataroot_gt": str(tmp_path / "b")}}
    assert "other data than 'none'" in refused(tmp_path, arms=arms)


def test_an_arm_from_a_whole_file_tells_what_else_differs(tmp_path: Path) -> None:
    other = yaml.safe_load(write_base(tmp_path).read_text())
    other["train"]["ema_decay"] = 0.5
    (tmp_path / "other.yml").write_text(yaml.safe_dump(other))
    plan = plan_of(tmp_path, arms={"none": {}, "file": {"file": str(tmp_path / "other.yml")}})
    assert any("train.ema_decay: 0.9 -> 0.5" in warning for warning in plan.warnings)


def test_what_the_reference_alone_declares_is_told_with_the_difference(tmp_path: Path) -> None:
    arms = {"none": {"train.ema_decay": 0.5}, "low": {"train.optim_g.lr": 1e-5}}
    (told,) = (each for each in plan_of(tmp_path, arms=arms).warnings if "more than it declares" in each)
    assert told == (
        "arm 'low' differs from 'none' in more than it declares, because 'none' sets train.ema_decay: "
        "train.ema_decay: 0.5 -> 0.9"
    )
    arms["low"]["train"] = {"ema_decay": 0.9}
    assert not any("more than it declares" in each for each in plan_of(tmp_path, arms=arms).warnings)
    same = {"none": {"train.ema_decay": 0.9}, "low": {"train.optim_g.lr": 1e-5}}  # as the base has it
    assert not any("more than it declares" in each for each in plan_of(tmp_path, arms=same).warnings)


def test_changes_have_the_keys_of_files_in_full(tmp_path: Path) -> None:
    feature = {"distill": {"recipe": "feature@1", "teacher": "t.pth"}}
    response = {"distill": {"recipe": "classic-response@1", "teacher": "t.pth"}}
    plan = plan_of(tmp_path, arms={"response": response, "feature": feature})
    listed = [change.in_full() for change in plan.arms["feature"].changes]
    assert "distill.recipe: 'classic-response@1' -> 'feature@1'" in listed
    (term,) = (line for line in listed if line.startswith("distill.terms.feature"))
    assert "target_norm: 'calibrated'" in term and "grad_ratio" not in term and not term.endswith("...")


def test_a_test_set_cannot_have_a_validation_sets_name(tmp_path: Path) -> None:
    assert "name it otherwise" in refused(tmp_path, test={"val": {"gt": "bundled", "pictures": ["chelsea"]}})


def test_other_architectures_are_shown_as_such(tmp_path: Path) -> None:
    arms = {"none": {}, "wide": {"network_g.num_feat": 12}, "low": {"train.optim_g.lr": 1e-5}}
    plan = plan_of(tmp_path, arms=arms)
    assert [plan.arms[name].same_start for name in arms] == [True, False, True]


def test_one_seed_and_missing_controls_are_told(tmp_path: Path) -> None:
    warnings = "\n".join(plan_of(tmp_path, seeds=[4]).warnings)
    assert "one seed allows no claim" in warnings
    assert "again: {seeds: [5]}" in warnings
    arms = {"none": {}, "again": {"seeds": [5, 6]}}
    assert not any("again" in warning for warning in plan_of(tmp_path, arms=arms).warnings)


def test_the_budget_scales_schedules(tmp_path: Path) -> None:
    train = {
        "total_iter": 100,
        "warmup_iter": 10,
        "scheduler": {"type": "MultiStepLR", "milestones": [50, 80], "gamma": 0.5},
    }
    plan = plan_of_base(tmp_path, train, budget={"steps": 40})
    options = plan.run_of("none", 0).options.train
    assert (options.total_iter, options.warmup_iter) == (40, 4)
    assert options.scheduler.model_dump()["milestones"] == [20, 32]
    assert any("scaled in proportion" in warning for warning in plan.warnings)
    with pytest.raises(UserError, match="fall together"):
        plan_of_base(tmp_path, train, budget={"steps": 1})


def plan_of_base(root: Path, train: dict[str, Any], **changes: Any) -> Plan:
    write_base(root, train=train)
    return plan_of(root, **changes)


def test_a_budget_of_the_bases_steps_changes_nothing(tmp_path: Path) -> None:
    options = load_run_options(write_base(tmp_path))
    assert with_budget(options, options.train.total_iter) is options


def test_equal_time_gives_the_cheap_arm_more_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(
        tmp_path,
        arms={"none": {}, "same": {}, "dear": {"train.pixel_opt": {"type": "CharbonnierLoss"}}},
        budget={"steps": 100, "equal": "wall_time"},
    )
    timed: list[str] = []

    def seconds(options: Any, **_: Any) -> float:
        timed.append(options.train.all_losses[0].type)
        return 0.03 if timed[-1] == "CharbonnierLoss" else 0.01

    monkeypatch.setattr(budget, "seconds_per_step", seconds)
    steps, costs = budget.steps_of_arms(plan, lambda line: None, threads=1)
    assert steps == {"none": 300, "same": 300, "dear": 100}
    assert costs["dear"] == 0.03
    assert len(timed) == 2  # equal arms share one measurement
    fixed = make_plan(plan.study, steps)
    assert [arm.steps for arm in fixed.arms.values()] == [300, 300, 100]


def test_wall_time_is_what_it_buys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "seconds_per_step", lambda options, **_: 0.02)
    plan = plan_of(tmp_path, budget={"wall_time": "2m"})
    assert budget.steps_of_arms(plan, lambda line: None, threads=1)[0] == {"none": 6000, "low": 6000}


def test_equal_compute_counts_multiply_adds(tmp_path: Path) -> None:
    arms = {"none": {}, "wide": {"network_g.num_feat": 16}}
    plan = plan_of(tmp_path, arms=arms, budget={"steps": 100, "equal": "compute"})
    steps, costs = budget.steps_of_arms(plan, lambda line: None, threads=1)

    def macs(features: int) -> int:
        """Compact x2 with 2 inner convolutions, three passes over 16 x 16 pixels."""
        return 3 * 16 * 16 * 9 * (3 * features + 2 * features**2 + features * 12)

    assert costs == {"none": macs(8), "wide": macs(16)}
    assert steps == {"none": round(100 * macs(16) / macs(8)), "wide": 100}


def test_test_pictures_that_were_trained_on_are_found_under_any_name(tmp_path: Path) -> None:
    from atelier.data.bundled import bundled_path

    rocket = read_image(bundled_path("rocket")).pixels
    write_image(tmp_path / "test" / "renamed.png", rocket)
    plan = plan_of(tmp_path, test={"mine": {"gt": str(tmp_path / "test")}})
    with pytest.raises(UserError, match=r"test\.mine: .*renamed\.png is .*rocket\.jpg of datasets\.train"):
        check_overlap(plan)
    changed = rocket.copy()
    changed[0, 0, 0] ^= 1
    write_image(tmp_path / "test" / "renamed.png", changed)
    assert set(check_overlap(plan)) == {"datasets.train", "datasets.val", "test.mine"}


def test_options_of_a_run_survive_their_file(tmp_path: Path) -> None:
    from atelier.experiment.arms import digest_of
    from atelier.options.write import save_run_options

    run = plan_of(tmp_path).run_of("low", 1)
    save_run_options(run.options, tmp_path / "run.yml")
    again = load_run_options(tmp_path / "run.yml")
    assert json.dumps(again.model_dump(mode="json")) == json.dumps(run.options.model_dump(mode="json"))
    assert digest_of(again) == run.digest


def test_an_arm_that_begins_as_its_teacher_is_shown_and_wants_its_control(tmp_path: Path) -> None:
    begun = {"distill": {"recipe": "apprentice@1", "teacher": "t.pth"}}
    plan = plan_of(tmp_path, arms={"none": {}, "begun": begun})
    assert not plan.arms["begun"].same_start
    assert any("no arm begins as a random teacher made small" in note for note in plan.warnings)
    control = {"distill": begun["distill"] | {"random_teacher": ["start"]}}
    plan = plan_of(tmp_path, arms={"none": {}, "begun": begun, "control": control})
    assert not any("random teacher" in note for note in plan.warnings)
