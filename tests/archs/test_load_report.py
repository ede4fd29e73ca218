"""The report's lines and its JSON; the source document's pair of networks with the numbers of its key files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from archs.examples import on_meta
from atelier.archs.load import compare
from atelier.archs.load_report import Inherited, LoadReport
from atelier.archs.swinir_options import SwinIROptions
from atelier.archs.weights import StateFile
from support import SHARED

OLD: dict[str, Any] = {
    "in_chans": 1,
    "embed_dim": 96,
    "depths": (2,) * 6,
    "num_heads": (3,) * 6,
    "window_size": 8,
    "mlp_ratio": 2.0,
}
NEW: dict[str, Any] = {**OLD, "embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6}


def report(**changes: Any) -> LoadReport:
    given: dict[str, Any] = {
        "path": Path("models/995000_G.pth"),
        "sha256": "ab",
        "param_key": None,
        "mode": "flexible",
        "loaded": ("a",),
        "mismatched": {"b.weight": ((96, 1, 3, 3), (180, 1, 3, 3))},
        "missing": ("c",),
        "unexpected": ("d", "e"),
        "ignored": {},
        "elements_total": 1000,
        "elements_loaded": 4,
    }
    return LoadReport(**{**given, **changes})


def test_the_lines_that_users_search_for() -> None:
    names = tuple(f"layers.{i}" for i in range(13))
    assert report(missing=names).text().splitlines() == [
        "Loading model for G [models/995000_G.pth] ...",
        "Size mismatch for b.weight: checkpoint torch.Size([96, 1, 3, 3]) vs model torch.Size([180, 1, 3, 3]), "
        "using random initialization",
        "",
        "Keys in model but not in checkpoint (13):",
        *[f"  - {name}" for name in names[:10]],
        "  ... and 3 more",
        "",
        "Loaded 1/15 parameters from checkpoint",
        "Mismatched: 1, Missing: 13",
        "Unexpected in checkpoint: 2",
        "Learned parameters reused: 1 of 15 tensors, 4 of 1,000 elements (0.40 %)",
    ]


def test_inherited_lines() -> None:
    shapes = ((2,), (4,))
    mismatched = {f"{i}": shapes for i in range(12)}
    inherited = {key: Inherited("stream", *shapes, 2) for key in mismatched}
    inherited["c"] = Inherited("added as identity: zero", None, (3,), 0)
    lines = (
        report(mode="inherit", mismatched=mismatched, inherited=inherited, elements_inherited=24)
        .text("E")
        .splitlines()
    )
    assert lines[0] == "Loading model for E [models/995000_G.pth] ..."
    assert (
        lines[1]
        == "Size mismatch for 0: checkpoint torch.Size([2]) vs model torch.Size([4]), inherited (stream)"
    )
    assert lines[11] == "  ... and 2 more"
    assert "Inherited: 12 stream, 1 added as identity: zero" in lines
    assert lines[-1] == "Learned parameters reused: 13 of 14 tensors, 28 of 1,000 elements (2.80 %)"


def test_a_log_names_two_hundred_mismatches_and_counts_the_rest() -> None:
    many = report(mismatched={f"{i}": ((1,), (2,)) for i in range(230)}).text().splitlines()
    assert sum(line.startswith("Size mismatch for ") for line in many) == 200
    assert many[201] == "  ... and 30 more"


def test_json_comes_back() -> None:
    whole = report(
        mode="inherit",
        inherited={"b.weight": Inherited("stream", (96, 1, 3, 3), (180, 1, 3, 3), 864)},
        elements_inherited=864,
        ignored={"mask": "a constant"},
        iteration=995000,
        optimizer={"restored": ["a"], "reset": ["b.weight"]},
    )
    for each in (whole, report(), report(path=None, sha256=None)):
        stored = json.loads(json.dumps(each.to_json()))
        assert LoadReport.from_json(stored) == each
    assert stored["inherited"] == []
    assert whole.to_json()["inherited"] == [
        {"key": "b.weight", "rule": "stream", "from": [96, 1, 3, 3], "to": [180, 1, 3, 3], "elements": 864}
    ]


def test_what_a_complete_load_is() -> None:
    whole = report(mismatched={}, missing=(), unexpected=())
    assert whole.complete and whole.text().splitlines()[1:] == ["Loaded 1/1 parameters from checkpoint"]
    assert not replace(whole, inherited={"a": Inherited("heads", (3,), (3,), 3)}).complete


def test_the_source_documents_pair() -> None:
    """Constants are not learned, so they do not count: the fork says 13/544, 183 and 348 here."""
    old, new = (on_meta(SwinIROptions(**each)) for each in (OLD, NEW))
    written = old.options.file_state(old.state_dict())
    found, _ = compare(new, StateFile(written, None), "flexible")
    assert found.loaded == ("conv_last.bias",)
    lines = found.text().splitlines()
    assert (
        lines[1] == "Size mismatch for conv_first.weight: checkpoint torch.Size([96, 1, 3, 3]) vs model "
        "torch.Size([180, 1, 3, 3]), using random initialization"
    )
    assert "Keys in model but not in checkpoint (312):" in lines
    at = lines.index("Loaded 1/490 parameters from checkpoint")
    assert lines[at + 1 : at + 4] == [
        "Mismatched: 177, Missing: 312",
        "Unexpected in checkpoint: 0",
        "Learned parameters reused: 1 of 490 tensors, 1 of 11,497,681 elements (0.00 %)",
    ]
    assert len(found.ignored) == 18


def test_the_pair_with_elsa() -> None:
    elsa = {"attention": "elsa", "elsa": {"scope": "window", "lam": 1}}
    old, new = (on_meta(SwinIROptions(**each, **elsa)) for each in (OLD, NEW))
    found, _ = compare(new, StateFile(old.state_dict(), None), "flexible")
    assert "Loaded 1/634 parameters from checkpoint\nMismatched: 225, Missing: 408\n" in found.text()


def test_the_pair_by_its_key_files() -> None:
    """The counts hold for the official file of the larger network, and with ELSA attention (634 tensors)."""
    folder = SHARED / "spec" / "keys"
    if not folder.is_dir():
        pytest.skip("the key lists of published files are not here")
    official = json.loads((folder / "swinir_gray_dn.json").read_text())
    new = on_meta(SwinIROptions(**NEW, img_size=128))
    assert {
        key: list(value.shape) for key, value in new.options.file_state(new.state_dict()).items()
    } == official

    class Named(torch.nn.Module):
        def __init__(self, shapes: dict[str, list[int]]) -> None:
            super().__init__()
            self.shapes = shapes

        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {key: torch.empty(shape, device="meta") for key, shape in self.shapes.items()}

    elsa = []
    for name in ("c96", "c180"):
        shapes = json.loads((folder / f"swinir_elsa_gray_dn_{name}.json").read_text())
        dead = ("relative_position_bias_table", "relative_position_index", "attn_mask")
        elsa.append(Named({key: shape for key, shape in shapes.items() if not key.endswith(dead)}))
    found, _ = compare(elsa[1], StateFile(elsa[0].state_dict(), None), "flexible")
    assert (len(found.loaded), len(found.mismatched), len(found.missing)) == (1, 225, 408)
    assert "Loaded 1/634 parameters from checkpoint" in found.text()
