"""Recipes: what each name stands for never changes, what stands beside it wins, and people are shown all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from atelier.cli.main import app
from atelier.errors import UserError
from atelier.objectives.distill.options import DistillOptions
from atelier.objectives.distill.recipes import DEFAULT_RECIPE, RECIPES
from atelier.options.read import load_run_options

GOLDEN = Path(__file__).parent / "recipes"
KEYS = ("mapping", "combine", "projector_lr", "start", "terms")


def resolved(**given: Any) -> dict[str, Any]:
    options = DistillOptions.model_validate({"teacher": "teacher.pth", **given})
    return options.model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_recipe_never_changes(name: str) -> None:
    """A difference here means: publish the new one as name@n+1, with its study."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    now = resolved(recipe=name)
    assert {key: now[key] for key in KEYS} == {
        "start": "none"
    } | golden  # an option that older recipes do not have


def test_every_file_is_a_recipe() -> None:
    """None was withdrawn."""
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(RECIPES)


def test_a_changed_recipe_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES["upcycle@1"]["terms"]["upcycle"], "p", 0.5)
    golden = json.loads((GOLDEN / "upcycle@1.json").read_text())
    assert resolved(recipe="upcycle@1")["terms"] != golden["terms"]


def test_the_original_studys_arms() -> None:
    """1/1/0.01, l1, teacher-side linear projectors, raw targets, a sum over the pairs (their option files)."""
    assert resolved(recipe="classic-none@1")["terms"] == {}
    terms = resolved(recipe="classic-feature@1")["terms"]
    assert resolved(recipe="classic-response@1")["terms"] == {"response": terms["response"]}
    assert (terms["response"]["loss"], terms["response"]["weight"]["value"]) == ("l1", 1.0)
    feature = terms["feature"]
    assert (feature["loss"], feature["weight"]["value"], feature["pairs"]) == ("l1", 0.01, "sum")
    assert feature["projector"] == {"side": "teacher", "type": "linear", "bias": True}
    assert feature["target_norm"] == "none"


def test_a_teacher_alone_means_the_default() -> None:
    assert DEFAULT_RECIPE in RECIPES
    alone = resolved()
    assert alone == resolved(recipe=DEFAULT_RECIPE)
    assert alone["recipe"] == DEFAULT_RECIPE
    assert "recipe" not in resolved(terms={"response": {}})
    assert DistillOptions().recipe is None and DistillOptions().terms.active == {}
    assert DistillOptions().start == "none" and alone["start"] == "teacher"
    assert resolved(start="teacher") == alone


def test_the_original_studys_arms_begin_at_random() -> None:
    assert all(resolved(recipe=name)["start"] == "none" for name in RECIPES if name != "apprentice@1")
    begun = resolved(recipe="upcycle@1", start="teacher")
    assert begun["start"] == "teacher" and list(begun["terms"]) == ["response", "upcycle"]


def test_a_random_teacher_of_the_start_is_no_random_teacher_of_a_term() -> None:
    given = {"teacher": "t.pth", "recipe": "apprentice@1", "random_teacher": ["start"]}
    assert DistillOptions.model_validate(given).random_terms == frozenset()
    both = given | {"recipe": "feature@1", "start": "teacher", "random_teacher": ["start", "feature"]}
    assert DistillOptions.model_validate(both).random_terms == {"feature"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stands_for_what_it_expands_to(name: str) -> None:
    """Resolved options read again, recipe and all, are the same."""
    once = DistillOptions.model_validate({"teacher": "teacher.pth", "recipe": name})
    assert DistillOptions.model_validate(once.model_dump(mode="json")) == once
    without = {key: value for key, value in once.model_dump(mode="json").items() if key != "recipe"}
    assert DistillOptions.model_validate(without).terms == once.terms


def test_what_stands_beside_wins_key_by_key() -> None:
    given = resolved(
        recipe="feature@1",
        mapping="first_k",
        terms={
            "feature": {"weight": {"start": 10}, "projector": {"type": "mlp"}},
            "response": {"weight": 0.5},
        },
    )
    assert given["mapping"] == "first_k"
    feature = given["terms"]["feature"]
    assert (feature["weight"]["value"], feature["weight"]["start"]) == (0.06, 10)
    assert (feature["projector"]["type"], feature["projector"]["side"]) == ("mlp", "student")
    assert feature["target_norm"] == "calibrated"
    assert given["terms"]["response"]["weight"]["value"] == 0.5


def test_another_kind_of_weight_takes_the_recipes_place() -> None:
    weight = resolved(recipe="feature@1", terms={"feature": {"weight": {"grad_ratio": 0.1}}})["terms"][
        "feature"
    ]["weight"]
    assert weight["grad_ratio"] == 0.1 and "value" not in weight


def test_null_takes_a_term_out_and_a_name_adds_one() -> None:
    terms = resolved(recipe="feature@1", terms={"response": None, "attention": {}})["terms"]
    assert list(terms) == ["feature", "attention"]


def test_expanding_leaves_the_table_alone() -> None:
    before = json.dumps(RECIPES)
    resolved(recipe="feature@1", terms={"feature": {"weight": {"start": 10}, "projector": {"type": "mlp"}}})
    assert json.dumps(RECIPES) == before


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("feature@2", "feature@1"), ("upcyle@1", "upcycle@1"), ("classic_none@1", "classic-none@1")],
)
def test_an_unknown_recipe_names_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(
        ValidationError, match=rf"recipe '{wrong}' is not known; did you mean '{meant}'\?; known: "
    ):
        resolved(recipe=wrong)


# -------------------------------------------------------------------- in files


def run_file(folder: Path, section: str) -> Path:
    path = folder / "run.yml"
    path.write_text(
        "name: distilled\nscale: 2\n"
        f"distill:\n{section}"
        "datasets:\n  train: {dataroot_gt: bundled, gt_size: 32}\n"
        "network_g: {type: SRVGGNetCompact, num_feat: 8, num_conv: 2}\n"
    )
    return path


def test_convert_writes_a_recipe_out(tmp_path: Path) -> None:
    path = run_file(tmp_path, "  recipe: feature@1\n  teacher: t.pth\n  terms: {response: null}\n")
    result = CliRunner().invoke(app, ["options", "convert", str(path)])
    assert result.exit_code == 0
    assert "target_norm: calibrated" in result.stdout and "value: 0.06" in result.stdout
    expanded = tmp_path / "expanded.yml"
    expanded.write_text(result.stdout)
    assert load_run_options(expanded) == load_run_options(path)


def test_convert_names_the_default_recipe(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["options", "convert", str(run_file(tmp_path, "  teacher: t.pth\n"))])
    assert f"recipe: {DEFAULT_RECIPE}" in result.stdout


def test_check_shows_recipe_teacher_and_terms(tmp_path: Path) -> None:
    path = run_file(tmp_path, "  recipe: affinity@1\n  teacher: t.pth\n")
    result = CliRunner().invoke(app, ["options", "check", str(path)])
    assert result.exit_code == 0
    assert "affinity@1, teacher t.pth, mapping proportional" in result.stdout
    assert "mode: window" in result.stdout and "value: 0.08" in result.stdout


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        (
            "  recipe: feature@7\n  teacher: t.pth\n",
            4,
            "distill.recipe: recipe 'feature@7' is not known; did you",
        ),
        ("  teacher: [{weights: t.pth, bach: 2}]\n", 4, "distill.teacher.0.bach: unknown key"),
        ("  teacher: t.pth\n  terms:\n    respose: {}\n", 6, "distill.terms.respose: unknown key"),
        (
            "  teacher: t.pth\n  terms:\n    response: {weight: -1}\n",
            6,
            "distill.terms.response.weight.value: given",
        ),
        (
            "  teacher: t.pth\n  random_teacher: [feature]\n",
            5,
            "distill.random_teacher: random_teacher names 'feature'",
        ),
        (
            "  recipe: feature@1\n  teacher: t.pth\n  random_teacher: [start]\n",
            6,
            "distill.random_teacher: random_teacher names 'start'",
        ),
        ("  teacher: t.pth\n  start: none\n", 3, "distill: with start: none the default recipe apprentice@1"),
        ("  recipe: apprentice@1\n", 3, "distill: start: teacher needs a teacher"),
        ("  teacher: t.pth\n  start: techer\n", 5, "distill.start: given 'techer', allowed: 'none'"),
        ("  recipe: feature@1\n", 3, "distill: the terms response, feature need a teacher"),
        (
            "  teacher: t.pth\n  mapping: frist_k\n",
            5,
            "distill.mapping: given 'frist_k', allowed: 'proportional'",
        ),
        ("  teacher: t.pth\n  maping: first_k\n", 5, "distill.maping: unknown key"),
        ("  teacher: t.pth\n  taps: {student: []}\n", 5, "distill.taps.student: given []"),
    ],
)
def test_mistakes_are_one_line_under_the_files_own_names(
    section: str, line: int, message: str, tmp_path: Path
) -> None:
    path = run_file(tmp_path, section)
    with pytest.raises(UserError) as told:
        load_run_options(path)
    assert str(told.value).startswith(f"{path}:{line}: {message}")
    assert "objective" not in str(told.value) and "\n" not in str(told.value)


def test_a_mistake_in_the_long_form_keeps_its_name(tmp_path: Path) -> None:
    data = {
        "name": "x",
        "scale": 2,
        "objective": {"type": "distill", "mapping": "bad"},
        "distill": {"teacher": "t.pth"},
        "datasets": {"train": {"dataroot_gt": "bundled"}},
        "network_g": "SRVGGNetCompact",
    }
    with pytest.raises(UserError, match=r"^objective\.mapping: given 'bad'"):
        load_run_options(data)


def test_the_section_alone_is_enough_and_a_misspelt_one_is_found(tmp_path: Path) -> None:
    path = run_file(tmp_path, "  teacher: t.pth\n")
    assert load_run_options(path).objective.type == "distill"
    path.write_text(path.read_text().replace("distill:", "distil:"))
    with pytest.raises(UserError, match=r"distil: unknown key.*did you mean 'distill'"):
        load_run_options(path)
