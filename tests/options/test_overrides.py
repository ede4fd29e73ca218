"""``key=value`` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.options.overrides import apply_overrides, parse_override
from atelier.options.source import OptionFile
from atelier.options.write import dump_yaml

Refusal = Callable[..., str]

_LINES = {(): 1, ("name",): 1, ("train",): 2, ("train", "losses"): 3, ("train", "losses", 0): 4}
_FILE = OptionFile("run.yml", {"name": "x", "train": {"losses": [{"type": "L1"}], "lr": 1}}, _LINES)


@pytest.mark.parametrize(
    ("argument", "keys", "value"),
    [
        ("train.total_iter=2000", ["train", "total_iter"], 2000),
        ("lr=1e-4", ["lr"], 1e-4),
        ("betas=[0.9, 1e-1]", ["betas"], [0.9, 0.1]),
        ("optim={type: Adam, lr: 5e3}", ["optim"], {"type": "Adam", "lr": 5000.0}),
        ("path=~", ["path"], None),
        ("path=", ["path"], None),
        ("name='5'", ["name"], "5"),
        ('name=""', ["name"], ""),
        ("lr=!!float 3", ["lr"], 3.0),
        ("flag=true", ["flag"], True),
        ("flag=off", ["flag"], "off"),
        ("note=a: b #c = d", ["note"], "a: b #c = d"),
        ("glob=*.png", ["glob"], "*.png"),
        (" a . b = c ", ["a", "b"], "c"),
        ("dir=C:\\x\\y", ["dir"], "C:\\x\\y"),
    ],
)
def test_values(argument: str, keys: list[str], value: object) -> None:
    read = parse_override(argument)
    assert read == (keys, value)
    assert type(read[1]) is type(value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("train", "command line: 'train' is no override; write key=value, for example train.total_iter=2000"),
        ("=3", "command line: '=3': the key '' has an empty part; write section.key=value"),
        ("a..b=3", "command line: 'a..b=3': the key 'a..b' has an empty part; write section.key=value"),
        (
            "a=1e999",
            "command line: 'a=1e999': 1e999 is too large for a number; write .inf where infinity is meant",
        ),
        (
            "a=[1, 2",
            "command line: 'a=[1, 2':1:6: a ',' or the closing ']' is missing\n    [1, 2\n         ^",
        ),
        (
            "a=!!python/name:os.system x",
            "command line: 'a=!!python/name:os.system x':1:1: the tag !!python/name:os.system is not allowed: "
            "options never run code; allowed: !!float, !!int, !!bool, !!str, !!null\n"
            "    !!python/name:os.system x\n    ^",
        ),
        (
            "train.losses.1.w=2",
            "command line: 'train.losses.1.w=2': train.losses is a list with items 0 to 0, not '1'",
        ),
        (
            "train.losses.x=2",
            "command line: 'train.losses.x=2': train.losses is a list with items 0 to 0, not 'x'",
        ),
        (
            "train.losses.-1=2",
            "command line: 'train.losses.-1=2': train.losses is a list with items 0 to 0, not '-1'",
        ),
        ("train.lr.x=2", "command line: 'train.lr.x=2': train.lr is 1 (run.yml:2), which has no key 'x'"),
    ],
)
def test_refusals(argument: str, message: str, refusal: Refusal) -> None:
    assert refusal(apply_overrides, _FILE, [argument]) == message


def test_empty_list_has_no_items(refusal: Refusal) -> None:
    assert (
        refusal(apply_overrides, {"a": []}, ["a.0=1"])
        == "command line: 'a.0=1': a is a list with no items, not '0'"
    )


def test_later_ones_win_and_the_file_stays_as_it_was() -> None:
    tree = apply_overrides(
        _FILE,
        ["train.losses.0.loss_weight=2", "new.deep.key=3", "train.lr=2", "train.lr=3", "name=y"],
    )
    assert tree.data == {
        "name": "y",
        "train": {"losses": [{"type": "L1", "loss_weight": 2}], "lr": 3},
        "new": {"deep": {"key": 3}},
    }
    assert _FILE.data == {"name": "x", "train": {"losses": [{"type": "L1"}], "lr": 1}}
    assert _FILE.lines == _LINES


def test_a_bare_component_becomes_a_mapping_and_null_a_section() -> None:
    tree = apply_overrides({"network_g": "SwinIR", "path": None}, ["network_g.embed_dim=60", "path.resume=x"])
    assert tree.data == {"network_g": {"type": "SwinIR", "embed_dim": 60}, "path": {"resume": "x"}}


def test_places() -> None:
    tree = apply_overrides(_FILE, ["train.losses.0.w=2", "extra.a=1", "name=y"])
    assert tree.place(("train", "losses", 0, "w")) == "command line"
    assert tree.place(("train", "losses", 0, "type")) == "run.yml:4"
    assert tree.place(("train", "missing", "key")) == "run.yml:2"
    assert tree.place(("extra", "missing")) == "command line"
    assert tree.place(("name",)) == "command line"
    assert tree.place(("nothing",)) == "run.yml:1"
    assert tree.place(()) == "run.yml:1"


def test_replacing_a_section_forgets_its_lines_and_its_overrides() -> None:
    tree = apply_overrides(_FILE, ["train.lr=5", "train={total: 3}"])
    assert tree.data["train"] == {"total": 3}
    assert tree.overrides == {("train",): "train={total: 3}"}
    assert set(tree.lines) == {(), ("name",)}
    assert tree.place(("train", "losses", 0)) == "command line"


def test_options_from_python_have_no_place() -> None:
    tree = apply_overrides({"a": 1}, ["b=2"])
    assert (tree.place(("a",)), tree.place(("b",))) == ("", "command line")


_KEY = st.text(alphabet="abcxyz_", min_size=1, max_size=4)
_LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)


@given(
    st.recursive(_LEAF, lambda inner: st.dictionaries(_KEY, inner, max_size=3), max_leaves=8),
    st.lists(_KEY, min_size=1, max_size=4),
    _LEAF | st.lists(_LEAF, max_size=3),
)
def test_what_is_set_is_there_and_the_rest_is_untouched(data: Any, keys: list[str], value: Any) -> None:
    data = data if isinstance(data, dict) else {}
    on_the_way: Any = data
    for key in keys[:-1]:  # plain values on the way are refused, which has its own test
        on_the_way = on_the_way.get(key) if isinstance(on_the_way, dict) else None
        if on_the_way is not None and not isinstance(on_the_way, dict):
            return
    flow = (
        dump_yaml([value]).strip().removeprefix("- ")
        if isinstance(value, list)
        else dump_yaml([value]).strip()
    )
    if "\n" in flow:
        return
    text = flow if isinstance(value, list) else flow[1:-1]
    tree = apply_overrides(data, [f"{'.'.join(keys)}={text}"])
    found: Any = tree.data
    for key in keys:
        found = found[key]
    assert found == value
    for key in set(data) - {keys[0]}:
        assert tree.data[key] == data[key]


def test_a_file_name_template_needs_no_quotes() -> None:
    assert parse_override("datasets.train.filename_tmpl={}x4") == (
        ["datasets", "train", "filename_tmpl"],
        "{}x4",
    )
    assert parse_override("a={}") == (["a"], {})
