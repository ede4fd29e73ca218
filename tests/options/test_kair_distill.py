"""Distillation in KAIR's files: every key of the fork becomes ours, is named, or is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from atelier.errors import UserError
from atelier.objectives.distill.options import DistillOptions
from atelier.options.foreign_text import converted_text
from atelier.options.kair import convert
from atelier.options.kair_distill import _KEYS, _PATHS
from atelier.options.kair_table import TABLE
from atelier.options.read import load_run_options
from atelier.options.source import OptionFile
from options.kair_files import PLAIN, as_kair_writes


def fork_file(**values: Any) -> dict[str, Any]:
    """A student's file: ``train__distillation_type="response"`` sets a key."""
    data = copy.deepcopy(PLAIN["classical"])
    data["scale"] = 4
    data["netG"] |= {"net_type": "swinir_student", "upscale": 4, "embed_dim": 60}
    data["netG"] |= {"depths": [4] * 4, "num_heads": [6] * 4}
    data["path"]["pretrained_netTeacher"] = "teacher.pth"
    for key, value in values.items():
        section, name = key.split("__")
        data[section][name] = value
    return data


def options_of(data: dict[str, Any]) -> DistillOptions:
    objective = load_run_options(data).objective
    assert isinstance(objective, DistillOptions)
    return objective


def notes_of(data: dict[str, Any]) -> str:
    return "\n".join(convert(OptionFile("", data))[1])


def told(data: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        load_run_options(data)
    return str(caught.value)


def test_a_plain_file_stays_plain() -> None:
    assert load_run_options(PLAIN["classical"]).objective.type == "pixel"


@pytest.mark.parametrize(
    ("kind", "terms"),
    [("none", []), (None, []), ("response", ["response"]), ("feature", ["response", "feature"])],
)
def test_types_become_recipes(kind: str | None, terms: list[str]) -> None:
    given = options_of(fork_file(train__distillation_type=kind))
    assert given.recipe == f"classic-{kind or 'none'}@1"
    assert list(given.terms.active) == terms
    assert [str(each.weights) for each in given.teacher] == (["teacher.pth"] if terms else [])
    assert given.mapping == "first_k"


def test_the_forks_defaults_are_one_not_the_recipes() -> None:
    feature = options_of(fork_file(train__distillation_type="feature")).terms.feature
    assert feature is not None
    assert (feature.loss, feature.weight.value, feature.pairs, feature.target_norm) == (
        "l1",
        1.0,
        "sum",
        "none",
    )
    assert feature.projector.side == "teacher"


def test_losses_and_weights() -> None:
    data = fork_file(
        train__distillation_type="feature",
        train__distill_lossfn_type="l2",
        train__distill_lossfn_weight=0.5,
        train__feature_lossfn_type="l2",
        train__feature_lossfn_weight=0.01,
        path__pretrained_netP="5000_P.pth",
    )
    given = options_of(data)
    response, feature = given.terms.response, given.terms.feature
    assert response is not None and feature is not None
    assert (response.loss, response.weight.value) == ("l2", 0.5)
    assert (feature.loss, feature.weight.value) == ("l2", 0.01)
    assert given.pretrain_projectors == Path("5000_P.pth")
    assert "nothing" not in "".join(line for line in notes_of(data).splitlines() if "lossfn" in line)


def test_the_start_of_features_counts_and_is_told() -> None:
    data = fork_file(train__distillation_type="feature", train__start_feature_iter=4000)
    feature = options_of(data).terms.feature
    assert feature is not None and feature.weight.start == 4000
    assert "the fork never reads it" in notes_of(data)
    assert "weight.start=0 does the same" in notes_of(data)
    assert "never reads it" not in notes_of(
        fork_file(train__distillation_type="feature", train__start_feature_iter=0)
    )
    off = load_run_options(data, ["distill.terms.feature.weight.start=0"]).objective
    assert isinstance(off, DistillOptions) and off.terms.feature is not None
    assert off.terms.feature.weight.start == 0


def test_students_are_the_registrys_network() -> None:
    plain = load_run_options(fork_file()).network_g
    second = load_run_options(fork_file(netG__net_type="swinir_student_v2"))
    assert plain.type == second.network_g.type == "SwinIR"
    assert not plain.extra_residual  # type: ignore[attr-defined]
    assert second.network_g.extra_residual  # type: ignore[attr-defined]
    assert any("extra_residual" in note for note in second.warnings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"train__distillation_type": "features"},
            "allowed: none, response, feature; did you mean 'feature'?",
        ),
        (
            {"train__distillation_type": "response", "path__pretrained_netTeacher": None},
            "path: pretrained_netTeacher is missing: distillation_type 'response' needs",
        ),
        (
            {"train__distillation_type": "response", "train__distill_lossfn_type": "ssim"},
            "train.distill_lossfn_type: given 'ssim', not supported; supported: l1, l2, charbonnier",
        ),
        (
            {"train__distillation_type": "feature", "train__feature_lossfn_weights": 1},
            "train.feature_lossfn_weights: unknown key; did you mean 'feature_lossfn_weight'?",
        ),
        (
            {"train__distillation_type": "feature", "train__feature_lossfn_weight": -1},
            "distill.terms.feature.weight.value: given -1, allowed: a number, at least 0",
        ),
        (
            {"path__pretrained_netTeachers": "x.pth"},
            "path.pretrained_netTeachers: unknown key; did you mean 'pretrained_netTeacher'?",
        ),
        (
            {"netG__net_type": "swinir_students"},
            "supported: swinir, dncnn, rrdbnet, msrresnet1, swinir_student",
        ),
        ({"netG__upscale": 2}, "given 2, but scale is 4"),
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    said = told(fork_file(**values))
    assert message in said
    assert "\n" not in said


def test_a_mistake_names_the_json_line(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(
        as_kair_writes(fork_file(train__distillation_type="feature", train__feature_lossfn_weight=-1))
    )
    line = next(
        n for n, text in enumerate(path.read_text().splitlines(), 1) if "feature_lossfn_weight" in text
    )
    with pytest.raises(UserError) as caught:
        load_run_options(path)
    assert str(caught.value).startswith(
        f"{path}:{line} (train.feature_lossfn_weight): distill.terms.feature."
    )


@pytest.mark.parametrize(
    ("kind", "idle"),
    [
        (
            "none",
            ["distill_lossfn_type", "feature_lossfn_weight", "start_feature_iter", "pretrained_netTeacher"],
        ),
        ("response", ["feature_lossfn_weight", "start_feature_iter", "pretrained_netP"]),
        ("feature", []),
    ],
)
def test_keys_that_a_type_does_not_read_are_named(kind: str, idle: list[str]) -> None:
    notes = notes_of(
        fork_file(
            train__distillation_type=kind,
            train__distill_lossfn_type="l1",
            train__feature_lossfn_weight=0.01,
            train__start_feature_iter=10,
            path__pretrained_netP="P.pth",
        )
    )
    said = [line for line in notes.splitlines() if f"does nothing: distillation_type is '{kind}'" in line]
    assert len(said) == len(idle) + (kind == "none")
    assert all(any(name in line for line in said) for name in idle)


@pytest.mark.parametrize("kind", ["none", "response", "feature"])
def test_the_converted_file_says_all_that_the_recipe_means(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(as_kair_writes(fork_file(train__distillation_type=kind, train__start_feature_iter=7)))
    text, _ = converted_text(path)
    ours = tmp_path / "run.yml"
    ours.write_text(text)
    assert load_run_options(ours).objective == load_run_options(path).objective
    assert ("target_norm: none" in text) == (kind == "feature")
    assert ("mask: none" in text) == (kind != "none")
    # Written out, it is the recipe's own text: converting it again changes nothing below the header.
    again, _ = converted_text(ours)
    assert again.partition("\n")[2] == text.partition("\n")[2]


def test_an_optimiser_by_path_is_told_how_to_go_on() -> None:
    notes = notes_of(fork_file(path__pretrained_optimizerG="5000_optimizerG.pth"))
    assert "path.resume_state=models/N_G.pth" in notes


@pytest.mark.parametrize("odd", [None, "x", "", [], {}, [1, "x"], 3, 0, -1, True, 1.5])
def test_a_value_of_any_kind_is_read_or_refused(odd: Any) -> None:
    for place in (*(f"train__{key}" for key in _KEYS), *(f"path__{key}" for key in _PATHS), "netG__net_type"):
        try:
            load_run_options(fork_file(**{"train__distillation_type": "feature", place: odd}))
        except UserError as error:
            assert str(error), (place, odd)


def test_every_key_is_in_the_table() -> None:
    assert all(TABLE.find("train", key) for key in _KEYS)
    assert all(TABLE.find("path", key) for key in _PATHS)
