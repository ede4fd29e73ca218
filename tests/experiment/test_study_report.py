"""The page of a study: of a real one with two arms and two seeds, and of results made up for it."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.errors import UserError
from atelier.evaluate.results import ValidationResult
from atelier.experiment import run
from atelier.experiment.cells import change_cell, value_cell
from atelier.experiment.latency import latencies
from atelier.experiment.markdown import report_markdown
from atelier.experiment.options import load_study
from atelier.experiment.plan import make_plan
from atelier.experiment.report import Extras, extras_of, headline, render, write_study_report
from atelier.experiment.report_charts import training_charts, validation_charts
from atelier.experiment.report_pictures import most_disputed, shown_seeds, window_at
from atelier.experiment.results import Results, RunResults, collect
from studies import study_of, write_base

VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Open tags must close; text, links and pictures are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value or "" for key, value in attrs if key in {"src", "href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for key, value in attrs if key in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Results, str]:
    """Content of study.json, results and page of two arms and two seeds of 6 steps, with a teacher."""
    root = tmp_path_factory.mktemp("page")
    train = {"total_iter": 6, "optim_g": {"type": "Adam", "lr": 1e-3}, "ema_decay": 0.9}
    write_base(root, train=train, logger={"print_freq": 2, "save_checkpoint_freq": 6, "use_tb_logger": False})
    result = run(study_of(root), say=lambda line: None)
    assert result.complete
    teacher = result.folder / "none" / "seed_1" / "models" / "net_g_6.pth"
    study = study_of(root, teacher=str(teacher))
    run(study, report_only=True, say=lambda line: None)
    told = json.loads((result.folder / "study.json").read_text())
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    return told, collect(make_plan(load_study(study))), page


def test_the_page_stands_alone_and_is_well_formed(finished: tuple[dict[str, Any], Results, str]) -> None:
    page = Page(finished[2])
    anchors = set(re.findall(r'id="([^"]+)"', finished[2]))
    assert page.sources
    for source in page.sources:
        assert source.startswith("data:image/") or (source[0] == "#" and source[1:] in anchors)
    assert "default-src 'none'" in finished[2]
    assert not re.search(r"https?://(?!www\.w3\.org)", finished[2])


def test_every_number_comes_from_the_study(finished: tuple[dict[str, Any], Results, str]) -> None:
    told, _, html = finished
    text = Page(html).text
    unit = told["protocols"]["psnr_y"]
    low = told["arms"][1]
    assert text.index("Verdicts") < text.index("Curves of validation") < text.index("Costs")
    for arm in told["arms"]:
        assert value_cell(arm["summary"]["all"]["psnr_y"]["mean"], unit) in text
        assert f"{arm['cost']['parameters']:,}" in text
    assert change_cell(low["comparison"]["all"]["psnr_y"]["mean"], unit) in text
    for differences in low["per_image"]["differences"].values():
        for value in differences.values():
            assert change_cell(value, unit) in text
    assert low["verdict"] in headline(told) and headline(told) in text
    assert told["primary"]["protocol"] in text
    assert low["changes"][0] in text and told["command"] in text
    for digest in (*told["data"].values(), low["runs"][0]["digest"]):
        assert digest in text
    assert told["environment"]["packages"]["torch"] in text


def test_the_same_results_give_the_same_page(
    finished: tuple[dict[str, Any], Results, str], tmp_path: Path
) -> None:
    told, results, html = finished
    again = write_study_report(told, results, tmp_path / "again.html")
    assert again.read_text(encoding="utf-8") == html


def test_crops_show_every_network_and_their_errors(
    finished: tuple[dict[str, Any], Results, str],
) -> None:
    told, results, html = finished
    extras = extras_of(told, results)
    parts = extras.pictures
    assert parts.seeds == {"none": 0, "low": 0} and parts.notes == []
    assert len(parts.places) == len(parts.cards) == 3
    for place in parts.places:
        assert [layer.kind for layer in place.crop.layers] == ["lq", "a0", "a1", "t0", "gt"]
        assert set(place.errors) == {"a0", "a1", "t0"} and set(place.gains) == {"a1", "t0"}
        assert set(place.crop.values) == {"none", "low", "teacher"}
    test, image = parts.places[0].crop.image.split("/")
    value = results.runs["low", 0].tests[test].images[image]["psnr_y"]
    assert parts.places[0].crop.values["low"] == value_cell(value, told["protocols"]["psnr_y"])
    assert extras.weights["low/seed_1"]["sha256"] in html


def test_pictures_that_the_study_names_are_shown_behind_the_others(
    finished: tuple[dict[str, Any], Results, str],
) -> None:
    """A crop at a given place, moved to whole lq pixels and into the picture; a slider for each picture once."""
    told, results, _ = finished
    names = [{"image": "grey/brick", "at": [7, 500]}, "cat/chelsea"]
    root = results.plan.root.parents[1]
    study = load_study(study_of(root, teacher=str(results.plan.study.teacher), pictures=names))
    named = Results(make_plan(study), results.runs)
    parts = extras_of(told, named).pictures
    assert [place.named for place in parts.places] == [False, False, False, True]
    crop = parts.places[-1].crop
    assert (crop.image, crop.left, crop.top, crop.width, crop.height) == ("grey/brick", 0, 0, 64, 64)
    assert window_at((7, 500), np.zeros((200, 100, 3), np.uint8), 2) == (136, 6, 64, 64)
    assert len(parts.cards) == 3
    text = Page(render(told, Extras(pictures=parts))).text
    assert "Chosen by rule: the 3 test pictures" in text and "named in the study file" in text


def test_named_pictures_must_exist(tmp_path: Path) -> None:
    for name, message in (
        ("cta/chelsea", r"names no picture of a test set.*'cat'"),
        ("chelsea", "write SET/PICTURE; test sets: cat, grey"),
        ("grey/brik", r"the test set 'grey' has no picture 'brik'.*'brick'.*pictures: camera, brick"),
    ):
        with pytest.raises(UserError, match=message):
            run(study_of(tmp_path, pictures=[name]), dry_run=True, say=lambda line: None)


def test_latency_is_measured_once_for_each_network(
    finished: tuple[dict[str, Any], Results, str],
) -> None:
    told, results, html = finished
    kept = json.loads((results.plan.own / "latency.json").read_text())
    assert set(kept["networks"]) == {"none", "low", "teacher net_g_6.pth"}
    assert kept["networks"]["none"] == kept["networks"]["low"]  # one architecture, one measurement
    assert set(kept["networks"]["none"]) == {"1", "8"}
    times = [time for by_batch in kept["networks"].values() for time in by_batch.values()]
    assert all(0 < time["p50"] <= time["p95"] and time["rounds"] >= 3 for time in times)
    assert f"{1000 * kept['networks']['low']['8']['p95']:.2f} ms" in html
    assert told["latency"] == kept
    assert set(kept["memory"]) == set(kept["networks"]) and all(
        size > 1e4 for size in kept["memory"].values()
    )
    markdown = (results.plan.root / "report.md").read_text(encoding="utf-8")
    for cell in (
        f"{1000 * kept['networks']['low']['8']['p95']:.2f} ms",
        f"{kept['memory']['low'] / 1e6:.1f} MB",
    ):
        assert cell in html and cell in markdown
    assert latencies(Results(results.plan, results.runs, results.plan.runs[:1]), []) is None


def test_lost_weights_are_told_and_the_rest_is_shown(
    finished: tuple[dict[str, Any], Results, str],
) -> None:
    told, results, _ = finished
    model = results.runs["low", 0].run.folder / "models" / "net_g_6.pth"
    aside = model.with_suffix(".aside")
    model.rename(aside)
    try:
        parts = extras_of(told, results).pictures
    finally:
        aside.rename(model)
    assert parts.places == []
    assert any("low/seed_0 is not shown" in note for note in parts.notes)


def test_what_the_teacher_costs_an_arm_is_in_both_reports(
    finished: tuple[dict[str, Any], Results, str],
) -> None:
    study = copy.deepcopy(finished[0])
    assert all(arm["cost"]["teacher_share"] is None for arm in study["arms"])
    study["arms"][1]["cost"] |= {"teacher_share": 0.734, "cache_bytes": 35_000_000_000}
    text = Page(render(study, Extras())).text
    assert "73.4 % 35 GB stored" in text
    assert "| 73% | 35 GB |" in report_markdown(study)


def made_up(told: dict[str, Any]) -> dict[str, Any]:
    """The study with curves, details and cost whose drawing can be foreseen."""
    study = copy.deepcopy(told)
    for place, arm in enumerate(study["arms"]):
        arm["cost"]["step_seconds"] = 1.0 + place
        arm["curves"] = {
            str(seed): {
                "validation": {"val": {"psnr": [[10, 20.0 + place + seed], [20, 30.0 + 2 * place + seed]]}},
                "train": {
                    "step": [10, 20],
                    "lr": [1e-3, 1e-3],
                    "losses": {"l_g_pix": [0.2, 0.1]},
                    "details": {
                        "share_feature": [0.5, 0.25 * (seed + 1)],
                        "grad_share_feature": [0.1, 0.2],
                        "raw_feature": [3.0, None],
                        "tap_std_student_1": [1.0, 0.9],
                        "tap_error_2": [0.4, "nan"],
                    }
                    if place
                    else {},
                },
            }
            for seed in (0, 1)
        }
    return study


PROTOCOLS = {"val": {"psnr": "PSNR-Y (BT.601, crop 2)"}}


def test_curves_over_steps_time_and_against_the_reference(
    finished: tuple[dict[str, Any], Results, str],
) -> None:
    steps, hours, difference = validation_charts(made_up(finished[0]), PROTOCOLS)[0]
    assert [each.name for each in steps.series] == ["none", "low"]
    assert [point[3] for point in steps.series[0].points] == ["20.50 dB", "30.50 dB"]
    assert all(each.band for each in steps.series)
    assert hours.unit == "over seconds of training"
    assert [each.points[-1][2] for each in hours.series] == ["20.00 seconds", "40.00 seconds"]
    # Seed by seed: the scatter of the seeds is in both arms and cancels.
    (paired,) = difference.series
    assert [point[3] for point in paired.points] == ["+1.000 dB", "+2.000 dB"] and paired.band == ""
    assert paired.colour == 1


def test_shares_and_taps_are_drawn_by_their_names(finished: tuple[dict[str, Any], Results, str]) -> None:
    groups = training_charts(made_up(finished[0]))
    assert [chart.title for chart in groups["Losses"]] == ["Loss l_g_pix"]
    shares = {chart.unit: chart for chart in groups["Shares of loss and gradient"]}
    assert set(shares) == {"% of the total loss", "% of the gradient"}
    (low,) = shares["% of the total loss"].series
    assert [point[3] for point in low.points] == ["50.0 %", "37.5 %"] and low.band
    inside = {chart.title: chart for chart in groups["Inside the terms"]}
    assert list(inside) == ["Term feature", "Std of the student's tap", "Relative error of the taps"]
    assert len(inside["Term feature"].series[0].points) == 1
    assert inside["Relative error of the taps"].notes == ["1 value is not finite and left out"]
    page = Page(render(made_up(finished[0]), Extras(protocols=PROTOCOLS)))
    assert "Share of feature" in page.text


def test_an_incomplete_study_says_so_first(finished: tuple[dict[str, Any], Results, str]) -> None:
    study = copy.deepcopy(finished[0])
    study["complete"] = False
    study["missing"] = [{"run": "low/seed_1", "state": "failed", "error": "out of <memory>\nat step 3"}]
    html = render(study, Extras())
    text = Page(html).text
    assert "Incomplete: 1 of 4 runs is missing." in text
    assert text.index("out of <memory> at step 3") < text.index("Verdicts")
    assert '<section class="verdict bad"' in html


def test_a_study_without_any_finished_run_has_a_page(tmp_path: Path) -> None:
    lines: list[str] = []
    result = run(study_of(tmp_path), report_only=True, say=lines.append)
    text = Page((result.folder / "report.html").read_text(encoding="utf-8")).text
    assert "Incomplete: 4 of 4 runs are missing." in text
    assert "Pictures are shown once two arms have a finished run." in text


def with_scores(results: Results, values: dict[tuple[str, int], dict[str, float]]) -> Results:
    runs = {
        key: RunResults(
            results.runs[key].run,
            {
                name: ValidationResult(
                    name,
                    {image: {"psnr_y": found.get(image, 30.0)} for image in each.images},
                    each.metrics,
                )
                for name, each in results.runs[key].tests.items()
            },
            results.runs[key].record,
            "ema",
        )
        for key, found in values.items()
    }
    return Results(results.plan, runs)


def test_the_most_disputed_pictures_come_first(finished: tuple[dict[str, Any], Results, str]) -> None:
    values = {
        ("none", 0): {"camera": 31.0, "chelsea": 30.0},
        ("none", 1): {"camera": 29.0, "chelsea": 30.0},
        ("low", 0): {"camera": 30.0, "chelsea": 29.5, "brick": 30.1},
        ("low", 1): {"camera": 30.0, "chelsea": float("inf"), "brick": 30.1},
    }
    results = with_scores(finished[1], {**values, ("low", 1): values["low", 0]})
    # camera scatters between seeds, but the means of the arms agree; brick differs little.
    assert most_disputed(results)[0] == ("cat", "chelsea")
    assert most_disputed(results, 1) == [("cat", "chelsea")]
    # A picture that an arm restores perfectly has no finite spread and does not crowd out the others.
    assert most_disputed(with_scores(finished[1], values))[0] == ("grey", "brick")


def test_the_shown_seed_is_one_that_all_arms_finished(
    finished: tuple[dict[str, Any], Results, str],
) -> None:
    results = finished[1]
    kept = {key: each for key, each in results.runs.items() if key != ("low", 0)}
    assert shown_seeds(Results(results.plan, kept)) == {"none": 1, "low": 1}
    alone = {key: each for key, each in results.runs.items() if key[0] == "none"}
    assert shown_seeds(Results(results.plan, alone)) == {"none": 0}
