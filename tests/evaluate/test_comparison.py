"""Comparing models: numbers agree with their definitions, bad pictures are named, pages hold what was measured."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atelier.archs.facts import NetworkFacts
from atelier.errors import UserError
from atelier.evaluate.bootstrap import mean_interval
from atelier.evaluate.comparison import Candidate, Comparison, compare, labels_of
from atelier.evaluate.comparison_report import (
    FEWEST_FOR_INTERVALS,
    caution,
    headline,
    pictures_csv,
    quality_rows,
    render,
    summary_csv,
    summary_text,
    write_comparison,
)
from atelier.evaluate.criteria import Criterion, judge_criteria, read_criteria, read_figures
from atelier.evaluate.crops import largest_difference
from atelier.evaluate.latency import common_size, measure_times
from atelier.evaluate.pictures import PairSource
from atelier.images import imresize
from atelier.metrics import psnr, ssim
from atelier.restore import RestorationModel
from atelier.restore.exported import ExportedFacts, ExportedNetwork, Memory, Port, Session


class Nearest(nn.Module):
    """Nearest enlargement times a factor: known numbers without weights to load."""

    def __init__(self, factor: float = 1.0, scale: int = 2) -> None:
        super().__init__()
        self.factor, self.scale = nn.Parameter(torch.tensor(factor)), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3) * self.factor


def candidate(folder: Path, label: str, factor: float, scale: int = 2) -> Candidate:
    path = folder / f"{label}.pth"
    path.write_bytes(b"0" * 1000)
    facts = NetworkFacts("Nearest", scale, 3, 3, "SR", receptive_radius=0)
    return Candidate(label, path, RestorationModel(Nearest(factor, scale), facts, device="cpu"))


def picture(index: int, size: tuple[int, int] = (47, 62)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    smooth = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return imresize(smooth, size=size)


def sources(count: int = 4) -> list[PairSource]:
    return [PairSource(f"p{i}", lambda i=i: picture(i)) for i in range(count)]  # type: ignore[misc]


def compared(folder: Path, pictures: Sequence[PairSource] | None = None, **options: Any) -> Comparison:
    models = [
        candidate(folder, "before", 0.8),
        candidate(folder, "after", 0.95),
        candidate(folder, "original", 1.0),
    ]
    options = {"where": "some/Set5", "size": (16, 24), "timed": False, "quiet": True} | options
    return compare(models, sources() if pictures is None else pictures, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(tmp_path_factory.mktemp("models"))


def test_numbers_are_those_of_the_metrics(done: Comparison) -> None:
    assert [column.label for column in done.columns] == ["before", "after", "original", "nearest", "bicubic"]
    assert (done.judged, done.original) == ("after", "original")
    for index in range(4):
        gt = picture(index)[:46]
        lq = imresize(gt, scale=0.5)
        outputs = {"bicubic": imresize(lq, scale=2), "original": lq.repeat(2, 0).repeat(2, 1)}
        outputs["nearest"] = outputs["original"]
        for column in done.columns:
            if column.label in outputs:
                values = column.result.images[f"p{index}"]
                assert values["psnr"] == psnr(outputs[column.label], gt, crop_border=2)
                assert values["ssim_y"] == ssim(outputs[column.label], gt, crop_border=2, y=True)
    protocols = [mean.protocol for mean in done.first.result.metrics.values()]
    assert protocols[:3] == ["PSNR-RGB (crop 2)", "SSIM-RGB (crop 2)", "PSNR-Y (BT.601, crop 2)"]
    assert any("MATLAB's bicubic at 1/2" in sentence for sentence in done.protocol)


def test_changes_are_paired_and_costs_counted(done: Comparison) -> None:
    first, after = done.columns[0], done.columns[1]
    change = after.changes["psnr"]
    differences = [
        after.result.images[p]["psnr"] - first.result.images[p]["psnr"] for p in first.result.images
    ]
    assert change.mean == pytest.approx(np.mean(differences))
    assert change.interval is not None and change.interval[0] <= change.mean <= change.interval[1]
    assert (change.better, change.count) == (sum(d > 0 for d in differences), 4)
    assert not first.changes
    assert first.cost is not None
    assert (first.cost.parameters, first.cost.file_bytes, first.cost.macs) == (1, 1000, 0)
    # 4 bytes of weights, and at least the output of 32x48.
    assert first.cost.memory_bytes >= 4 + 3 * 32 * 48 * 4


def test_csv_holds_the_numbers_in_full(done: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(pictures_csv(done))))
    assert len(rows) == 4 * 5 + 5
    for row in rows[:-5]:
        column = next(each for each in done.columns if each.label == row["model"])
        assert float(row["psnr"]) == column.result.images[row["picture"]]["psnr"]
    summary = {row["model"]: row for row in csv.DictReader(io.StringIO(summary_csv(done)))}
    assert float(summary["after"]["psnr"]) == done.columns[1].result.metrics["psnr"].value
    assert float(summary["after"]["psnr_change_low"]) == done.columns[1].changes["psnr"].interval[0]  # type: ignore[index]
    assert summary["bicubic"]["parameters"] == "" and summary["before"]["latency_s"] == ""


def test_bad_pictures_are_named_and_the_others_measured(tmp_path: Path) -> None:
    def broken() -> Any:
        raise UserError("torn.png: cannot be decoded")

    bad = [
        PairSource("torn", broken),
        PairSource("size", lambda: picture(0), lambda: picture(1, (20, 20))),
        PairSource("tiny", lambda: picture(0, (8, 8))),
        PairSource("grey", lambda: picture(0)[:, :, :1]),
        PairSource("alpha", lambda: np.dstack([picture(0), picture(1)[:, :, :1]])),
    ]
    done = compared(tmp_path, [*sources(2), *bad], failed=[("lonely.png", "no partner")])
    assert list(done.first.result.images) == ["p0", "p1"]
    reasons = dict(done.failed)
    assert list(reasons) == ["lonely.png", "torn", "size", "tiny", "grey", "alpha"]
    assert "cannot be decoded" in reasons["torn"] and "needs 23×31" in reasons["size"]
    assert "too small" in reasons["tiny"] and "1 channels" in reasons["grey"] and "alpha" in reasons["alpha"]
    with pytest.raises(UserError, match=r"no picture could be measured\n  torn: torn\.png"):
        compared(tmp_path, bad[:1])


def test_a_non_finite_output_is_a_bad_picture(tmp_path: Path) -> None:
    models = [candidate(tmp_path, "a", 1.0), candidate(tmp_path, "b", math.nan)]
    with pytest.raises(UserError, match=r"p0: .*NaN"):
        compare(models, sources(1), where="x", timed=False, quiet=True)


def test_mistakes(tmp_path: Path) -> None:
    models = [candidate(tmp_path, "a", 1.0), candidate(tmp_path, "b", 1.0, scale=4)]
    with pytest.raises(UserError, match=r"different scales.*a ×2, b ×4"):
        compare(models, sources(1), where="x", quiet=True)
    with pytest.raises(UserError, match="no model is called 'c'; they are called before, after, original"):
        compared(tmp_path, judged="c")
    with pytest.raises(UserError, match="must not be called 'bicubic'"):
        compare([candidate(tmp_path, "bicubic", 1.0)], sources(1), where="x", quiet=True)


def test_labels() -> None:
    assert labels_of([Path("a/x.pth"), Path("b/y.pth")]) == ["x", "y"]
    same = [Path("runs/a/models/net.pth"), Path("runs/b/models/net.pth")]
    assert labels_of(same) == ["a/models/net", "b/models/net"]
    assert labels_of([Path("a/x.pth"), Path("a/x.safetensors")]) == ["a/x.pth", "a/x.safetensors"]
    with pytest.raises(UserError, match="given twice"):
        labels_of([Path("a/x.pth"), Path("a/x.pth")])


def test_bootstrap() -> None:
    values = np.random.default_rng(0).normal(10, 2, 200)
    low, high = mean_interval(values.tolist()) or (0, 0)
    half = 1.96 * values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert mean_interval(values.tolist()) == (low, high)
    assert mean_interval([1.0]) is None and mean_interval([1.0, math.inf]) is None
    assert mean_interval([2.0, 2.0, math.inf]) == (2.0, 2.0)


def test_times_leave_out_the_warm_up_and_take_turns(tmp_path: Path) -> None:
    models = [candidate(tmp_path, label, 1.0).model for label in "ab"]
    ticks = iter(range(10_000))
    clock: list[float] = []

    def tick() -> float:
        # The first model takes 1 second in the warm-up and 3 after it, the second always 5.
        call = next(ticks)
        run, end = divmod(call, 2)
        if end:
            clock.append(clock[-1] + (5 if run % 2 else (1 if run < 4 else 3)))
        else:
            clock.append(clock[-1] if clock else 0.0)
        return clock[-1]

    first, second = measure_times(models, (8, 8), warmups=2, rounds=3, clock=tick)
    assert (first.median, first.lower, first.rounds, second.median) == (3.0, 3.0, 3, 5.0)


def foreign(folder: Path, label: str, *, multiple: int = 1, **facts: Any) -> Candidate:
    """A network of another runtime that takes whole multiples of ``multiple`` only, and its file of 1000 bytes."""

    def run(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] % multiple or x.shape[-1] % multiple:
            raise UserError(f"the runtime stopped at {tuple(x.shape)}")
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    port = Port(range=(0, 1), channel_order="RGB")
    known = ExportedFacts(
        scale=2, in_channels=3, out_channels=3, input=port, output=port, size_multiple=multiple, **facts
    )
    path = folder / f"{label}.onnx"
    path.write_bytes(b"0" * 1000)
    return Candidate(
        label, path, RestorationModel(ExportedNetwork(Session(run, "none"), known), known, device="cpu")
    )


def timed(models: list[Candidate], **options: Any) -> Comparison:
    options = {"where": "x", "size": (16, 24), "quiet": True} | options
    return compare(models, sources(1), **options)


def test_the_size_is_one_that_all_models_take(tmp_path: Path) -> None:
    models = [candidate(tmp_path, "a", 1.0), foreign(tmp_path, "b", multiple=7)]
    assert common_size([models[1].model, foreign(tmp_path, "c", multiple=2).model], (16, 24)) == (28, 28)
    done = timed(models)
    assert done.size == (21, 28)
    assert all(column.cost is not None and column.cost.timing is not None for column in done.models)
    sentence = "The input 16×24 that was asked for is rounded up to 21×28"
    assert any(each.startswith(sentence) for each in done.protocol)
    assert not any("rounded up" in each for each in timed(models[:1]).protocol)


def test_a_model_that_does_not_run_at_the_size_goes_without_time_and_memory(tmp_path: Path) -> None:
    memory = Memory(bytes_per_pixel=100, elements_per_pixel=1)
    lame = foreign(tmp_path, "lame", least_size=20, parameters=5, memory=memory)
    for models in ([candidate(tmp_path, "a", 1.0), lame], [lame, candidate(tmp_path, "a", 1.0)]):
        done = timed(models, judged="lame")
        cost = next(column.cost for column in done.models if column.label == "lame")
        assert cost is not None and cost.timing is None and cost.memory_bytes is None and cost.parameters == 5
        why = "it does not run at 16×24: this model takes pictures from 20x20 pixels up, not 24x16"
        values = done.values()
        assert (
            values["lame"]["psnr"] > 0
            and "latency_ms" not in values["lame"]
            and values["a"]["latency_ms"] > 0
        )
        assert ("latency_ratio" in values["a"]) == (models[0].label == "a")
        assert dict(done.missing())["memory_mb, latency_ms, latency_ratio of lame"] == why
        for text in (
            summary_text(done),
            render(done, [], "comparison.md.j2"),
            render(done, [], "comparison.html.j2"),
        ):
            assert why in text and "not computed" in text
        asked = [Criterion(name="fast", measure="latency_ms", at_most=1e9)]
        (line,) = judge_criteria(
            asked, values, judged="lame", original="a", where="x", why_not=done.why_not("lame")
        )
        assert (line.state, line.note) == ("not measurable", why)


def test_models_are_tried_before_the_first_picture(tmp_path: Path) -> None:
    ran: list[tuple[int, ...]] = []

    class Watched(Nearest):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ran.append(tuple(x.shape[-2:]))
            return super().forward(x)

    facts = NetworkFacts("Watched", 2, 3, 3, "SR", receptive_radius=0)
    model = RestorationModel(Watched(), facts, device="cpu")
    timed([Candidate("w", candidate(tmp_path, "w", 1.0).path, model)], timed=False)
    assert ran[0] == (16, 24) and (23, 31) in ran[1:]


def test_times_that_fail_in_the_end_lose_no_pictures(tmp_path: Path) -> None:
    class Tired(Nearest):
        left = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Tired.left -= 1
            if not Tired.left:
                raise MemoryError
            return super().forward(x)

    facts = NetworkFacts("Tired", 2, 3, 3, "SR", receptive_radius=0)
    tired = Candidate("t", candidate(tmp_path, "t", 1.0).path, RestorationModel(Tired(), facts, device="cpu"))
    done = timed([candidate(tmp_path, "a", 1.0), tired])
    assert Tired.left <= 0 and len(done.first.result.images) == 1
    why = "the models stopped while they took turns: memory ran out"
    assert dict(done.missing())["latency_ms, latency_ratio of a, t"] == why


def test_what_a_foreign_model_does_not_say_is_not_known(tmp_path: Path) -> None:
    done = timed([candidate(tmp_path, "a", 1.0), foreign(tmp_path, "f")], judged="f", timed=False)
    asked = [
        Criterion(name=name, measure=name, at_most=1e9)
        for name in ("parameters", "memory_mb", "macs", "file_mb")
    ]
    lines = judge_criteria(
        asked, done.values(), judged="f", original="a", where="x", why_not=done.why_not("f")
    )
    assert [line.state for line in lines] == ["not measurable"] * 3 + ["pass"]
    assert lines[0].note == "the model does not say it" and "exported" in lines[2].note
    relative = [Criterion(name="p", measure="parameters", at_most=0, relative_to="original")]
    (line,) = judge_criteria(relative, done.values(), judged="a", original="f", where="x", why_not={})
    assert (line.state, line.note) == ("not measurable", "f has no value to compare with")
    row = next(each for each in csv.DictReader(io.StringIO(summary_csv(done))) if each["model"] == "f")
    assert (row["parameters"], row["memory_bytes"], row["file_bytes"]) == ("", "", "1000")
    assert summary_text(done).count("not known") == 2


def test_the_memory_of_an_exported_model_holds_its_weights(tmp_path: Path) -> None:
    stated: dict[str, Any] = {
        "parameters": 300,
        "memory": Memory(bytes_per_pixel=100, elements_per_pixel=1),
    }
    models = [foreign(tmp_path, "open", **stated), foreign(tmp_path, "fixed", size=(8, 12), **stated)]
    done = timed(models, timed=False)
    memory = [column.cost.memory_bytes for column in done.models if column.cost is not None]
    # A graph of one size needs what one window needs, and the whole result.
    assert memory == [1200 + 100 * 16 * 24, 1200 + 100 * 8 * 12 + 4 * 3 * 32 * 48]
    assert "fixed takes one size and runs in windows of 8×12." in done.protocol


def test_largest_difference_finds_the_place() -> None:
    a = np.zeros((100, 120, 3), np.uint8)
    b = a.copy()
    b[60:70, 80:90] = 200
    top, left, height, width = largest_difference(a, b, 32, 4)
    assert (height, width) == (32, 32) and top % 4 == left % 4 == 0
    assert top <= 60 and top + 32 >= 70 and left <= 80 and left + 32 >= 90
    assert largest_difference(a[:10, :7], b[:10, :7], 32, 1) == (0, 0, 10, 7)


VALUES = {
    "after": {"psnr": 30.0, "ssim": 0.87, "parameters": 301_000.0, "alarms": 0.0},
    "original": {"psnr": 31.5, "ssim": 0.84, "parameters": 600_652.0},
    "nearest": {"psnr": 29.6, "ssim": 0.86},
    "bicubic": {"psnr": 29.0, "ssim": 0.89},
}


def judged(values: dict[str, dict[str, float]] = VALUES, **options: Any) -> dict[str, Any]:
    options = {
        "judged": "after",
        "original": "original",
        "where": "/data/set5/HR",
        "why_not": {"device_ms": "no phone"},
    } | options
    return {each.name: each for each in judge_criteria(read_criteria(), values, **options)}


def test_the_documents_criteria() -> None:
    table = judged()
    psnr_line = table["PSNR on Set5 close to the original"]
    assert psnr_line.state == "pass" and "at least 29.50 dB" in psnr_line.required
    assert "nearest upsampling passes too" in psnr_line.note and "bicubic" not in psnr_line.note
    ssim_line = table["SSIM on Set5"]
    assert ssim_line.state == "fail"
    assert "stricter than the source: original" in ssim_line.note and "bicubic upsampling" in ssim_line.note
    assert table["Parameters"].state == "pass" and table["Stable losses"].state == "pass"
    assert (table["Memory"].state, table["Memory"].note) == ("not measurable", "not measured")
    assert table["Time on the device"].note == "no phone"
    assert table["PSNR on DIV2K close to the original"].note == "these pictures are not DIV2K"


@pytest.mark.parametrize(("parameters", "state"), [(295_300, "fail"), (295_400, "pass"), (307_500, "fail")])
def test_about(parameters: float, state: str) -> None:
    assert judged(VALUES | {"after": {"parameters": parameters}})["Parameters"].state == state


def test_not_a_number_never_passes_and_one_model_has_no_original() -> None:
    assert judged(VALUES | {"after": {"ssim": math.nan}})["SSIM on Set5"].state == "fail"
    alone = judged({"after": VALUES["after"]}, original=None)
    assert "no original" in alone["PSNR on Set5 close to the original"].note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("criteria: []", "expected a list"),
        ("[1, 2]", "expected a mapping"),
        ("criteria: [{name: a, measure: psnrr, at_least: 1}]", "criterion 1.*did you mean 'psnr"),
        ("criteria: [{name: a, measure: psnr}]", "exactly one of at_least"),
        ("criteria: [{name: a, measure: psnr, about: 3}]", "within_percent belong together"),
        ("criteria: [{name: a, measure: psnr, at_least: x}]", "criterion 1: at_least.*'x'"),
        ("criteria: [{name: a, measure: psnr, atleast: 1}]", "atleast"),
        ("criteria: {", "no valid YAML"),
    ],
)
def test_wrong_criteria_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_criteria(path)


def test_figures(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text("device_ms: 31\n")
    assert read_figures(path) == {"device_ms": 31.0}
    for text, message in (
        ("device: 3", "unknown measure 'device'; did you mean 'device_ms'"),
        ("psnr: yes", "a number"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_figures(path)


def test_limits_relative_to_the_original() -> None:
    line = Criterion(name="a", measure="latency_ms", at_most=-5, relative_to="original")
    assert line.holds(14, 20) and not line.holds(16, 20)


def test_pages(done: Comparison, tmp_path: Path) -> None:
    judgements = judge_criteria(
        read_criteria(),
        done.values(),
        judged="after",
        original="original",
        where="Set5",
        why_not=done.not_computed,
    )
    written = write_comparison(done, judgements, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(written)
    page = written["comparison.html"].read_text()
    assert 'src="http' not in page and "default-src 'none'" in page
    # Six versions of each of the four pictures, as slider and as crop (nearest is the enlarged lq).
    assert page.count("data:image/") == 4 * 6 * 2
    text = written["comparison.md"].read_text()
    for column in done.columns:
        shown = f"{column.result.metrics['psnr'].value:.2f} dB"
        assert shown in page and shown in text and shown in summary_text(done, judgements)
    assert "not measurable" in page and "95 %" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables) and "\n\n|" in text and "|\n\n|" not in text
    assert headline(done, judgements).startswith("after: ")


def test_the_headline_says_when_plain_upsampling_is_better(tmp_path: Path, done: Comparison) -> None:
    value = next(each for each in done.columns if each.label == "bicubic").result.metrics["psnr"].value
    assert headline(done, []).endswith(f". Plain upsampling is better: bicubic has {value:.2f} dB.")
    passed = judge_criteria(
        [Criterion(name="good", measure="psnr", at_least=1.0)],
        done.values(),
        judged="after",
        original="original",
        where="x",
        why_not={},
    )
    assert [each.state for each in passed] == ["pass"]
    assert '<section class="verdict open"' in render(done, passed, "comparison.html.j2")
    pairs = [PairSource("p", lambda: picture(0), lambda: picture(1))]
    equal = compare([candidate(tmp_path, "d", 1.0, scale=1)], pairs, where="x", timed=False, quiet=True)
    assert "better" not in headline(equal, [])
    worse = compare([candidate(tmp_path, "w", 0.5, scale=1)], pairs, where="x", timed=False, quiet=True)
    value = worse.columns[1].result.metrics["psnr"].value
    assert headline(worse, []).endswith(f". The unrestored input is better: it has {value:.2f} dB.")


def test_few_pictures_make_no_change_significant(tmp_path: Path, done: Comparison) -> None:
    many = compared(tmp_path, sources(FEWEST_FOR_INTERVALS))
    for comparison, signs in ((done, {0}), (many, {0, 1, -1})):
        found = {entry.sign for _, entries in quality_rows(comparison) for entry in entries}
        assert found <= signs and (comparison is done or found != {0})
    assert caution(done) == "4 pictures: too few pictures for an interval to mean much" and not caution(many)
    for template in ("comparison.html.j2", "comparison.md.j2"):
        assert caution(done) in render(done, [], template)
        assert "too few" not in render(many, [], template)


def test_a_change_that_no_decimal_shows_is_not_coloured(tmp_path: Path) -> None:
    many = compared(tmp_path, sources(FEWEST_FOR_INTERVALS))
    column = next(each for each in many.columns if each.changes)
    place = many.columns.index(column)
    for size, sign in ((1e-6, 0), (1.0, 1)):
        for key, change in column.changes.items():
            column.changes[key] = replace(change, mean=size, interval=(size / 2, 2 * size))
        entries = dict(zip(column.result.metrics, quality_rows(many)[place][1], strict=True))
        assert entries["psnr"].sign == sign


def test_names_are_escaped(tmp_path: Path) -> None:
    nasty = "<b>|x"
    done = compared(tmp_path, [PairSource(nasty, lambda: picture(0))])
    assert nasty not in render(done, [], "comparison.html.j2")


def test_scale_one_is_set_against_its_input(tmp_path: Path) -> None:
    pairs = [PairSource("p", lambda: picture(0), lambda: picture(1))]
    done = compare([candidate(tmp_path, "d", 1.0, scale=1)], pairs, where="x", timed=False, quiet=True)
    assert [column.label for column in done.columns] == ["d", "input"]
    values = [column.result.images["p"]["psnr"] for column in done.columns]
    assert values[0] == values[1] == psnr(picture(1), picture(0), crop_border=1)
    assert "lq is the pictures given" in " ".join(done.protocol)
    assert render(done, [], "comparison.html.j2").count("data:image/") == 6
