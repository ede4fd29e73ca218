"""Options back into YAML, and differences."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.errors import UserError
from atelier.options.read import load_run_options
from atelier.options.write import (
    UNSET,
    OptionChange,
    as_in_files,
    diff_options,
    dump_run_options,
    dump_yaml,
    render_changes,
    save_run_options,
)
from atelier.options.yaml_reader import parse_yaml

_NUMBERS = st.integers() | st.floats(allow_nan=False)
_WORDS = st.text(max_size=12) | st.sampled_from(
    [
        *[
            "1e-4",
            "5e3",
            "yes",
            "off",
            "010",
            "1_000",
            "2024-01-31",
            "~",
            "null",
            "true",
            "<<",
            "=",
            "#x",
            "!x",
            "&x",
            "*x",
            "'",
            "1e999",
            "0x1F",
            "0o7",
            "1:30",
            ".inf",
            "é",
            "日本",
        ],
        *('"', "", " ", "\n", "a\tb", "- a", "a: b", "\x85"),
    ]
)
_DATA = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=10,
)


def _typed(value: Any) -> Any:
    """Equal only when the types are: 1, 1.0 and True are three values here."""
    if isinstance(value, dict):
        return {key: _typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_typed(inner) for inner in value]
    return type(value).__name__, value


@settings(max_examples=150)
@given(_DATA)
def test_dumped_data_reads_back_the_same(data: Any) -> None:
    assert _typed(parse_yaml(dump_yaml(data), "f")[0]) == _typed(data)


@given(_DATA)
def test_other_yaml_readers_agree(data: Any) -> None:
    assert _typed(yaml.safe_load(dump_yaml(data))) == _typed(data)


def test_teeth_the_stock_dumper_loses_the_type() -> None:
    assert parse_yaml(yaml.safe_dump(["1e-4"]), "f")[0] == [1e-4]
    assert parse_yaml(dump_yaml(["1e-4"]), "f")[0] == ["1e-4"]


def test_how_it_looks() -> None:
    data = {
        "b": {"lr": 1e-5, "big": 1e22, "eps": 1.5e-8, "betas": [0.9, 0.99], "whole": 2.0},
        "a": [{"type": "L1", "on": True}, {"word": "off"}],
        "nothing": None,
        "limit": math.inf,
        "tmpl": "{}x4",
    }
    assert dump_yaml(data) == (
        "b:\n  lr: 1.0e-5\n  big: 1.0e+22\n  eps: 1.5e-8\n  betas: [0.9, 0.99]\n  whole: 2.0\n"
        "a:\n- type: L1\n  'on': true\n- word: 'off'\nnothing: null\nlimit: .inf\ntmpl: '{}x4'\n"
    )


_RATE = st.floats(1e-12, 1e3, allow_nan=False)
_LOSS = st.sampled_from(["L1Loss", "MSELoss", "FFTLoss"]).flatmap(
    lambda kind: st.just(kind) | st.fixed_dictionaries({"type": st.just(kind), "loss_weight": _RATE})
)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Valid option files of many kinds."""
    scale = draw(st.sampled_from([2, 3, 4]))
    train: dict[str, Any] = {
        "total_iter": draw(st.integers(1, 10**7)),
        "optim_g": {"type": "Adam", "lr": draw(_RATE), "betas": draw(st.just([0.9, 0.99]))},
        "losses": draw(st.lists(_LOSS, max_size=3)),
        "precision": draw(st.sampled_from(["fp32", "bf16"])),
        "grad_clip": draw(st.none() | _RATE),
    }
    plain = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=12)
    name = draw(plain.filter(lambda text: text.strip() not in {"", ".", ".."}))
    return {
        "name": name,
        "scale": scale,
        "network_g": draw(st.sampled_from(["SRVGGNetCompact", {"type": "SRVGGNetCompact", "num_feat": 8}])),
        "datasets": {
            "train": {
                "dataroot_gt": draw(st.sampled_from(["bundled", "a b/ü", "1e-4"])),
                "gt_size": 12 * scale,
            },
            **draw(st.fixed_dictionaries({}, optional={"val": st.just({"dataroot_gt": "bundled"})})),
            **draw(st.dictionaries(st.sampled_from(["val_a", "val_1"]), st.just({"dataroot_gt": "x"}))),
        },
        "train": train,
        "path": {"pretrain_network_g": draw(st.none() | st.just("models/net.pth"))},
    }


@settings(max_examples=30, deadline=None)
@given(runs())
def test_a_dumped_run_loads_to_the_same_run(data: dict[str, Any]) -> None:
    options = load_run_options(data)
    text = dump_run_options(options)
    again = load_run_options(parse_yaml(text, "options.yml")[0])
    assert again == options
    assert dump_run_options(again) == text
    assert diff_options(options.model_dump(mode="json"), again.model_dump(mode="json")) == []


_SMALL = {
    "name": "x",
    "scale": 2,
    "network_g": "SRVGGNetCompact",
    "datasets": {"train": {"dataroot_gt": "bundled"}},
}


def test_the_dump_keeps_the_order_of_the_schema_and_says_what_it_is() -> None:
    options = load_run_options(_SMALL)
    text = dump_run_options(options)
    assert text.startswith("# The complete options of a run, defaults included, as Atelier used them.\n")
    keys = [line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    assert keys == list(type(options).model_fields)


def test_save_writes_a_loadable_file_and_nothing_beside_it(tmp_path: Path) -> None:
    options = load_run_options(_SMALL)
    save_run_options(options, tmp_path / "run" / "options.yml")
    assert load_run_options(tmp_path / "run" / "options.yml") == options
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["options.yml"]


def test_a_save_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "options.yml"
    path.write_text("older")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_run_options(load_run_options(_SMALL), path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_diff_names_each_key_that_changed() -> None:
    old = {
        "a": 1,
        "same": [1, 2.0],
        "train": {"lr": 2e-4, "betas": [0.9, 0.99], "gone": "x"},
        "losses": [{"type": "L1", "w": 1.0}, {"type": "L2"}],
        "net": {"type": "A", "dim": 60},
        "kept": None,
    }
    new = {
        "a": 1.0,
        "same": [1, 2],
        "train": {"lr": 1e-4, "betas": [0.9, 0.999], "new": True},
        "losses": [{"type": "L1", "w": 2.0}, {"type": "FFT"}],
        "net": {"type": "B", "num": 3},
        "kept": None,
    }
    changes = diff_options(old, new)
    assert changes[0] == OptionChange(("train", "lr"), 2e-4, 1e-4)
    assert changes[2] == OptionChange(("train", "gone"), "x", UNSET)
    assert render_changes(changes) == (
        "train.lr: 0.0002 -> 0.0001\n"
        "train.betas: [0.9, 0.99] -> [0.9, 0.999]\n"
        "train.gone: 'x' -> not set\n"
        "train.new: not set -> true\n"
        "losses.0.w: 1.0 -> 2.0\n"
        "losses.1: {type: 'L2'} -> {type: 'FFT'}\n"
        "net: {type: 'A', dim: 60} -> {type: 'B', num: 3}"
    )


def test_diff_of_lists_that_grow_and_of_kinds_that_change() -> None:
    assert [str(change) for change in diff_options({"l": [{"a": 1}]}, {"l": []})] == ["l: [{a: 1}] -> []"]
    assert [str(change) for change in diff_options({"l": True}, {"l": 1})] == ["l: true -> 1"]
    assert [str(change) for change in diff_options({"l": {"a": 1}}, {"l": None})] == ["l: {a: 1} -> null"]
    assert diff_options({"l": math.nan}, {"l": math.nan}) == []


@given(
    st.dictionaries(st.text(max_size=3), _DATA, max_size=4),
    st.dictionaries(st.text(max_size=3), _DATA, max_size=4),
)
def test_diff_is_empty_exactly_for_equal_options(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert diff_options(old, old) == []
    there, back = diff_options(old, new), diff_options(new, old)
    assert {(c.path, repr(c.old), repr(c.new)) for c in there} == {
        (c.path, repr(c.new), repr(c.old)) for c in back
    }
    if _typed(old) != _typed(new) and old != new:
        assert there


def test_a_change_in_full_and_by_the_keys_of_files() -> None:
    term = {
        "loss": "smooth_l1",
        "weight": {"value": 0.06, "grad_ratio": None},
        "pairs": "mean",
        "target_norm": "none",
    }
    (change,) = diff_options({"objective": {"terms": None}}, {"objective": {"terms": term}})
    assert str(change).endswith("...")
    shown = as_in_files(change, "distill").in_full()
    assert shown == (
        "distill.terms: null -> {loss: 'smooth_l1', weight: {value: 0.06}, pairs: 'mean', target_norm: 'none'}"
    )
    assert as_in_files(change, "gan") is change
    (kind,) = diff_options({"objective": {"type": "pixel"}}, {"objective": {"type": "distill"}})
    assert as_in_files(kind, "distill").path == ("objective",)
