"""Health detectors: each speaks up on a made-up bad run, once, and none of them on a good one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from atelier.errors import UserError
from atelier.evaluate.report import write_report
from atelier.train.detector_options import DetectorOptions
from atelier.train.detectors import Alarm, Watch, read_records, rising, stability
from atelier.train.run import train
from support import small_run

TOTAL, EVERY = 20_000, 100
Records = list[dict[str, Any]]


def train_record(step: int, **changes: Any) -> dict[str, Any]:
    """Line of a good GAN run: the pixel loss falls with noise, the two networks are in balance."""
    noise = np.random.default_rng(step).normal
    losses = {
        "l_g_pix": (0.02 + 0.05 * math.exp(-step / 2000)) * (1 + 0.05 * noise()),
        "l_g_percep": 0.9 + 0.02 * noise(),
        "l_g_gan": 0.07 + 0.005 * noise(),
        "l_d_real": 0.6 + 0.03 * noise(),
        "l_d_fake": 0.6 + 0.03 * noise(),
        "out_d_real": 0.3 + 0.1 * noise(),
        "out_d_fake": -0.3 + 0.1 * noise(),
    }
    losses |= changes.pop("losses", {})
    return {
        "kind": "train",
        "iter": step,
        "losses": losses,
        "data_share": 0.02,
        "images_per_s": 32.0,
    } | changes


def validation(step: int, psnr: float, **signs: float) -> dict[str, Any]:
    return {
        "kind": "validation",
        "iter": step,
        "set": "val",
        "images": {},
        "metrics": {"psnr": {"value": psnr, "protocol": "PSNR-RGB (crop 2)", "higher_is_better": True}},
        "signs": {"colour_shift": 0.6, "chroma": 0.9, "sharpness": 0.85} | signs,
    }


def run_of(change: Callable[[int], dict[str, Any]] = lambda step: {}, **signs: float) -> Records:
    records = []
    for step in range(EVERY, TOTAL + 1, EVERY):
        records.append(train_record(step, **change(step)))
        if step % 2000 == 0:
            records.append(validation(step, 26 + step / TOTAL, **signs))
    return records


def heard(records: Records, **options: Any) -> list[Alarm]:
    watch = Watch(DetectorOptions(**options), TOTAL, 4)
    return [alarm for record in records for alarm in watch.see(record)]


def test_a_good_run_is_silent() -> None:
    assert heard(run_of()) == []


def test_a_settled_loss_with_noise_is_silent() -> None:
    """Thousands of looks at pure noise: a test of significance alone would speak up by chance."""
    noise = np.random.default_rng(5).normal(1, 0.05, 4000)
    records = [train_record(100 * (i + 1), losses={"l_g_pix": 0.02 * value}) for i, value in enumerate(noise)]
    watch = Watch(DetectorOptions(), 400_000, 4)
    assert [alarm for record in records for alarm in watch.see(record)] == []


BAD: dict[str, tuple[Records, str, str]] = {
    "rising": (
        run_of(lambda s: {"losses": {"l_g_pix": 0.02 * (1 + max(0, s - 8000) / 6000)}}),
        "not converging",
        "l_g_pix rose by",
    ),
    "d won": (
        run_of(lambda s: {"losses": {"l_d_real": 0.01, "l_d_fake": 0.02} if s > 6000 else {}}),
        "discriminator collapse",
        "it has won",
    ),
    "gap": (
        run_of(lambda s: {"losses": {"out_d_real": 8.0, "out_d_fake": -7.0}}),
        "discriminator collapse",
        "15.0 apart",
    ),
    "drowned": (run_of(lambda s: {"losses": {"l_g_gan": 30.0}}), "discriminator collapse", "97 %"),
    "idle": (
        run_of(lambda s: {"losses": {"l_d_real": math.log(2) + 0.004, "l_d_fake": math.log(2) - 0.006}}),
        "discriminator collapse",
        "learns nothing",
    ),
    "shift": (run_of(colour_shift=5.0), "colour drift", "5.0 of 255"),
    "chroma": (run_of(chroma=2.5), "colour drift", "2.5 times"),
    "smooth": (run_of(sharpness=0.4), "over-smoothing", "0.40 of gt's"),
    "slow data": (
        run_of(lambda s: {"images_per_s": 3.2, "data_share": 0.6}),
        "slow training",
        "data are the cause",
    ),
    "slow compute": (run_of(lambda s: {"images_per_s": 3.2}), "slow training", "computing is the cause"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_run_is_heard_once_with_its_remedy(name: str) -> None:
    records, detector, part = BAD[name]
    alarms = heard(records)
    assert [alarm.detector for alarm in alarms] == [detector]
    assert part in alarms[0].message and alarms[0].remedy
    assert alarms[0].text().startswith(f"warning: {detector} at step {alarms[0].iteration}")
    assert heard(records, enabled=False) == []


def test_a_loss_far_above_its_best() -> None:
    records = run_of(lambda s: {"losses": {"l_g_pix": 0.02 if s < 8000 else 0.05}})
    alarms = heard(records, convergence={"rise": 10.0})
    assert [alarm.detector for alarm in alarms] == ["not converging"]
    assert "1.8 times its best 0.02" in alarms[0].message


def test_quality_below_the_first_validation() -> None:
    records = [*run_of()[:40]]
    records += [validation(4500, 20.0)]
    assert [alarm.detector for alarm in heard(records)] == ["not converging"]
    assert heard([*run_of()[:40], validation(4500, 26.08)]) == []  # below by the last digit alone
    assert heard([*run_of()[:40], validation(4500, 26.08)], convergence={"fall": 0.0}) != []
    young = [train_record(100), validation(100, 26.0), train_record(200), validation(200, 20.0)]
    assert heard(young) == []


def in_ssim(step: int, value: float) -> dict[str, Any]:
    metric = {"value": value, "protocol": "SSIM-RGB", "higher_is_better": True}
    return validation(step, 0.0) | {"metrics": {"ssim": metric}}


def test_another_metric_after_a_resume_is_no_fall() -> None:
    """SSIM in place of PSNR, and then SSIM a little below what it was when the network had learned already."""
    records = [*run_of()[:40], in_ssim(4500, 0.92), in_ssim(5000, 0.91)]
    assert heard(records) == []
    early = [validation(100, 26.0), in_ssim(200, 0.7), *run_of()[:40], in_ssim(4500, 0.5)]
    early = [
        each for each in early if each["kind"] == "train" or "ssim" in each["metrics"] or each["iter"] == 100
    ]
    assert [alarm.detector for alarm in heard(early)] == ["not converging"]


@pytest.mark.parametrize(
    ("records", "options"),
    [
        (BAD["d won"][0], {"collapse": {"least_loss": 0.02}}),
        (BAD["gap"][0], {"collapse": {"most_gap": 16.0}}),
        (BAD["shift"][0], {"colour": {"most_shift": 5.5}}),
        (BAD["smooth"][0], {"smoothing": {"least_sharpness": 0.3}}),
        (BAD["slow data"][0], {"slow": {"min_it_per_s": 0.5}}),
        (BAD["rising"][0], {"convergence": {"above_best": 9.0, "rise": 2.0}}),
    ],
)
def test_thresholds_are_the_options(records: Records, options: dict[str, Any]) -> None:
    assert heard(records, **options) == []


def test_wasserstein_losses_are_not_taken_for_a_collapse() -> None:
    """Below zero: their sum says nothing about who is winning."""
    records = run_of(
        lambda s: {"losses": {"l_d_real": -40.0, "l_d_fake": -35.0, "out_d_real": 40.0, "out_d_fake": -35.0}}
    )
    assert heard(records) == []


def test_a_pixel_loss_alone_may_smooth() -> None:
    records = run_of(sharpness=0.4)
    for record in records:
        if record["kind"] == "train":
            record["losses"] = {"l_g_pix": record["losses"]["l_g_pix"]}
    assert heard(records) == []


def test_a_short_collapse_does_not_count() -> None:
    records = run_of(lambda s: {"losses": {"l_d_real": 0.0, "l_d_fake": 0.0} if 6000 < s <= 6300 else {}})
    assert heard(records) == []


def test_a_resumed_run_does_not_speak_twice() -> None:
    records = BAD["shift"][0]
    alarm = heard(records)[0]
    half = [record for record in records if record["iter"] <= 10_000]
    watch = Watch(DetectorOptions(), TOTAL, 4, [*half, alarm.to_json()])
    assert [a for record in records[len(half) :] for a in watch.see(record)] == []
    assert watch.see({**records[-1], "iter": TOTAL + 1}) == []


def test_trend_against_scipy() -> None:
    generator = np.random.default_rng(0)
    for slope in (-0.5, 0.0, 0.3):
        values = slope * np.arange(20) + generator.normal(size=20)
        found, p = rising(values.tolist())
        assert found == pytest.approx(stats.theilslopes(values).slope)
        # Kendall's tau with the normal approximation; ours corrects for continuity, so it is a little larger.
        two_sided = stats.kendalltau(np.arange(20), values, method="asymptotic").pvalue
        reference = two_sided / 2 if found > 0 else 1 - two_sided / 2
        assert p == pytest.approx(reference, abs=0.02)


def write_run(folder: Path, records: Records) -> Path:
    folder.mkdir()
    (folder / "options.yml").write_text("name: r\nhealth: {detectors: {colour: {most_shift: 4.5}}}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind')
    return folder


def test_stability_looks_at_the_last_quarter(tmp_path: Path) -> None:
    early = run_of(lambda s: {"losses": {"l_d_real": 0.0, "l_d_fake": 0.0} if s < 9000 else {}})
    assert stability(write_run(tmp_path / "early", early)) == (0, "")
    count, what = stability(write_run(tmp_path / "late", BAD["shift"][0]))
    assert count == 1 and what.startswith("colour drift: ")
    assert stability(write_run(tmp_path / "empty", []))[0] is None
    with pytest.raises(UserError, match="not a folder"):
        stability(tmp_path / "nowhere")


def test_a_real_run_logs_records_and_reports_its_alarms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detectors = {
        "colour": {"after_steps": 1, "most_shift": 0.001},
        "slow": {"after_steps": 0, "least_lines": 1, "min_it_per_s": 1e9},
    }
    result = train(small_run(tmp_path, health={"detectors": detectors}), quiet=True)
    alarms = [record for record in read_records(result.folder / "metrics.jsonl") if record["kind"] == "alarm"]
    assert [alarm["detector"] for alarm in alarms] == ["slow training", "colour drift"]
    validations = [r for r in read_records(result.folder / "metrics.jsonl") if r["kind"] == "validation"]
    assert set(validations[0]["signs"]) == {"colour_shift", "chroma", "sharpness"}
    assert not [key for key in validations[0]["metrics"] if "sign" in key]
    log = (result.folder / "train.log").read_text()
    assert log.count("warning: colour drift") == 1 and log.count("warning: slow training") == 1
    assert "warning: colour drift" in capsys.readouterr().out
    page = write_report(result.folder).read_text()
    assert '<section id="alarms">' in page and alarms[1]["remedy"] in page
