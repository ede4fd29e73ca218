"""Runs whose student begins as its teacher made small: what it begins as, what is told, what is refused, resuming."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import atelier.train.trainer as trainer_module
from archs.examples import save
from atelier.archs import RRDBNet, SRVGGNetCompact, load_network
from atelier.archs.swinir_options import SwinIROptions
from atelier.compress.solved import RULE
from atelier.data.batch import Batch
from atelier.errors import UserError
from atelier.options.read import load_run_options
from atelier.randomness import Streams
from atelier.train.distributed import Ranks
from atelier.train.preflight import _quality
from atelier.train.run import look_ahead_of, train
from atelier.train.trainer import Trainer
from support import small_run, two_ranks

VALIDATION = {"dataroot_gt": "bundled", "pictures": ["chelsea"], "middle": 48}
STUDENT = {"type": "SRVGGNetCompact", "num_feat": 5, "num_conv": 1}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of 8 features and 2 convolutions that has learned a little."""
    run = small_run(tmp_path_factory.mktemp("teacher"), train={"total_iter": 120})
    run["train"]["optim_g"]["lr"] = 4e-3
    run["datasets"].pop("val")
    run["logger"]["save_checkpoint_freq"] = 120
    return train(run, quiet=True).folder / "models" / "net_g_120.pth"


def run_of(root: Path, teacher: Path, **distill: Any) -> dict[str, Any]:
    run: dict[str, Any] = small_run(root, network_g=STUDENT)
    run["datasets"]["val"] = VALIDATION
    return run | {"distill": {"teacher": [{"weights": str(teacher), "quality_check": "off"}], **distill}}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The student's weights as each run had them before its first step."""
    seen: list[dict[str, Tensor]] = []
    step = Trainer.step

    def watched(self: Trainer, batch: Batch) -> None:
        if self.iteration == 0:
            seen.append({key: value.clone() for key, value in self.nets["g"].state_dict().items()})
            assert self.ema is None or all(
                torch.equal(value, seen[-1][key]) for key, value in self.ema.net.state_dict().items()
            )
        step(self, batch)

    monkeypatch.setattr(Trainer, "step", watched)
    return seen


def error(net: SRVGGNetCompact, other: torch.nn.Module) -> float:
    x = torch.from_numpy(np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32))
    with torch.no_grad():
        return float((net.eval()(x) - other.eval()(x)).square().mean())


def test_the_student_begins_as_its_teacher_made_small(
    teacher: Path, tmp_path: Path, begun: list[dict[str, Tensor]]
) -> None:
    """Nearer to the teacher than what the rules cut out, told in log and report; then trained without the teacher."""
    folder = train(run_of(tmp_path / "a", teacher), quiet=True).folder
    cut = run_of(tmp_path / "b", teacher, recipe="classic-none@1")
    cut["path"] |= {"pretrain_network_g": str(teacher), "load": "inherit"}
    train(cut, quiet=True)
    nets = [SRVGGNetCompact(upscale=2, num_feat=5, num_conv=1) for _ in begun]
    for net, state in zip(nets, begun, strict=True):
        net.load_state_dict(state)
    source = load_network(teacher).net
    assert error(nets[0], source) < 0.5 * error(nets[1], source)
    log = (folder / "train.log").read_text()
    assert f"start: distill.teacher[0] ({teacher}) made as small as network_g, {RULE}" in log
    inherited, random = map(
        float, re.findall(r"start loss on 4 samples: inherited (\S+), random (\S+)", log)[0]
    )
    assert inherited < random
    report = json.loads((folder / "models" / "load_report.json").read_text())
    assert report["path"] == str(teacher) and {each["rule"] for each in report["inherited"]} == {RULE}
    assert report["elements_inherited"] == sum(each.numel() for each in begun[0].values())


def test_the_start_is_the_same_at_every_beginning_and_depends_on_the_seed(
    teacher: Path, tmp_path: Path, begun: list[dict[str, Tensor]]
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(run_of(tmp_path / name, teacher) | {"manual_seed": seed}, quiet=True)
    assert all(torch.equal(value, begun[1][key]) for key, value in begun[0].items())
    assert not torch.equal(begun[0]["body.0.weight"], begun[2]["body.0.weight"])


def test_a_resumed_run_does_not_begin_again(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit the uninterrupted run, without the work of the start."""
    terms = {"response": {"weight": 0.5}}
    whole = train(run_of(tmp_path / "whole", teacher, start="teacher", terms=terms), quiet=True).folder
    halves = run_of(tmp_path / "halves", teacher, start="teacher", terms=terms)
    halves["train"] = {**halves["train"], "total_iter": 4}
    train(halves, quiet=True)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the start was made twice")

    monkeypatch.setattr(trainer_module, "start_from", never)
    with pytest.raises(AssertionError, match="made twice"):
        train(run_of(tmp_path / "anew", teacher), quiet=True)
    halves["train"]["total_iter"] = 8
    again = train(halves, auto_resume=True, quiet=True).folder
    files = [torch.load(each / "models" / "net_g_8.pth", weights_only=True) for each in (whole, again)]
    for entry in ("params", "params_ema"):
        assert all(torch.equal(value, files[1][entry][key]) for key, value in files[0][entry].items())


def test_another_start_is_another_past(teacher: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, teacher)
    run["train"]["total_iter"] = 4
    train(run, quiet=True)
    run["train"]["total_iter"] = 8
    run["distill"] |= {"recipe": "classic-none@1"}
    with pytest.raises(UserError, match=r"distill\.start: 'teacher' -> 'none'"):
        train(run, auto_resume=True, quiet=True)


def test_a_random_teacher_is_a_control_and_no_mistake(
    teacher: Path, tmp_path: Path, begun: list[dict[str, Tensor]]
) -> None:
    """Made small in the same way, of weights nobody learned: others for every seed, and told as such."""
    control = {"recipe": "apprentice@1", "random_teacher": ["start"]}
    folder = train(run_of(tmp_path / "a", teacher, **control), quiet=True).folder
    train(run_of(tmp_path / "b", teacher, **control) | {"manual_seed": 4}, quiet=True)
    train(run_of(tmp_path / "c", teacher), quiet=True)
    first = [state["body.0.weight"] for state in begun]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    log = (folder / "train.log").read_text()
    assert f"start: an untrained twin of distill.teacher[0] ({teacher}) made as small" in log
    assert "(a control: nothing was learned)" in log


def test_equal_size_is_the_teacher_bit_for_bit(
    teacher: Path, tmp_path: Path, begun: list[dict[str, Tensor]]
) -> None:
    run = run_of(tmp_path, teacher)
    run["network_g"] = {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 2}
    log = (train(run, quiet=True).folder / "train.log").read_text()
    state = load_network(teacher).net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in begun[0].items())
    assert "made as small as network_g, as it is" in log


@pytest.mark.parametrize(("start", "refused"), [("none", True), ("teacher", False)])
def test_a_teacher_need_not_be_better_than_its_own_copy(
    start: str, refused: bool, teacher: Path, tmp_path: Path
) -> None:
    """The student as it starts has 31 dB, the teacher 30.5, bicubic 30: no fault where the one made the other."""
    terms: dict[str, Any] = {"response": {}}
    run = load_run_options(run_of(tmp_path, teacher, start=start, terms=terms))
    trainer = Trainer(run, Ranks(0, 1, torch.device("cpu")))
    (guide,) = trainer.objective.guides()

    class Measured:
        def compare(self, *_: Any, **__: Any) -> tuple[Any, dict[str, float]]:
            metric = SimpleNamespace(protocol="PSNR", higher_is_better=True)
            return metric, {"guide": 30.5, "student": 31.0, "bicubic": 30.0}

    _, failure = _quality(guide, trainer.nets["g"], Measured(), quiet=True)  # type: ignore[arg-type]
    assert (failure is not None) == refused


def test_swinir_begins_by_the_rules(tmp_path: Path) -> None:
    size = {"upscale": 2, "embed_dim": 12, "num_heads": (2, 2), "window_size": 4, "mlp_ratio": 2.0}
    size |= {"upsampler": "pixelshuffledirect"}
    torch.manual_seed(0)
    deep = save(SwinIROptions(**size, depths=(2, 2)).build(), tmp_path / "deep.pth")
    # Nobody has learned these weights, so that they may be no better than others: as a control they need not be.
    run = run_of(tmp_path, deep, recipe="apprentice@1", random_teacher=["start"])
    run["network_g"] = {"type": "SwinIR", **size, "depths": [2], "num_heads": [2]}
    run["train"]["total_iter"] = 1
    log = (train(run, quiet=True).folder / "train.log").read_text()
    assert "made as small as network_g, as it is" in log
    run["network_g"]["embed_dim"] = 8
    lines = look_ahead_of(run, quiet=True)
    assert any(line.endswith("made as small as network_g, by the rules of path.inherit") for line in lines)


def test_preflight_tells_the_start_and_writes_nothing(teacher: Path, tmp_path: Path) -> None:
    lines = look_ahead_of(run_of(tmp_path, teacher), quiet=True)
    assert any(line.startswith("start: distill.teacher[0]") for line in lines)
    assert any(line.startswith("start loss on 4 samples") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_made_small_is_one_message(teacher: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = save(RRDBNet(num_feat=8, num_block=1, num_grow_ch=4, scale=2), tmp_path / "blocks.pth")
    with pytest.raises(
        UserError,
        match=r"^distill\.start: distill\.teacher\[0\] \(.*blocks\.pth\) is a RRDBNet, network_g a SRVGGNetCompact; "
        r".*SwinIR or SRVGGNetCompact\. distill\.start=none begins at random",
    ):
        train(run_of(tmp_path, blocks), quiet=True)
    big = save(SRVGGNetCompact(upscale=4, num_feat=8, num_conv=2), tmp_path / "x4.pth")
    with pytest.raises(UserError, match=r"x4\.pth is a x4 network .*; the run is x2"):
        train(run_of(tmp_path, big), quiet=True)
    bad = SRVGGNetCompact(upscale=2, num_feat=8, num_conv=2)
    for parameter in bad.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    with pytest.raises(UserError, match=r"no better than a random start.*distill\.start=none begins"):
        train(run_of(tmp_path, save(bad, tmp_path / "bad.pth")), quiet=True)
    twice = run_of(tmp_path, teacher)
    twice["path"] |= {"pretrain_network_g": str(teacher)}
    with pytest.raises(UserError, match=r"distill\.start and path\.pretrain_network_g both say"):
        load_run_options(twice)
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_every_rank_begins_as_the_first_one(teacher: Path, tmp_path: Path) -> None:
    """Each rank solves on its own samples; pictures are validated by turns, so their order must not matter."""
    values = []
    for name, pictures in (("a", ["chelsea", "camera"]), ("b", ["camera", "chelsea"])):
        options = run_of(tmp_path / name, teacher) | {"val": {"val_freq": 2}}
        options["train"] |= {"total_iter": 2, "ema_decay": 0.99}
        options["datasets"]["val"] = VALIDATION | {"pictures": pictures, "convert_channels": True}
        path = tmp_path / f"{name}.yml"
        path.write_text(json.dumps(options))
        codes, output = two_ranks(path)
        assert codes == [0, 0], output
        records = (tmp_path / name / "small" / "metrics.jsonl").read_text().splitlines()
        last = next(each for each in map(json.loads, reversed(records)) if each["kind"] == "validation")
        values.append({picture: each["psnr"] for picture, each in last["images"].items()})
    assert values[0] == values[1] and len(values[0]) == 2


# -------------------------------------------------------------------- pairing


def watched_runs(
    root: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[dict[str, Tensor], list[Tensor]]]:
    """Start weights and the inputs of every step, of an arm without a teacher and of one that draws for upcycling."""
    found = {}
    step = Trainer.step
    for recipe in ("classic-none@1", "upcycle@1"):
        start: dict[str, Tensor] = {}
        inputs: list[Tensor] = []

        def watched(
            self: Trainer, batch: Batch, start: dict[str, Tensor] = start, inputs: list[Tensor] = inputs
        ) -> None:
            if self.iteration == 0:
                start.update({key: value.clone() for key, value in self.nets["g"].state_dict().items()})
            inputs.append(batch.lq.clone())
            step(self, batch)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "step", watched)
            train(run_of(root / recipe, teacher, recipe=recipe), quiet=True)
        found[recipe] = (start, inputs)
    return found


def test_an_arm_that_draws_for_upcycling_is_paired_with_one_that_does_not(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same start, same samples at every step; with one generator for everybody that would not be so."""
    (start, inputs), (others, theirs) = watched_runs(tmp_path / "keyed", teacher, monkeypatch).values()
    assert start.keys() == others.keys() and len(inputs) == len(theirs) == 8
    assert all(torch.equal(value, others[key]) for key, value in start.items())
    assert all(torch.equal(a, b) for a, b in zip(inputs, theirs, strict=True))

    def broken(arm: Path) -> dict[str, tuple[dict[str, Tensor], list[Tensor]]]:
        generators: dict[int, np.random.Generator] = {}

        def shared(self: Streams, stage: str) -> np.random.Generator:
            # Keyed by the seed alone: who draws more moves everyone else. A new run begins anew.
            if stage == "epoch order":
                generators.clear()
            return generators.setdefault(self.seed, np.random.default_rng(self.seed))

        with monkeypatch.context() as patched:
            patched.setattr(Streams, "__call__", shared)
            return watched_runs(arm, teacher, monkeypatch)

    (_, inputs), (_, theirs) = broken(tmp_path / "shared").values()
    assert not all(torch.equal(a, b) for a, b in zip(inputs, theirs, strict=True))
