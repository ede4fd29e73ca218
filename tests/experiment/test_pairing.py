"""Within a seed every arm starts alike and sees the same samples, whatever else it draws; and this test can fail."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from atelier import randomness
from atelier.archs import SRVGGNetCompact, save_weights
from atelier.data.batch import Batch
from atelier.experiment.options import load_study
from atelier.experiment.plan import make_plan
from atelier.options.schema import RunOptions
from atelier.train.distributed import Ranks
from atelier.train.run import training_data
from atelier.train.trainer import Trainer
from studies import study_of, write_base

STEPS = 3
ONE = Ranks(0, 1, torch.device("cpu"))
ARMS: dict[str, Any] = {
    "none": {"distill.recipe": "classic-none@1"},
    "response": {"distill.recipe": "classic-response@1"},
    "feature": {"distill.recipe": "feature@1"},
    "random": {"distill.recipe": "feature@1", "distill.random_teacher": ["feature"]},
    "upcycle": {"distill.recipe": "upcycle@1"},
}


def runs_of(root: Path) -> dict[str, dict[int, RunOptions]]:
    torch.manual_seed(2)
    net = SRVGGNetCompact(num_feat=6, num_conv=2, upscale=2)
    options = net.options.model_dump(mode="json", exclude={"type"})
    save_weights(
        root / "teacher.pth", {"params": net.state_dict()}, {"arch": net.options.type, "options": options}
    )
    teacher = {"weights": str(root / "teacher.pth"), "quality_check": "off"}
    write_base(root, objective="distill", distill={"recipe": "classic-none@1", "teacher": teacher})
    plan = make_plan(load_study(study_of(root, arms=ARMS)))
    found: dict[str, dict[int, RunOptions]] = {}
    for run in plan.runs:
        found.setdefault(run.arm, {})[run.seed] = run.options
    return found


def seen_by(options: RunOptions) -> list[Tensor]:
    """The start weights, and the batches of the first steps while the arm trains on them."""
    data = training_data(options, ONE, quiet=True)
    try:
        trainer = Trainer(options, ONE, data=data.fingerprint)
        seen = [each.clone() for each in trainer.nets["g"].state_dict().values()]
        for batch in data.batches(1, STEPS):
            assert isinstance(batch, Batch)
            seen += [batch.lq.clone(), batch.gt.clone()]
            trainer.step(batch)
        return seen
    finally:
        data.close()


def alike(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def test_all_arms_of_a_seed_begin_alike_and_see_the_same(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    first = {name: seen_by(by_seed[0]) for name, by_seed in runs.items()}
    for name, seen in first.items():
        assert alike(seen, first["none"]), name
    # The other seed differs in everything: what is alike above is not constant.
    other = seen_by(runs["none"][1])
    assert not any(
        torch.equal(*pair) for pair in zip(first["none"], other, strict=True) if pair[0].numel() > 50
    )


def test_keys_that_count_draws_instead_of_naming_them_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one stream for everybody, the arm that draws tiles and their turns shifts all samples after them."""
    runs = runs_of(tmp_path)
    drawn = [0]

    def counted(seed: int, step: int, sample: int, stage: str, size: int) -> bytes:
        drawn[0] += 1
        return hashlib.blake2b(f"{seed}/{drawn[0]}".encode(), digest_size=size).digest()

    monkeypatch.setattr(randomness, "_digest", counted)
    seen = {}
    for name in ("none", "upcycle"):
        drawn[0] = 0
        seen[name] = seen_by(runs[name][0])
    assert not alike(seen["none"], seen["upcycle"])
    # It is the samples that differ: nothing else is drawn before the start weights.
    weights = len(seen["none"]) - 2 * STEPS
    assert alike(seen["none"][:weights], seen["upcycle"][:weights])
