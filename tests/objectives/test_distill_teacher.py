"""Teachers: still, frozen, refused where they do not fit; faculties combine outputs; preflight sees what is wrong."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atelier.archs import SRVGGNetCompact
from atelier.archs.facts import facts_of
from atelier.archs.weights import save_weights
from atelier.data.batch import Batch
from atelier.errors import RunStopped, UserError
from atelier.losses.l1 import L1LossOptions
from atelier.objectives.base import Setting
from atelier.objectives.distill.objective import DistillObjective
from atelier.objectives.distill.options import DistillOptions, TeacherOptions
from atelier.objectives.distill.preflight import TermCheck, warnings_of
from atelier.objectives.distill.school import Faculty
from atelier.objectives.distill.teacher import Teacher, eight_views, fingerprint, random_twin, read_teacher

CPU = torch.device("cpu")
SETTING = Setting(seed=3, total_iter=10, scale=2, channels=(3, 3), lq_size=12, device=CPU)


def compact(**given: Any) -> SRVGGNetCompact:
    torch.manual_seed(5)
    return SRVGGNetCompact(**{"num_feat": 6, "num_conv": 2, "upscale": 2} | given)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    net = compact()
    path = tmp_path / "teacher.pth"
    meta = {"arch": net.options.type, "options": net.options.model_dump(mode="json", exclude={"type"})}
    save_weights(path, {"params": net.state_dict()}, meta)
    return path


def teacher_of(net: nn.Module, **given: Any) -> Teacher:
    options = TeacherOptions(weights="teacher.pth", **given)
    return Teacher(net, facts_of(compact().options), options, CPU, "digest", "distill.teacher[0]")


def picture(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_a_read_teacher_is_frozen_and_answers_the_same_twice(file: Path) -> None:
    teacher = read_teacher(TeacherOptions(weights=file), SETTING, 0)
    assert not any(parameter.requires_grad for parameter in teacher.net.parameters())
    assert not any(module.training for module in teacher.net.modules())
    lq = picture()
    first = teacher.output(lq)
    assert torch.equal(first, teacher.output(lq))
    assert not first.requires_grad
    with torch.no_grad():
        assert torch.equal(first, compact().eval()(lq))


def test_micro_batches_and_autocast_change_nothing(file: Path) -> None:
    lq = picture(3)
    whole = read_teacher(TeacherOptions(weights=file), SETTING, 0).output(lq)
    parts = read_teacher(TeacherOptions(weights=file, batch=1), SETTING, 0)
    torch.testing.assert_close(parts.output(lq), whole, rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(read_teacher(TeacherOptions(weights=file), SETTING, 0).output(lq), whole)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_teacher_in_half_precision_is_near_and_stays_the_same(precision: str) -> None:
    """Within half a grey level of float32 in the mean (what ``auto`` asks for on a GPU); its weights are untouched."""
    net = compact()
    exact, half = teacher_of(compact()), teacher_of(net, precision=precision)
    before = fingerprint(net)
    lq = picture()
    out = half.output(lq)
    assert out.dtype == torch.float32 and torch.equal(out, half.output(lq))
    error = out - exact.output(lq)
    assert error.abs().max() > 0, "nothing was computed in half precision"
    assert error.square().mean().sqrt() < 0.5 / 255
    assert fingerprint(net) == before
    assert {each.dtype for each in net.parameters()} == {torch.float32}
    half.verify()
    taken = half.output_and_taps(lq, lambda: [torch.ones(1, dtype=torch.bfloat16)])[1]
    assert taken[0].dtype == torch.float32


def test_a_compiled_teacher_answers_the_same_and_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's front end alone: what it hands on is run as it is, so that answers must be equal to the bit."""
    compiled = functools.partial(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", lambda module, *given, **options: compiled(module))
    plain, teacher = teacher_of(compact()), teacher_of(compact(), compile=True)
    assert teacher.compiled and not plain.compiled
    assert any(module._compiled_call_impl is not None for module in teacher.net.modules())
    assert torch.equal(teacher.output(picture()), plain.output(picture()))
    teacher.verify()
    assert fingerprint(teacher.net) == fingerprint(plain.net)


def test_the_eight_views_are_different_and_undone_exactly() -> None:
    x = torch.rand(1, 3, 4, 6)
    seen = set()
    for there, back in eight_views():
        assert torch.equal(back(there(x)), x)
        seen.add((tuple(there(x).shape), there(x).flatten()[:7].numpy().tobytes()))
    assert len(seen) == 8


def test_self_ensemble_is_the_mean_of_the_views(file: Path) -> None:
    lq = picture(1)
    teacher = read_teacher(TeacherOptions(weights=file, self_ensemble=8), SETTING, 0)
    with torch.no_grad():
        single = torch.stack([back(teacher.net(there(lq))) for there, back in eight_views()]).mean(0)
    torch.testing.assert_close(teacher.output(lq), single, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 4}, r"distill\.teacher\[0\]\.weights: .* is a x2 network .*; the run is x4"),
        ({"channels": (1, 1)}, r"takes 3 and gives 3 channels; the student takes 1 and gives 1"),
    ],
)
def test_a_teacher_of_another_task_is_refused(file: Path, change: dict[str, Any], message: str) -> None:
    setting = Setting(**{**SETTING.__dict__, **change})
    with pytest.raises(UserError, match=message):
        read_teacher(TeacherOptions(weights=file), setting, 0)


def test_a_missing_file_names_its_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distill\.teacher\[1\]\.weights: .*absent\.pth does not exist"):
        read_teacher(TeacherOptions(weights=tmp_path / "absent.pth"), SETTING, 1)


def test_a_file_that_cannot_be_read_is_told_by_the_teachers_place(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distill\.teacher\[0\]\.weights: .* is a folder"):
        read_teacher(TeacherOptions(weights=tmp_path), SETTING, 0)
    with pytest.raises(UserError, match=r"distill\.teacher\[2\]: .* has no entry 'params_emma'"):
        read_teacher(TeacherOptions(weights=file, param_key="params_emma"), SETTING, 2)
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    with pytest.raises(
        UserError, match=r"distill\.teacher\[0\]: .*text\.pth is damaged or not a weight file"
    ):
        read_teacher(TeacherOptions(weights=text), SETTING, 0)


def test_a_changed_weight_or_buffer_is_noticed() -> None:
    norm = nn.BatchNorm2d(3)
    teacher = teacher_of(nn.Sequential(nn.Conv2d(3, 3, 3), norm))
    teacher.verify()
    assert norm.running_mean is not None
    norm.running_mean += 1e-6
    with pytest.raises(RunStopped, match="changed while the student learned"):
        teacher.verify()


def test_the_random_twin_is_another_network_and_a_function_of_the_seed(file: Path) -> None:
    options = TeacherOptions(weights=file)
    real = read_teacher(options, SETTING, 0)
    state = torch.random.get_rng_state()
    one, same = (random_twin(real, options, SETTING, 0) for _ in range(2))
    other = random_twin(real, options, Setting(**{**SETTING.__dict__, "seed": 4}), 0)
    prints = [fingerprint(each.net) for each in (real, one, same, other)]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3
    assert torch.equal(torch.random.get_rng_state(), state)


def test_faculties_combine_outputs_as_asked() -> None:
    gt = torch.zeros(1, 3, 2, 2)
    outs = [torch.full((1, 3, 2, 2), 0.2), torch.full((1, 3, 2, 2), 0.6)]
    outs[1][..., 0] = 0.1
    teachers = [teacher_of(compact(), share=1.0), teacher_of(compact(), share=3.0)]

    def combined(how: str) -> Tensor:
        options = DistillOptions(
            teacher=[{"weights": "a.pth"}, {"weights": "b.pth"}], combine=how, terms={"response": {}}
        )
        return Faculty(teachers, None, (), options).combine(outs, gt)

    torch.testing.assert_close(combined("mean"), (outs[0] + outs[1]) / 2)
    torch.testing.assert_close(combined("weighted"), (outs[0] + 3 * outs[1]) / 4)
    best = combined("best_pixel")
    torch.testing.assert_close(best[..., 0], outs[1][..., 0])
    torch.testing.assert_close(best[..., 1], outs[0][..., 1])


def objective_of(file: Path, **given: Any) -> DistillObjective:
    options = DistillOptions(**{"teacher": [{"weights": file}], "recipe": "feature@1"} | given)
    nets = options.trained({"g": compact(num_feat=4)}, SETTING)
    built = options.build(nets=nets, losses=[L1LossOptions()], device=CPU)
    assert isinstance(built, DistillObjective)
    return built


def batch() -> Batch:
    generator = torch.Generator().manual_seed(9)
    gt = 0.25 + 0.5 * torch.rand(2, 3, 24, 24, generator=generator)
    return Batch(nn.functional.avg_pool2d(gt, 2), gt, ["a", "b"], (0, 1))


class Steady(nn.Module):
    """A teacher whose pictures look like pictures: nearest enlargement, a touch darker."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.98))

    def forward(self, lq: Tensor) -> Tensor:
        return nn.functional.interpolate(lq, scale_factor=2) * self.factor


def taught_by(objective: DistillObjective, net: nn.Module) -> Teacher:
    assert objective.apprentice is not None
    teacher = teacher_of(net)
    objective.apprentice.school.faculties["real"].teachers[:] = [teacher]
    return teacher


def test_preflight_tells_every_term_and_leaves_nothing_changed(file: Path) -> None:
    objective = objective_of(file, recipe=None, terms={"response": {"weight": 0.5}})
    taught_by(objective, Steady())
    assert objective.apprentice is not None
    before = fingerprint(objective.apprentice), torch.random.get_rng_state()
    found = objective.preflight(batch())
    assert (fingerprint(objective.apprentice), torch.equal(torch.random.get_rng_state(), before[1])) == (
        before[0],
        True,
    )
    assert any(line.startswith("term response: raw") for line in found.lines)
    assert any("still and frozen" in line for line in found.lines)
    assert all(parameter.grad is None for parameter in objective.apprentice.parameters())


@pytest.mark.parametrize(("weight", "word"), [(50.0, "times the pixel losses'"), (1e-5, "next to nothing")])
def test_preflight_warns_of_a_term_that_drowns_or_does_nothing(file: Path, weight: float, word: str) -> None:
    objective = objective_of(file, recipe=None, terms={"response": {"weight": weight}})
    taught_by(objective, Steady())
    (warning,) = objective.preflight(batch()).warnings
    assert word in warning


def test_a_term_that_is_most_of_the_loss_is_warned_of_whatever_its_gradient() -> None:
    """The original's features at weight 1: far above the pixel loss, with a gradient that is less so."""

    def check(value: float, gradient: float) -> TermCheck:
        return TermCheck("feature", value, value, value / (1 + value), value, gradient, None)

    assert warnings_of([check(4.9, 4.9)]) == []
    (warning,) = warnings_of([check(168.0, 2.5)])
    assert "its value is 1.7e+02 times, its gradient on the student 2.5 times the pixel losses'" in warning
    (warning,) = warnings_of([check(2.0, 6.0)])
    assert "lower its weight" in warning


def test_preflight_tells_an_untrained_twin_from_the_teacher(file: Path) -> None:
    objective = objective_of(file, recipe=None, terms={"response": {}}, random_teacher=["response"])
    assert objective.apprentice is not None
    (twin,) = objective.apprentice.school.teachers
    assert not twin.learned
    twin.net = Steady().eval().requires_grad_(False)
    twin._fingerprint = fingerprint(twin.net)
    first = objective.preflight(batch()).lines[0]
    assert first.startswith(f"untrained twin of the teacher {file}: SRVGGNetCompact x2")


@pytest.mark.parametrize("real", [{}, {"upcycle": {}}], ids=["twins_alone", "beside_real_ones"])
def test_separate_responses_to_twins_have_one_each(file: Path, real: dict[str, Any]) -> None:
    """The control of ``combine: separate``: as many untrained networks as there are teachers, all different."""
    terms = {"response": {}, **real}
    given = {"recipe": None, "terms": terms, "combine": "separate", "random_teacher": ["response"]}
    objective = objective_of(file, **given, teacher=[{"weights": file}, {"weights": file}])
    assert objective.apprentice is not None
    twins = objective.apprentice.school.faculties["random"].teachers
    assert [twin.title for twin in twins] == [f"distill.teacher[{place}] (random)" for place in (0, 1)]
    assert len({fingerprint(twin.net) for twin in twins}) == len({twin.digest for twin in twins}) == 2
    (part,) = objective.parts(batch(), 1)
    expected = [
        (twin.output(batch().lq) - objective.apprentice.network(batch().lq)).abs().mean() for twin in twins
    ]
    for place, value in enumerate(expected, 1):
        torch.testing.assert_close(part.terms[f"l_g_response_{place}"], value.detach())
    assert not torch.isclose(*expected)
    (alone,) = objective_of(file, **given).apprentice.school.faculties["random"].teachers  # type: ignore[union-attr]
    assert (alone.digest, fingerprint(alone.net)) == (twins[0].digest, fingerprint(twins[0].net))


class Restless(Steady):
    def forward(self, lq: Tensor) -> Tensor:
        return super().forward(lq) + 1e-3 * torch.rand(())


class Counting(Steady):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, lq: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(lq)


class Broken(Steady):
    def forward(self, lq: Tensor) -> Tensor:
        return super().forward(lq) * float("nan")


class Bytes(Steady):
    def forward(self, lq: Tensor) -> Tensor:
        return super().forward(lq) * 255


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Restless, "draws random numbers"),
        (Counting, "buffers change"),
        (Broken, "not finite"),
        (Bytes, r"does not give pictures in \[0, 1\]"),
    ],
)
def test_preflight_refuses_a_teacher_that_cannot_be_trusted(
    file: Path, net: type[nn.Module], message: str
) -> None:
    objective = objective_of(file, recipe=None, terms={"response": {}})
    taught_by(objective, net())
    with pytest.raises(UserError, match=message):
        objective.preflight(batch())


def test_teeth_an_awake_teacher_is_refused(file: Path) -> None:
    objective = objective_of(file, recipe=None, terms={"response": {}})
    taught_by(objective, Steady()).net.train()
    with pytest.raises(UserError, match="is in training mode"):
        objective.preflight(batch())
