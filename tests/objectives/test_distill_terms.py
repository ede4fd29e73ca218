"""Every term moves the student and its projector, never the teacher; normalisers and projectors by numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from atelier.errors import UserError
from atelier.losses import response
from atelier.objectives.distill.normalise import EPSILON, Calibrated, build_normaliser
from atelier.objectives.distill.projectors import PairShape, build_projectors, load_projectors
from atelier.objectives.distill.term_options import TermsOptions
from atelier.objectives.distill.terms import FeatureTerm, Term, View, build_terms

PAIRS = (PairShape(4, 6, ("body.0", "layers.1")), PairShape(5, 6, ("body.2", "layers.3")))


class Net(nn.Module):
    """×2, two taps, smooth everywhere: finite differences meet no kink in it."""

    def __init__(self, channels: tuple[int, int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        first, second = channels
        self.head = nn.Conv2d(3, first, 3, padding=1)
        self.body = nn.Conv2d(first, second, 3, padding=1)
        self.tail = nn.Conv2d(second, 12, 3, padding=1)
        self.double()

    def forward(self, lq: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        first = torch.tanh(2 * self.head(lq))
        second = torch.tanh(2 * self.body(first))
        return functional.pixel_shuffle(torch.sigmoid(self.tail(second)), 2), (first, second)


class Scene:
    """A student, a teacher (its parameters ask for gradients, so that a leak shows) and a batch."""

    def __init__(self) -> None:
        self.student, self.teacher = Net((4, 5), 1), Net((6, 6), 2)
        generator = torch.Generator().manual_seed(3)
        self.lq, self.tiles = (
            torch.rand(2, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2)
        )
        self.gt = torch.rand(2, 3, 16, 16, generator=generator, dtype=torch.float64)
        self.small = functional.avg_pool2d(self.lq, 2)

    def view(self, teacher: Net | None = None) -> View:
        teacher = teacher or self.teacher
        out, taps = self.student(self.lq)
        target, teacher_taps = teacher(self.lq)
        return View(
            student=out,
            gt=self.gt,
            lq=self.lq,
            scale=2,
            teacher=target,
            teachers=(target, target.flip(-1)),
            pairs=tuple(zip(taps, teacher_taps, strict=True)),
            upcycle=(self.student(self.tiles)[0], teacher(self.tiles)[0]),
            zoom=(self.student(self.small)[0], teacher(self.small)[0]),
        )


def terms_of(pairs: tuple[PairShape, ...] = PAIRS, separate: int = 0, **options: Any) -> dict[str, Term]:
    torch.manual_seed(7)
    return {
        n: t.double() for n, t in build_terms(TermsOptions.model_validate(options), pairs, separate).items()
    }


def term_of(pairs: tuple[PairShape, ...] = PAIRS, **options: Any) -> Term:
    (term,) = terms_of(pairs, **options).values()
    return term


def feature(**options: Any) -> Callable[[], Term]:
    return lambda: term_of(feature=options)


CASES: dict[str, Callable[[], Term]] = {
    **{
        f"response_{loss}_{mask}": (
            lambda loss=loss, mask=mask: term_of(response={"loss": loss, "mask": mask})
        )
        for loss, mask in [("l1", "none"), ("l2", "better"), ("charbonnier", "none"), ("smooth_l1", "hard")]
    },
    "response_separate": lambda: terms_of(response={}, separate=2)["response_2"],
    "feature": feature(),
    "feature_l1_instance_sum": feature(loss="l1", target_norm="instance", pairs="sum"),
    "feature_l2_layernorm_mlp": feature(loss="l2", target_norm="layernorm", projector={"type": "mlp"}),
    "feature_cosine_conv3": feature(loss="cosine", target_norm="none", projector={"type": "conv3"}),
    "feature_classic": feature(loss="l1", target_norm="none", pairs="sum", projector={"side": "teacher"}),
    "feature_no_bias": feature(projector={"bias": False}),
    **{
        f"affinity_{mode}": (lambda mode=mode: term_of(affinity={"mode": mode, "window": 4, "pooled": 2}))
        for mode in ("window", "pooled", "full", "batch")
    },
    "attention": lambda: term_of(attention={}),
    "frequency_fft": lambda: term_of(frequency={"highpass": 0.5}),
    "frequency_fft_gt": lambda: term_of(frequency={"target": "gt"}),
    "frequency_haar": lambda: term_of(frequency={"kind": "haar", "bands": (0.5, 1, 2, 3)}),
    "upcycle": lambda: term_of(upcycle={}),
    "upcycle_zoom": lambda: term_of(upcycle={"loss": "charbonnier", "zoom_out": True}),
}


def check_moves(term: nn.Module, scene: Scene) -> None:
    """Gradients on 3 weights of the student and of the projectors are those of finite differences and not zero;
    nothing arrives at the teacher."""
    term.eval()
    for net in (scene.student, scene.teacher, term):
        net.zero_grad()
    term(scene.view()).backward()
    for parameter in scene.teacher.parameters():
        assert parameter.grad is None, "the teacher was moved"
    sides = [list(scene.student.parameters()), list(term.parameters())]
    for parameters in (each for each in sides if each):
        # the taps' layers come first: features do not depend on the student's tail
        for parameter in (
            parameters[0],
            parameters[min(1, len(parameters) - 1)],
            parameters[len(parameters) // 2],
        ):
            assert parameter.grad is not None, "the graph is cut"
            place = int(parameter.grad.abs().argmax())
            found = float(parameter.grad.flatten()[place])
            expected = difference(term, scene, parameter, place)
            assert abs(expected) > 1e-9, "the term does not depend on this weight"
            assert found == pytest.approx(expected, rel=1e-5), "the gradient is not the derivative"


def difference(
    term: nn.Module, scene: Scene, parameter: nn.Parameter, place: int, step: float = 1e-6
) -> float:
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.view(-1)[place] += sign * step
            values.append(float(term(scene.view())))
            parameter.view(-1)[place] -= sign * step
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", list(CASES))
def test_term_moves_student_and_projector_and_never_the_teacher(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, term = Scene(), CASES[name]()
    if "hard" in name:  # the mask is a constant of the gradient, so the differences must hold it too
        mask = response.hard_mask(scene.view().student, scene.gt)
        monkeypatch.setattr(response, "hard_mask", lambda student, gt: mask)
    term.train()
    term(scene.view())  # calibrates
    check_moves(term, scene)


class Mutant(nn.Module):
    """A term with a fault."""

    def __init__(self, inner: Term, fault: str) -> None:
        super().__init__()
        self.inner, self.fault = inner, fault

    def forward(self, view: View) -> Tensor:
        if self.fault == "rebuilt":  # seen elsewhere: values summed through a new tensor
            return torch.tensor(float(self.inner(view).detach()), dtype=torch.float64, requires_grad=True)
        if self.fault == "detached student":
            view.student = view.student.detach().requires_grad_()
            view.pairs = tuple((s.detach().requires_grad_(), t) for s, t in view.pairs)
            view.upcycle = (
                (view.upcycle[0].detach().requires_grad_(), view.upcycle[1]) if view.upcycle else None
            )
            view.zoom = (view.zoom[0].detach().requires_grad_(), view.zoom[1]) if view.zoom else None
            return self.inner(view)
        assert self.fault == "teacher learns" and view.teacher is not None
        return self.inner(view) + 1e-3 * view.teacher.mean()


@pytest.mark.parametrize(
    "name", ["response_l1_none", "feature", "affinity_window", "attention", "upcycle_zoom"]
)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rebuilt", "the graph is cut"),
        ("detached student", "the graph is cut"),
        ("teacher learns", "the teacher was moved"),
    ],
)
def test_faulty_terms_are_caught(name: str, fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_moves(Mutant(CASES[name](), fault), Scene())


def test_terms_say_what_they_need_and_keep_the_options_order() -> None:
    options = {name: {} for name in ("upcycle", "frequency", "attention", "affinity", "feature", "response")}
    terms = terms_of(**options)
    assert list(terms) == ["response", "feature", "affinity", "attention", "frequency", "upcycle"]
    assert [terms[name].name for name in terms] == list(terms)
    assert [name for name, term in terms.items() if term.needs_output] == ["response", "frequency"]
    assert [name for name, term in terms.items() if term.needs_taps] == ["feature", "affinity", "attention"]
    assert not term_of(frequency={"target": "gt"}).needs_output
    assert list(terms_of(response={}, separate=2)) == ["response_1", "response_2"]


def test_a_view_that_lacks_something_is_an_error() -> None:
    scene = Scene()
    empty = View(scene.gt, scene.gt, scene.lq, 2)
    for name in ("response_l1_none", "feature", "affinity_full", "attention", "frequency_fft", "upcycle"):
        with pytest.raises(RuntimeError, match="lacks what the term"):
            CASES[name]()(empty)


def test_values_of_upcycle_and_separate_responses() -> None:
    scene = Scene()
    view = scene.view()
    assert view.upcycle and view.zoom and view.teacher is not None
    plain = (view.upcycle[0] - view.upcycle[1]).abs().mean()
    zoomed = sum((view.zoom[0] - each).square().mean() for each in (view.lq, view.zoom[1]))
    squares = (view.upcycle[0] - view.upcycle[1]).square().mean()
    torch.testing.assert_close(term_of(upcycle={})(view), plain)
    torch.testing.assert_close(term_of(upcycle={"loss": "l2", "zoom_out": True})(view), squares + zoomed)
    for name, target in zip(("response_1", "response_2"), view.teachers, strict=True):
        value = terms_of(response={}, separate=2)[name](view)
        torch.testing.assert_close(value, (view.student - target).abs().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classic_feature_term_by_numpy(dtype: torch.dtype) -> None:
    """w_f · Σ_i l1(F_s[i], P_i(F_t[i])) of the original, on tokens."""
    generator = np.random.default_rng(0)
    maps = [
        (generator.normal(size=(2, p.student, 4, 4)), generator.normal(size=(2, p.teacher, 4, 4)))
        for p in PAIRS
    ]
    term = CASES["feature_classic"]().to(dtype)
    state = {k: v.double().numpy() for k, v in term.projectors.state_dict().items()}  # type: ignore[union-attr]
    expected = 0.0
    for place, (student, teacher) in enumerate(maps):
        tokens = (
            teacher.reshape(2, -1, 16).transpose(0, 2, 1) @ state[f"{place}.weight"].T
            + state[f"{place}.bias"]
        )
        expected += np.abs(student.reshape(2, -1, 16).transpose(0, 2, 1) - tokens).mean()
    pairs = tuple((torch.from_numpy(s).to(dtype), torch.from_numpy(t).to(dtype)) for s, t in maps)
    value = term(View(pairs[0][0], pairs[0][0], pairs[0][0], 1, pairs=pairs))
    assert value.item() == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-12)


def test_pairs_are_averaged_or_summed() -> None:
    view = Scene().view()
    mean, total = (
        term_of(feature={"pairs": how, "target_norm": "instance"})(view) for how in ("mean", "sum")
    )
    torch.testing.assert_close(total, 2 * mean)
    single = [
        term_of((pair,), affinity={"mode": "full"})(View(view.student, view.gt, view.lq, 2, pairs=(maps,)))
        for pair, maps in zip(PAIRS, view.pairs, strict=True)
    ]
    torch.testing.assert_close(term_of(affinity={"mode": "full"})(view), torch.stack(single).mean())


def test_larger_maps_are_averaged_to_the_smaller() -> None:
    scene = Scene()
    view, coarse = scene.view(), scene.view()
    coarse.pairs = tuple((functional.avg_pool2d(s, 2), t) for s, t in view.pairs)
    by_hand = scene.view()
    by_hand.pairs = tuple((functional.avg_pool2d(s, 2), functional.avg_pool2d(t, 2)) for s, t in view.pairs)
    for name in ("feature_cosine_conv3", "affinity_full", "attention"):
        term = CASES[name]()
        torch.testing.assert_close(term(coarse), term(by_hand))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_statistics_of_the_pairs(side: str) -> None:
    view = Scene().view()
    term = term_of(feature={"projector": {"side": side}, "target_norm": "none"})
    assert isinstance(term, FeatureTerm) and term.statistics is None
    term(view)
    assert term.statistics is not None and not term.statistics.requires_grad
    for row, (student, teacher), projector in zip(term.statistics, view.pairs, term.projectors, strict=True):
        moving, fixed = (student, teacher) if side == "student" else (teacher, student)
        error = (projector(moving) - fixed).norm() / fixed.norm()
        torch.testing.assert_close(row, torch.stack([student.std(), teacher.std(), error]).detach())


# --- projectors ---------------------------------------------------------------------------------------------------


def test_keys_and_count_of_the_original_s_projectors() -> None:
    shapes = [PairShape(60, 180, (f"layers.{k}", f"layers.{k}")) for k in range(4)]
    term = build_terms(
        TermsOptions.model_validate({"feature": {"target_norm": "none", "projector": {"side": "teacher"}}}),
        shapes,
    )["feature"]
    assert isinstance(term, FeatureTerm)
    state = term.projectors.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        f"{k}.{name}": shape for k in range(4) for name, shape in (("weight", (60, 180)), ("bias", (60,)))
    }
    assert sum(value.numel() for value in state.values()) == 43_440
    assert sum(each.numel() for each in term.parameters()) == 43_440


def test_linear_projector_is_the_linear_layer_on_tokens() -> None:
    torch.manual_seed(0)
    ours = build_projectors([PAIRS[0]], "linear", side="teacher")[0]
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    assert torch.equal(ours.weight, layer.weight) and torch.equal(ours.bias, layer.bias)  # the same start
    feature_map = torch.rand(2, 6, 5, 7)
    expected = layer(feature_map.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(2, 4, 5, 7)
    torch.testing.assert_close(ours(feature_map), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "conv3", "mlp"])
@pytest.mark.parametrize("bias", [True, False])
def test_projectors_give_the_other_side_s_channels(kind: Any, bias: bool) -> None:
    for side, given, wanted in (("student", "student", "teacher"), ("teacher", "teacher", "student")):
        for pair, projector in zip(PAIRS, build_projectors(PAIRS, kind, side=side, bias=bias), strict=True):  # type: ignore[arg-type]
            out = projector(torch.rand(2, getattr(pair, given), 5, 6))
            assert out.shape == (2, getattr(pair, wanted), 5, 6)
            assert any("bias" in name for name, _ in projector.named_parameters()) == bias


def test_projectors_from_a_file() -> None:
    source = build_projectors(PAIRS, "linear", side="teacher")
    for wrap in (dict, lambda state: {"params": state}):
        target = build_projectors(PAIRS, "linear", side="teacher")
        load_projectors(target, wrap(source.state_dict()), "20000_P.pth")
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("1.bias"), r"N_P\.pth: .*missing 1\.bias; unknown nothing"),
        (lambda s: s.update({"2.weight": torch.zeros(1)}), r"missing nothing; unknown 2\.weight"),
        (
            lambda s: s.update({"0.weight": torch.zeros(6, 4)}),
            r"projector '0\.weight' is 6×4, the run's is 4×6",
        ),
        (lambda s: s.update({"0.weight": 3}), r"projector '0\.weight' is int"),
    ],
)
def test_a_file_that_does_not_fit(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    projectors = build_projectors(PAIRS, "linear", side="teacher")
    before = {key: value.clone() for key, value in projectors.state_dict().items()}
    state: dict[str, Any] = dict(projectors.state_dict())
    change(state)
    with pytest.raises(UserError, match=message):
        load_projectors(projectors, state, "N_P.pth")
    assert all(torch.equal(value, before[key]) for key, value in projectors.state_dict().items())


def test_channels_that_cannot_be_compared_are_named() -> None:
    with pytest.raises(
        UserError, match=r"pair 1 has 4 \(student 'body\.0'\) and 6 \(teacher 'layers\.1'\); use linear"
    ):
        term_of(feature={"projector": {"type": "none"}})
    with pytest.raises(UserError, match=r"mode channel needs equal channels, but pair 1 has 4"):
        term_of(affinity={"mode": "channel"})
    equal = (PairShape(6, 6, ("body.0", "layers.1")),)
    for options in ({"feature": {"projector": {"type": "none"}}}, {"affinity": {"mode": "channel"}}):
        assert not list(term_of(equal, **options).parameters())
    with pytest.raises(UserError, match=r"feature, attention compares features, but there is no pair"):
        terms_of((), feature={}, attention={}, response={})


# --- normalisers --------------------------------------------------------------------------------------------------


def batches(count: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    spread = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)[:, None, None]
    return [
        scale
        * (k + 1)
        * spread
        * (torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64) + 2 * spread)
        for k in range(count)
    ]


@pytest.mark.parametrize(("kind", "axes"), [("instance", (2, 3)), ("layernorm", (1,))])
def test_instance_and_layernorm_by_numpy(kind: Any, axes: tuple[int, ...]) -> None:
    (feature_map,) = batches(1)
    x = feature_map.numpy()
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    found = build_normaliser(kind, 3)(feature_map)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(build_normaliser("none", 3)(feature_map), feature_map, rtol=0, atol=0)


def test_calibrated_is_the_first_eight_batches_and_then_fixed() -> None:
    normaliser, seen = Calibrated(3).double(), batches(11)
    probe = seen[10]
    for count, feature_map in enumerate(seen, start=1):
        normaliser.observe(feature_map)
        x = np.stack([each.numpy() for each in seen[: min(count, 8)]]).transpose(2, 0, 1, 3, 4).reshape(3, -1)
        mean, std = (each[:, None, None] for each in (x.mean(1), np.sqrt(x.var(1) + EPSILON)))
        np.testing.assert_allclose(
            normaliser(probe).numpy(), (probe.numpy() - mean) / std, rtol=1e-10, atol=1e-11
        )
    assert int(normaliser.batches) == 8
    untouched = Calibrated(3).double()
    x = probe.numpy()
    expected = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + EPSILON)
    np.testing.assert_allclose(untouched(probe).numpy(), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("stop", [0, 3, 8])
def test_calibration_is_stored_and_resumed(stop: int) -> None:
    seen = batches(10)
    whole, resumed = Calibrated(3).double(), Calibrated(3).double()
    for feature_map in seen[:stop]:
        whole.observe(feature_map)
    resumed.load_state_dict({key: value.clone() for key, value in whole.state_dict().items()})
    for feature_map in seen[stop:]:
        whole.observe(feature_map)
        resumed.observe(feature_map)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), resumed.buffers(), strict=True))


def test_only_training_calibrates() -> None:
    scene, term = Scene(), CASES["feature"]()
    assert isinstance(term, FeatureTerm)
    counts = lambda: [int(each.batches) for each in term.normalisers]  # noqa: E731
    term.eval()
    term(scene.view())
    assert counts() == [0, 0]
    term.train()
    for _ in range(10):
        term(scene.view())
    assert counts() == [8, 8]
    assert not [name for name, _ in term.named_parameters() if "normalisers" in name]


def test_an_untrained_teacher_comes_out_as_large_as_a_trained_one() -> None:
    """Else a study's random-teacher arm would have a weaker term than the arm that it is the control of."""
    for kind in ("calibrated", "instance", "layernorm"):
        normaliser = build_normaliser(kind, 3).double()  # type: ignore[arg-type]
        large, small = (normaliser(*batches(1, scale)) for scale in (1.0, 0.003))
        torch.testing.assert_close(small, large, rtol=0.1, atol=0.1)
        dead = normaliser(torch.full((2, 3, 4, 4), 0.25, dtype=torch.float64))
        assert bool(dead.isfinite().all()) and float(dead.abs().max()) < 1e-6


def shrunk(options: Mapping[str, Any]) -> float:
    """Std of the student's first tap after training on the feature term alone, over its std before."""
    scene = Scene()
    term = term_of(feature=dict(options))
    optimiser = torch.optim.Adam([*scene.student.parameters(), *term.parameters()], lr=5e-3)
    stds = []
    for _ in range(150):
        optimiser.zero_grad()
        term(scene.view()).backward()
        optimiser.step()
        assert isinstance(term, FeatureTerm) and term.statistics is not None
        stds.append(float(term.statistics[:, 0].mean()))
    return stds[-1] / stds[0]


def test_the_classic_form_shrinks_the_student_s_features_and_the_default_does_not() -> None:
    classic = shrunk({"loss": "l1", "target_norm": "none", "pairs": "sum", "projector": {"side": "teacher"}})
    default = shrunk({})
    assert classic < 0.6 < 0.9 < default
    assert math.isfinite(default)


def test_autocast_does_not_reach_the_terms() -> None:
    scene = Scene()
    view = scene.view()
    for name in ("response_l1_none", "feature", "affinity_window", "frequency_fft"):
        term = CASES[name]().eval()
        expected = term(view)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(term(view), expected)
