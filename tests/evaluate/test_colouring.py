"""Coloured films measured beside the true ones: rows, frames that do not count, and the files that are written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atelier.colorize.modes import MotionFinder
from atelier.colorize.working import join, lightness
from atelier.errors import UserError
from atelier.evaluate.colouring import COLUMNS, Colouring, SeenFrame, described, measure_films
from atelier.evaluate.colouring_report import colouring_text, mean_of, show, write_colouring
from atelier.evaluate.films import TRUTH
from atelier.evaluate.results import Pixels
from atelier.metrics.colour_difference import (
    ab_psnr,
    ab_ssim,
    ciede2000,
    colour_differences,
    delta_ab,
)
from atelier.metrics.psnr import psnr


def truth(frames: int = 4, size: tuple[int, int] = (40, 56)) -> list[Pixels]:
    """A smooth coloured picture that moves by two pixels a frame."""
    rows, columns = np.mgrid[: size[0], : size[1] + 2 * frames]
    waves = [np.sin(columns / 5 + phase) * np.cos(rows / 7 - phase) for phase in (0.0, 1.3, 2.9)]
    wide = np.stack([127 + 90 * wave for wave in waves], axis=2).astype(np.uint8)
    return [np.ascontiguousarray(wide[:, 2 * t : 2 * t + size[1]]) for t in range(frames)]


def grey(frame: Pixels) -> Pixels:
    import torch

    whole = lightness(frame)
    return join(whole, torch.zeros(1, 2, *whole.shape[-2:]), np.uint8)[0]


def film(*, first_counts: bool = True, colours: int = 9) -> Iterator[SeenFrame]:
    for number, gt in enumerate(truth()):
        off = np.clip(gt.astype(int) + np.array([colours, 0, -colours]), 0, 255).astype(np.uint8)
        yield SeenFrame(gt, {"grey": grey(gt), "off": off, "same": gt}, number > 0 or first_counts)


def measured(*films: Iterator[SeenFrame]) -> Colouring:
    named = [(f"film{n}", each) for n, each in enumerate(films)]
    return measure_films(
        named, MotionFinder(), judged="off", beside="grey", title="<t>", where="gt", facts={"How": "by hand"}
    )


@pytest.fixture(scope="module")
def table() -> Colouring:
    return measured(film(), film(first_counts=False, colours=20))


def test_the_truth_itself_has_no_error_and_grey_no_colour(table: Colouring) -> None:
    same, none, true = (table.films[0].values[row] for row in ("same", "grey", TRUTH))
    assert (same["psnr"], same["delta_ab"], same["cdc_off"]) == (math.inf, 0, 0)
    assert same["colourfulness_share"] == pytest.approx(1)
    assert same["warp_error"] == true["warp_error"]
    assert none["colourfulness"] < 0.5
    assert none["warp_error"] < 0.05
    assert "psnr" not in true


def test_rows_stand_between_grey_and_the_truth(table: Colouring) -> None:
    assert table.rows == ["grey", "off", "same", TRUTH]


def test_means_are_of_the_frames_that_count(table: Colouring) -> None:
    all_of, fewer = table.films
    assert (list(all_of.numbers), list(fewer.numbers), fewer.frames) == ([0, 1, 2, 3], [1, 2, 3], 4)
    for each in table.films:
        values = [frame["psnr"] for frame in each.by_frame["off"]]
        assert len(values) == len(each.numbers)
        assert each.values["off"]["psnr"] == pytest.approx(np.mean(values))
    gt, off = next((frame.gt, frame.rows["off"]) for frame in film())
    assert all_of.by_frame["off"][0]["psnr"] == psnr(off, gt)
    over_films = np.mean([each.values["off"]["psnr"] for each in table.films])
    assert mean_of(table, "off", "psnr") == pytest.approx(over_films)


def test_nothing_is_compared_across_a_cut(table: Colouring) -> None:
    """The same scene twice, its colours turned the second time, measures as steady as once."""

    def cut(told: bool) -> Iterator[SeenFrame]:
        yield from film()
        for number, seen in enumerate(film()):
            turned = {row: np.ascontiguousarray(each[..., ::-1]) for row, each in seen.rows.items()}
            gt = np.ascontiguousarray(seen.gt[..., ::-1])
            yield SeenFrame(gt, turned, begins=told and not number)

    film_rows = measured(cut(True)).films[0]
    assert (list(film_rows.scenes), film_rows.frames) == ([0, 4], 8)
    once = table.films[0].values
    for row in ("off", "same", TRUTH):
        # Within a scene, red and blue change as much as blue and red.
        assert film_rows.values[row]["cdc"] == pytest.approx(once[row]["cdc"], rel=1e-9)
    blind = measured(cut(False)).films[0]
    assert list(blind.scenes) == [0]
    assert blind.values[TRUTH]["cdc"] > 1.2 * film_rows.values[TRUTH]["cdc"]
    assert blind.values[TRUTH]["warp_error"] > 1.2 * film_rows.values[TRUTH]["warp_error"]
    told = colouring_text(measured(cut(True), film()))
    assert "film0: 2 scenes, from frames 0, 4" in told and "film1:" not in told


def test_one_conversion_gives_the_same_differences() -> None:
    gt, *_ = truth()
    other = np.roll(gt, 3, axis=1)
    single = {"ab_psnr": ab_psnr, "ab_ssim": ab_ssim, "delta_ab": delta_ab, "ciede2000": ciede2000}
    assert colour_differences(other, gt) == {name: function(other, gt) for name, function in single.items()}


def test_weights_that_are_missing_are_null_with_a_reason(table: Colouring, tmp_path: Path) -> None:
    missing = table.missing()
    if "lpips" not in missing:
        pytest.skip("LPIPS's weights are on this machine")
    assert "weights not available" in missing["lpips"]
    assert mean_of(table, "off", "lpips") is None
    write_colouring(table, tmp_path)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["mean"]["off"]["lpips"] is None
    assert stored["measures"]["lpips"]["reason"] == missing["lpips"]
    assert f"lpips: null, {missing['lpips']}" in colouring_text(table)


def test_the_files_hold_every_number(table: Colouring, tmp_path: Path) -> None:
    paths = write_colouring(table, tmp_path)
    assert set(paths) == {"summary.csv", "frames.csv", "evaluation.json", "report.html"}
    with paths["summary.csv"].open() as file:
        summary = list(csv.DictReader(file))
    assert [(line["film"], line["row"]) for line in summary[-4:]] == [("mean", row) for row in table.rows]
    assert list(summary[0]) == ["film", "row", *COLUMNS]
    assert float(summary[1]["psnr"]) == table.films[0].values["off"]["psnr"]
    with paths["frames.csv"].open() as file:
        frames = list(csv.DictReader(file))
    assert len(frames) == 4 * (4 + 3)
    assert {line["frame"] for line in frames if line["film"] == "film1"} == {"1", "2", "3"}
    stored = json.loads(paths["evaluation.json"].read_text())
    assert stored["films"]["film0"]["mean"]["same"]["psnr"] == "inf"
    assert stored["films"]["film1"]["counted"] == [1, 2, 3]
    page = paths["report.html"].read_text()
    assert "&lt;t&gt;" in page
    assert "<t>" not in page
    assert all(row in page for row in table.rows)
    assert "by hand" in page


def test_the_text_has_a_dash_where_there_is_nothing(table: Colouring) -> None:
    lines = {line.split("  ")[0]: line for line in colouring_text(table).splitlines()}
    assert lines[TRUTH].split()[2] == "–"
    assert show("psnr", math.inf) == "∞"
    assert show("cdc", 0.00123) == "0.00123"


def test_colourfulness_is_not_called_better_or_worse(table: Colouring, tmp_path: Path) -> None:
    page = write_colouring(table, tmp_path)["report.html"].read_text()
    assert f"{described()['psnr'].protocol}, higher is better" in page
    assert f"{described()['colourfulness'].protocol}, higher" not in page


def test_the_worst_frame_is_shown() -> None:
    def frames() -> Iterator[SeenFrame]:
        for number, frame in enumerate(film()):
            rows = dict(frame.rows)
            if number == 2:
                rows["off"] = 255 - frame.gt
            yield SeenFrame(frame.gt, rows)

    shown = measured(frames()).films[0].shown
    assert [(each.number, each.why) for each in shown] == [
        (0, "first"),
        (2, "worst against grey"),
        (3, "last"),
    ]


def test_films_that_cannot_be_measured_are_named() -> None:
    with pytest.raises(UserError, match="film0 is grey"):
        measured(SeenFrame(grey(gt), {"grey": grey(gt), "off": gt}) for gt in truth())
    with pytest.raises(UserError, match="film0, frame 0: off is 28x40, the truth 56x40"):
        measured(SeenFrame(gt, {"grey": grey(gt), "off": gt[:, ::2]}) for gt in truth())
    with pytest.raises(UserError, match="none of which counts"):
        measured(SeenFrame(gt, {"grey": grey(gt), "off": gt}, False) for gt in truth())
    with pytest.raises(UserError, match="no films"):
        measured()
