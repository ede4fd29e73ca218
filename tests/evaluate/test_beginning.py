"""What the report says about the weights a run began with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from atelier.archs.load_report import Inherited, LoadReport
from atelier.evaluate.beginning import MOST_ROWS, beginning_of, read_beginning

REPORT = LoadReport(
    path=Path("models/995000_G.pth"),
    sha256=None,
    param_key=None,
    mode="inherit",
    loaded=("conv_last.bias",),
    mismatched={"conv_first.weight": ((96, 1, 3, 3), (180, 1, 3, 3)), "norm.bias": ((96,), (180,))},
    missing=("layers.5.conv.bias",),
    unexpected=("old.weight",),
    ignored={},
    elements_total=2000,
    elements_loaded=1,
    inherited={"conv_first.weight": Inherited("stream", (96, 1, 3, 3), (180, 1, 3, 3), 864)},
    elements_inherited=864,
    iteration=0,
    optimizer={"restored": ["conv_last.bias"], "reset": ["conv_first.weight", "norm.bias"]},
)


def test_every_tensor_has_its_fate() -> None:
    beginning = beginning_of(REPORT)
    assert "models/995000_G.pth" in beginning.headline
    assert "865 of 2,000 elements" in beginning.headline
    fates = {key: fate for key, _, _, fate in beginning.rows}
    assert fates == {
        "conv_first.weight": "stream",
        "norm.bias": "freshly drawn",
        "layers.5.conv.bias": "freshly drawn",
        "old.weight": "not used",
    }
    facts = dict(beginning.facts)
    assert facts["Freshly drawn"] == "2 tensors"
    assert facts["Optimiser"] == "moments of 1 tensors kept, 2 start at zero"
    assert beginning.rules == [("stream", 1)]


def test_long_lists_end_with_a_count() -> None:
    many = replace(REPORT, missing=tuple(f"layers.{place}.bias" for place in range(MOST_ROWS + 5)))
    beginning = beginning_of(many)
    assert len(beginning.rows) == MOST_ROWS
    assert beginning.more == 8


def test_read_from_a_folder_or_not_at_all(tmp_path: Path) -> None:
    assert read_beginning(tmp_path) is None
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "load_report.json"
    path.write_text(json.dumps(REPORT.to_json()))
    assert read_beginning(tmp_path) == beginning_of(REPORT)
    path.write_text(
        json.dumps(REPORT.to_json() | {"changes": ["depths 2 -> 6"], "lines": ["start loss", "a\nb"]})
    )
    read = read_beginning(tmp_path)
    assert read is not None
    assert read.notes == ["changed: depths 2 -> 6", "start loss", "a"]
    path.write_text('{"path": 3')
    assert read_beginning(tmp_path) is None
