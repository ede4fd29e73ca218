"""Whole distilled runs: exact resume, a teacher that stays, an export that is the student, and every bad input."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import atelier.objectives.distill.assembling as assembling
import atelier.train.run as run_module
from atelier.archs import SRVGGNetCompact, load_network, save_weights
from atelier.errors import UserError
from atelier.objectives.distill.objective import DistillObjective
from atelier.objectives.distill.teacher import Teacher, fingerprint
from atelier.options.read import load_run_options
from atelier.train.distributed import Ranks
from atelier.train.run import train, training_data
from atelier.train.starting import first_samples
from atelier.train.trainer import Trainer
from support import small_run

ONE = Ranks(0, 1, torch.device("cpu"))
#: Statistics over the first batches, a balance that is measured every other step, tiles as further inputs.
EVERYTHING = {
    "mapping": [[1, 1], [3, 2]],
    "taps": {"student": ["body.0", "body.2"], "teacher": ["body.0", "body.2", "body.4"]},
    "terms": {
        "response": {"weight": {"value": 0.5, "ramp": 6}},
        "feature": {"weight": {"grad_ratio": 0.2, "every": 2}},
        "upcycle": {"weight": 0.2},
    },
}


def teacher_file(folder: Path, seed: int = 1, **options: Any) -> Path:
    torch.manual_seed(seed)
    net = SRVGGNetCompact(**{"num_feat": 10, "num_conv": 3, "upscale": 2} | options)
    metadata = {"arch": net.options.type, "options": net.options.model_dump(mode="json", exclude={"type"})}
    path = folder / f"teacher_{seed}.pth"
    save_weights(path, {"params": net.state_dict()}, metadata)
    return path


def distilled(root: Path, teacher: Path | None = None, **distill: Any) -> dict[str, Any]:
    file = teacher if teacher is not None else teacher_file(root)
    run = small_run(root, datasets={"val": {"dataroot_gt": "bundled", "pictures": ["chelsea"], "middle": 48}})
    run["datasets"]["train"] = small_run(root)["datasets"]["train"]
    teachers = [{"weights": str(file), "quality_check": "off"}]
    return run | {"distill": {"teacher": teachers, **distill}}


def contents(run: Path, step: int) -> dict[str, Any]:
    state = torch.load(run / f"training_states/{step}.state", weights_only=True)
    models = {each.name: torch.load(each) for each in (run / "models").glob(f"net_*_{step}.pth")}
    kept = {key: state[key] for key in ("iter", "optimizers", "objective", "meters")}
    return {
        **kept,
        **{name: {k: v for k, v in file.items() if "param" in k} for name, file in models.items()},
    }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from leaves(each, f"{path}.{place}")
    else:
        yield path, value


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    left, right = dict(leaves(one)), dict(leaves(other))
    assert left.keys() == right.keys()
    return [
        path
        for path, value in left.items()
        if not (torch.equal(value, right[path]) if torch.is_tensor(value) else value == right[path])
    ]


# -------------------------------------------------------------------- going on


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Weights, average, projectors, their moments, calibration and balance, bit for bit."""
    teacher = teacher_file(tmp_path)
    whole = train(distilled(tmp_path / "whole", teacher, **EVERYTHING), quiet=True).folder
    halves = distilled(tmp_path / "halves", teacher, **EVERYTHING)
    halves["train"]["total_iter"] = 4
    train(halves, quiet=True)
    halves["train"]["total_iter"] = 8
    again = train(halves, auto_resume=True, quiet=True).folder
    expected = contents(whole, 8)
    assert differing(expected, contents(again, 8)) == []
    projectors = expected["net_p_8.pth"]["params"]
    assert list(projectors) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    # Network and projectors both have moments, and the first half was not the end.
    count = len(list(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).parameters()))
    assert len(expected["optimizers"][0]["state"]) == count + len(projectors)
    assert differing(contents(whole, 4)["net_p_4.pth"], expected["net_p_8.pth"]) != []


def test_kairs_files_go_on_with_the_projectors_and_their_moments(tmp_path: Path) -> None:
    """``N_G``, ``N_E``, ``N_P`` and ``N_optimizerG`` alone: nothing of a classic run is lost."""
    teacher = teacher_file(tmp_path)
    classic = {"recipe": "classic-feature@1", "taps": EVERYTHING["taps"]}
    whole = train(distilled(tmp_path / "whole", teacher, **classic), quiet=True).folder
    halves = distilled(tmp_path / "halves", teacher, **classic)
    halves["train"]["total_iter"] = 4
    first = train(halves, ["path.layout=kair"], quiet=True).folder
    shutil.rmtree(first / "training_states")
    for path in (first / "models").glob("net_*"):
        path.unlink()
    assert {path.name for path in (first / "models").iterdir()} == {
        "4_G.pth",
        "4_E.pth",
        "4_P.pth",
        "4_optimizerG.pth",
    }
    again = train(halves, ["train.total_iter=8"], auto_resume=True, quiet=True).folder
    expected, got = contents(whole, 8), contents(again, 8)
    for name in ("net_g_8.pth", "net_p_8.pth"):
        assert differing(expected[name], got[name]) == []
    assert differing(expected["optimizers"][0]["state"], got["optimizers"][0]["state"]) == []


def test_another_teacher_is_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    one, other = teacher_file(tmp_path, 1), teacher_file(tmp_path, 2)
    run = distilled(tmp_path, one, recipe="classic-response@1")
    run["train"]["total_iter"] = 4
    folder = train(run, quiet=True).folder
    changed = distilled(tmp_path, other, recipe="classic-response@1")
    with pytest.raises(UserError, match="other teacher weights") as told:
        train(changed, auto_resume=True, quiet=True)
    assert "\n" not in str(told.value) and "distill.allow_change=true" in str(told.value)
    assert not (folder / "training_states/8.state").exists()
    assert train(changed, ["distill.allow_change=true"], auto_resume=True, quiet=True).iteration == 8


def test_a_teacher_that_moved_is_the_same_teacher(tmp_path: Path) -> None:
    one = teacher_file(tmp_path, 1)
    run = distilled(tmp_path, one, recipe="classic-response@1")
    run["train"]["total_iter"] = 4
    train(run, quiet=True)
    moved = one.rename(tmp_path / "moved.pth")
    assert train(
        distilled(tmp_path, moved, recipe="classic-response@1"), auto_resume=True, quiet=True
    ).finished


def test_other_terms_are_refused(tmp_path: Path) -> None:
    teacher = teacher_file(tmp_path)
    run = distilled(tmp_path, teacher, recipe="classic-response@1")
    run["train"]["total_iter"] = 4
    train(run, quiet=True)
    changed = distilled(tmp_path, teacher, recipe="classic-response@1", terms={"frequency": {}})
    with pytest.raises(UserError, match=r"distill\.terms\.frequency"):
        train(changed, auto_resume=True, quiet=True)
    assert train(changed, ["distill.allow_change=true"], auto_resume=True, quiet=True).finished


# -------------------------------------------------------------------- what stays, what is not computed


def test_the_teacher_is_bit_identical_and_the_export_is_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[Teacher] = []
    trainers: list[Trainer] = []
    read, make = assembling.read_teacher, run_module.Trainer

    def remembered(*given: Any) -> Teacher:
        teachers.append(read(*given))
        return teachers[-1]

    def kept(*given: Any) -> Trainer:
        trainers.append(make(*given))
        return trainers[-1]

    monkeypatch.setattr(assembling, "read_teacher", remembered)
    monkeypatch.setattr(run_module, "Trainer", kept)
    file = teacher_file(tmp_path)
    before = file.read_bytes()
    folder = train(distilled(tmp_path, file, **EVERYTHING), quiet=True).folder
    (teacher,), (trainer,) = teachers, trainers
    assert file.read_bytes() == before
    assert fingerprint(teacher.net) == fingerprint(load_network(file).net)
    assert all(each.grad is None and not each.requires_grad for each in teacher.net.parameters())
    assert not any(module.training for module in teacher.net.modules())

    student = trainer.nets["g"].eval()
    x = torch.rand(1, 3, 20, 24)
    path = folder / "models/net_g_8.pth"
    with torch.no_grad():
        assert torch.equal(load_network(path, param_key="params").net(x), student(x))
    plain = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
    plain.load_state_dict(torch.load(path)["params"])

    from spandrel import ModelLoader

    averaged = torch.load(path)["params_ema"]
    foreign = ModelLoader().load_from_file(path).model.state_dict()
    assert foreign.keys() == plain.state_dict().keys()
    assert any(
        torch.equal(foreign["body.0.weight"], each["body.0.weight"])
        for each in (averaged, plain.state_dict())
    )


def test_before_its_start_a_term_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass of the teacher, no line in the log, and a projector without moments until then."""
    asked: dict[int, int] = {}
    now = [0]
    parts, answer = DistillObjective.parts, Teacher.output_and_taps

    def counted(self: Teacher, *given: Any) -> Any:
        asked[now[0]] = asked.get(now[0], 0) + 1
        return answer(self, *given)

    def stepped(self: DistillObjective, batch: Any, step: int) -> Any:
        now[0] = step
        yield from parts(self, batch, step)

    monkeypatch.setattr(Teacher, "output_and_taps", counted)
    monkeypatch.setattr(DistillObjective, "parts", stepped)
    feature = {"weight": {"value": 0.1, "start": 5}, "target_norm": "instance"}
    run = distilled(tmp_path, mapping="first_k", taps=EVERYTHING["taps"], terms={"feature": feature})
    folder = train(run, ["logger.print_freq=1"], quiet=True).folder
    asked.pop(0, None)  # the look ahead, before the first step
    assert asked == {5: 1, 6: 1, 7: 1, 8: 2}  # the last of them for the report's maps
    lines = [line for line in (folder / "train.log").read_text().splitlines() if "l_g_L1" in line]
    assert ["l_g_feature" in line for line in lines] == [False] * 4 + [True] * 4
    count = len(list(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).parameters()))
    early, late = (contents(folder, step)["optimizers"][0]["state"] for step in (4, 8))
    assert (len(early), len(late)) == (count, count + 4)


def test_without_a_teacher_it_is_the_pixel_objective(tmp_path: Path) -> None:
    run = small_run(tmp_path / "pixel")
    pixel = train(run, quiet=True).folder
    run = small_run(tmp_path / "none") | {"distill": {"recipe": "classic-none@1"}}
    none = train(run, quiet=True).folder
    one, other = contents(pixel, 8), contents(none, 8)
    assert differing(one["net_g_8.pth"], other["net_g_8.pth"]) == []
    assert differing(one["optimizers"][0]["state"], other["optimizers"][0]["state"]) == []
    assert "l_g_L1" in (none / "train.log").read_text()


def test_shares_of_the_gradient_are_measured_now_and_then(tmp_path: Path) -> None:
    """At step 1 and at every multiple, recorded and drawn; measuring changes no weight."""
    teacher = teacher_file(tmp_path)
    options = {**EVERYTHING, "gradients_every": 3}
    on = train(distilled(tmp_path / "on", teacher, **options), ["logger.print_freq=1"], quiet=True).folder
    off = train(distilled(tmp_path / "off", teacher, **options | {"gradients_every": 0}), quiet=True).folder
    lines = [json.loads(line) for line in (on / "metrics.jsonl").read_text().splitlines()]
    details = {line["iter"]: line["details"] for line in lines if line["kind"] == "train"}
    names = {f"grad_share_{term}" for term in ("response", "feature", "upcycle")}
    for step, told in details.items():
        found = {name for name in told if name.startswith("grad_share_")}
        assert found == (names if step in (1, 3, 6) else set()), step
    # The feature term has 0.2 of the pixel losses' gradient, freshly measured at step 1: with p their share and r, u
    # the others', p = 1 - r - u - f and f = 0.2 p.
    first = details[1]
    response, feature, upcycle = (first[f"grad_share_{term}"] for term in ("response", "feature", "upcycle"))
    assert feature == pytest.approx(0.2 * (1 - response - feature - upcycle), rel=1e-4)
    assert 0 < response < 1 and 0 < upcycle < 1
    assert "Gradient of feature" in (on / "report.html").read_text()
    assert "grad_share" not in (off / "metrics.jsonl").read_text()
    assert differing(contents(on, 8)["net_g_8.pth"], contents(off, 8)["net_g_8.pth"]) == []
    assert differing(contents(on, 8)["net_p_8.pth"], contents(off, 8)["net_p_8.pth"]) == []


def test_the_report_shows_what_the_features_look_like(tmp_path: Path) -> None:
    """One map a side and pair; looking changes neither modes nor what a resume needs, and a resumed run looks again."""
    teacher = teacher_file(tmp_path)
    folder = train(distilled(tmp_path, teacher, **EVERYTHING), quiet=True).folder
    with np.load(folder / "feature_maps.npz") as kept:
        assert kept["titles"].shape == (2,) and kept["lq"].shape == (16, 16, 3)
        maps = {name: kept[name] for name in kept if name.startswith(("student_", "teacher_"))}
        title = str(kept["titles"][1])
    assert set(maps) == {"student_0", "student_1", "teacher_0", "teacher_1"}
    assert all(each.shape == (16, 16) and each.min() >= 0 and each.std() > 0 for each in maps.values())
    # By hand: the teacher's third tap is body.4.
    net = load_network(teacher).net
    seen: list[torch.Tensor] = []
    net.body[4].register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[index,union-attr]
    data = training_data(load_run_options(distilled(tmp_path, teacher)), ONE, quiet=True)
    samples = first_samples(data).lq
    data.close()
    with torch.no_grad():
        net(max(samples, key=lambda each: float(each.var()))[None])
    np.testing.assert_allclose(maps["teacher_1"], seen[0][0].abs().mean(0).numpy(), rtol=1e-5, atol=1e-6)
    page = (folder / "report.html").read_text()
    assert "Features that are compared" in page and html.unescape(title) in html.unescape(page)
    plain = train(distilled(tmp_path / "plain", teacher, recipe="classic-response@1"), quiet=True).folder
    assert not (plain / "feature_maps.npz").exists()
    assert "Features that are compared" not in (plain / "report.html").read_text()


def test_a_bf16_teacher_leaves_the_students_precision_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's bf16 is its own: its answers come as float32, the student's forward and gradients stay float32."""
    seen: dict[str, set[Any]] = {"teacher": set(), "student": set(), "answers": set()}
    read, answer = assembling.read_teacher, Teacher.output

    def watched(kind: str, net: torch.nn.Module) -> None:
        def look(module: Any, inputs: Any, output: Any) -> None:
            seen[kind].add(output.dtype)

        net.body[0].register_forward_hook(look)  # type: ignore[index,union-attr]

    def remembered(*given: Any) -> Teacher:
        teacher = read(*given)
        watched("teacher", teacher.net)
        return teacher

    def answered(self: Teacher, lq: torch.Tensor) -> torch.Tensor:
        out = answer(self, lq)
        seen["answers"].add(out.dtype)
        return out

    make = run_module.Trainer

    def kept(*given: Any) -> Trainer:
        trainer = make(*given)
        watched("student", trainer.nets["g"])
        return trainer

    monkeypatch.setattr(assembling, "read_teacher", remembered)
    monkeypatch.setattr(Teacher, "output", answered)
    monkeypatch.setattr(run_module, "Trainer", kept)
    file = teacher_file(tmp_path)
    before = file.read_bytes()
    run = distilled(tmp_path, file, recipe="classic-response@1")
    run["distill"]["teacher"][0]["precision"] = "bf16"
    folder = train(run, quiet=True).folder
    assert seen == {"teacher": {torch.bfloat16}, "student": {torch.float32}, "answers": {torch.float32}}
    assert file.read_bytes() == before
    assert {each.dtype for each in torch.load(folder / "models/net_g_8.pth")["params"].values()} == {
        torch.float32
    }
    # Another teacher as far as the student can tell, but hardly: rounding moves it, and by little.
    exact = train(distilled(tmp_path / "exact", file, recipe="classic-response@1"), quiet=True).folder
    left, right = (torch.load(each / "models/net_g_8.pth")["params"] for each in (folder, exact))
    moved = max(float((left[key] - right[key]).abs().max()) for key in left)
    assert 0 < moved < 5e-3


# -------------------------------------------------------------------- bad input


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"recipe": "feature@1", "taps": {"student": ["body.99"]}}, {}, r"^distill\.taps\.student: .*'body\.99'"),
    (
        {"recipe": "feature@1", "taps": {"teacher": ["bdy.0"]}},
        {},
        r"^distill\.taps\.teacher: .*'bdy\.0'.*body\.0",
    ),
    ({"recipe": "feature@1", "mapping": [[9, 1]]}, {}, r"^distill\.mapping: \[9, 1\] names teacher tap 9"),
    (
        {"recipe": "featur@1"},
        {},
        r"distill\.recipe: recipe 'featur@1' is not known; did you mean 'feature@1'",
    ),
    (
        {"recipe": "feature@1", "random_teacher": ["upcycle"]},
        {},
        r"random_teacher names 'upcycle'.*response, feature",
    ),
    (
        {"recipe": "feature@1", "terms": {"feature": {"projector": {"type": "none"}}}},
        {},
        r"type none needs equal",
    ),
    ({}, {"upscale": 4}, r"^distill\.teacher\[0\]\.weights: .* is a x4 network .*; the run is x2"),
    (
        {},
        {"num_in_ch": 1, "num_out_ch": 1},
        r"^distill\.teacher\[0\]\.weights: .* takes 1 and gives 1 channels",
    ),
]


@pytest.mark.parametrize(("section", "teacher", "message"), BAD)
def test_bad_input_is_one_clear_message(
    section: dict[str, Any], teacher: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(distilled(tmp_path, teacher_file(tmp_path, **teacher), **section), quiet=True)
    assert not (tmp_path / "small").exists()


def test_files_that_are_no_teacher(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    for path, message in (
        (tmp_path / "nowhere.pth", r"nowhere\.pth does not exist"),
        (broken, "damaged or not"),
    ):
        with pytest.raises(UserError, match=message) as told:
            train(distilled(tmp_path, path), quiet=True)
        assert "\n" not in str(told.value)
    wrong_key = distilled(tmp_path)
    wrong_key["distill"]["teacher"][0]["param_key"] = "params_emma"
    with pytest.raises(UserError, match="has no entry 'params_emma'; it has: params"):
        train(wrong_key, quiet=True)


def test_a_bad_teacher_is_refused_or_told(tmp_path: Path) -> None:
    run = distilled(tmp_path, recipe="classic-response@1")
    run["distill"]["teacher"][0]["quality_check"] = "error"
    with pytest.raises(
        UserError, match=r"distill\.teacher\[0\]: with .* it is no better than .*quality_check: warn"
    ):
        train(run, quiet=True)
    run["distill"]["teacher"][0]["quality_check"] = "warn"
    folder = train(run, quiet=True).folder
    assert "it is no better than" in (folder / "train.log").read_text()
