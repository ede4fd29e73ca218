from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from atelier.errors import UserError
from atelier.options.schema import LoggerOptions
from atelier.train.distributed import Ranks
from atelier.train.folder import RunFolder
from atelier.train.meters import Meters
from atelier.train.stopping import listening
from atelier.train.tracking import Tracker, duration


def tracker(tmp_path: Path, **options: object) -> Tracker:
    folder = RunFolder(tmp_path)
    folder.create()
    return Tracker(folder, LoggerOptions.model_validate(options), "finetune", {})


RECORD = {
    "kind": "train",
    "iter": 100,
    "lr": 1e-4,
    "losses": {"l_g_pix": 0.0312},
    "images_per_s": 51.0,
    "data_share": 0.02,
    "memory_mb": 812.0,
    "grad_norm": 0.4,
}


def test_log_line_keeps_basicsr_shape(tmp_path: Path) -> None:
    line = tracker(tmp_path).train_line(RECORD, 400, 0, (0.5, 0.004))
    assert line.startswith(
        "[finet..][epoch:  0, iter:     100, lr:(1.000e-04,)] [eta: 0:02:30, time (data): 0.500 (0.004)] "
        "l_g_pix: 3.1200e-02 "
    )


def test_metrics_file_and_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = tracker(tmp_path, use_tb_logger=False)
    each.record({**RECORD, "grad_norm": float("inf")})
    each.say("two\nlines")
    each.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["grad_norm"] == "inf"
    assert record["losses"] == {"l_g_pix": 0.0312}
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == [
        "two",
        "lines",
    ]
    assert capsys.readouterr().out == "two\nlines\n"


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    each = tracker(tmp_path)
    each.record(RECORD)
    each.close()
    events = EventAccumulator(str(tmp_path / "tb_logger"))
    events.Reload()
    assert events.Scalars("losses/l_g_pix")[0].step == 100


def test_missing_wandb_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"atelier\[wandb\]"):
        tracker(tmp_path, use_tb_logger=False, wandb={"project": "x"})


def test_duration() -> None:
    assert duration(3725) == "1:02:05"
    assert duration(-1) == "0:00:00"


def test_meters_average_and_resume() -> None:
    device = torch.device("cpu")
    ranks = Ranks(0, 1, device)
    whole, half = Meters(device), Meters(device)
    for value in (1.0, 2.0, 6.0):
        whole.add({"a": torch.tensor(value)})
    half.add({"a": torch.tensor(1.0)})
    resumed = Meters(device)
    resumed.load_state_dict(half.state_dict())
    for value in (2.0, 6.0):
        resumed.add({"a": torch.tensor(value)})
    assert whole.means(ranks) == resumed.means(ranks) == {"a": 3.0}
    assert whole.means(ranks) == {}


def test_first_signal_asks_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listening() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert (stop.name, stop.exit_code) == ("SIGTERM", 143)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_kair_lines(tmp_path: Path) -> None:
    """KAIR's formats, letter by letter: scripts that plot its logs read these."""
    from atelier.evaluate.results import MetricMean, ValidationResult

    folder = RunFolder(tmp_path)
    folder.create()
    options = LoggerOptions(log_format="kair", use_tb_logger=False)
    tracker = Tracker(folder, options, "dn", {})
    record = {"iter": 11, "lr": 2e-4, "losses": {"l_g_pix": 4.75}}
    line = tracker.train_line(record, 100, 0, (0.1, 0.0))
    assert line == "<epoch:  0, iter:      11, lr:2.000e-04> G_loss: 4.750e+00 "
    mean = MetricMean(28.312, "PSNR-RGB (crop 1)", True)
    result = ValidationResult("t", {"t.png": {"psnr": 28.314}}, {"psnr": mean}, 11)
    alone = ["---1-->      t.png | 28.31dB", "<epoch:  0, iter:      11, Average PSNR : 28.31dB"]
    assert tracker.validation_text({"t": result}, {}, 0, "").splitlines() == alone
    averaged = "<epoch:  0, iter:      11, Average PSNR of the averaged network : 28.31dB"
    assert tracker.validation_text({"t": result}, {"t": result}, 0, "").splitlines() == [*alone, averaged]
    tracker.log_only("x")
    tracker.close()
    assert re.fullmatch(r"\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} : x\n", folder.log.read_text())
