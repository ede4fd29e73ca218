"""Files of stored answers: whole or absent, shared by runs, every byte watched; and how values are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.errors import UserError
from atelier.objectives.distill.answer_shards import (
    CHANNELS_LAST,
    PLAIN,
    AnswerStore,
    Layout,
    differences,
)
from atelier.objectives.distill.codec import Codec

CPU = torch.device("cpu")
KEY = bytes(range(32))
LAYOUT = Layout((3, 4, 4), Codec("fp32"), together=2, slots=2)


def store_of(folder: Path, key: bytes = KEY) -> AnswerStore:
    return AnswerStore(folder, key, LAYOUT)


def answers_of(step: int, slot: int = 0) -> np.ndarray:
    return np.random.default_rng((step, slot)).random((2, 3, 4, 4), np.float32)


def put(store: AnswerStore, step: int, slot: int = 0, order: int = PLAIN) -> None:
    numbers = [2 * slot, 2 * slot + 1]
    inputs = np.array([step, -step], np.int64)
    store.put(step, numbers, answers_of(step, slot), inputs, np.zeros(2, np.int32), order)


def has(store: AnswerStore, step: int, slot: int = 0) -> bool:
    found = store.find(step, [2 * slot, 2 * slot + 1])
    return found is not None and np.array_equal(found.answers, answers_of(step, slot))


def test_what_is_put_is_found_before_and_after_it_is_written(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    assert store.find(5, [2, 3]) is None
    put(store, 5, slot=1, order=CHANNELS_LAST)
    assert has(store, 5, 1) and not list(tmp_path.iterdir())
    store.flush()
    again = store_of(tmp_path)
    assert has(again, 5, 1) and not has(again, 5, 0) and not has(again, 4, 1)
    found = again.find(5, [2, 3])
    assert found is not None and found.order == CHANNELS_LAST and found.inputs.tolist() == [5, -5]
    assert again.find(5, [0, 1, 2, 3]) is None
    put(again, 5, slot=0)
    found = again.find(5, [0, 1, 2])
    assert found is not None
    assert np.array_equal(found.answers, np.concatenate([answers_of(5, 0), answers_of(5, 1)[:1]]))


def test_a_full_file_is_written_by_itself(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for step in range(1, LAYOUT.steps + 1):
        assert not list(tmp_path.iterdir())
        put(store, step)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001-000.bin"]
    put(store, LAYOUT.steps + 1)
    put(store, 2 * LAYOUT.steps + 1)
    assert len(list(tmp_path.iterdir())) == 2, "going on to the next file writes the one before"
    assert store.coverage(LAYOUT.steps) == 0.5
    store.flush()
    whole = store_of(tmp_path)
    assert sorted(whole.passes()) == [
        (step, 0) for step in (*range(1, LAYOUT.steps + 2), 2 * LAYOUT.steps + 1)
    ]


def test_two_runs_that_fill_one_file_lose_nothing(tmp_path: Path) -> None:
    one, other = store_of(tmp_path), store_of(tmp_path)
    put(one, 1)
    put(other, 2)
    put(other, 3, slot=1)
    one.flush()
    assert has(other, 1), "looked for again where it was missing"
    put(other, 4)
    other.flush()
    assert has(one, 2) and has(one, 4)
    put(one, 5)
    put(other, 6)
    other.flush()
    one.flush()
    third = store_of(tmp_path)
    assert [step for step, slot in third.passes() if slot == 0] == [1, 2, 4, 5, 6]
    assert has(third, 3, 1) and third.coverage(6) == 6 / 12


def test_what_another_run_stored_first_stays(tmp_path: Path) -> None:
    one, other = store_of(tmp_path), store_of(tmp_path)
    put(one, 1)
    other.put(1, [0, 1], np.ones((2, 3, 4, 4), "<f4"), np.zeros(2), np.zeros(2), PLAIN)
    one.flush()
    other.flush()
    assert has(store_of(tmp_path), 1)


@pytest.mark.parametrize("place", [0, 40, 64, 130, 1200, -1])
def test_a_changed_byte_anywhere_is_named_and_replaced(tmp_path: Path, place: int) -> None:
    store = store_of(tmp_path)
    put(store, 1)
    put(store, 2)
    store.flush()
    (path,) = tmp_path.iterdir()
    torn = bytearray(path.read_bytes())
    torn[place] ^= 1
    path.write_bytes(torn)
    again = store_of(tmp_path)
    assert again.find(1, [0, 1]) is None and again.find(2, [0, 1]) is None
    assert len(again.notes) == 1 and f"{path} is damaged" in again.notes[0]
    put(again, 1)
    again.flush()
    assert list(store_of(tmp_path).passes()) == [(1, 0)]


def test_a_torn_file_counts_as_damaged(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    put(store, 1)
    store.flush()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    again = store_of(tmp_path)
    assert again.find(1, [0, 1]) is None and "bytes instead of" in again.notes[0]
    assert again.coverage(1) == 0
    path.write_bytes(b"")
    empty = store_of(tmp_path)
    assert empty.find(1, [0, 1]) is None and "is damaged" in empty.notes[0]


def test_a_file_of_another_cache_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    put(store, 1)
    store.flush()
    with pytest.raises(UserError, match="belongs to another cache"):
        store_of(tmp_path, bytes(32)).find(1, [0, 1])


def test_differences_name_nested_values() -> None:
    assert differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}) == [
        "b.c",
        "e",
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.25, 1.25, width=32), min_size=1, max_size=64))
def test_uint16_keeps_values_within_the_promised_distance(values: list[float]) -> None:
    answers = torch.tensor(values).reshape(1, -1)
    stored, outside = Codec("uint16").encode(answers)
    back = Codec("uint16").decode(stored, CPU)
    assert outside.tolist() == [0]
    assert float((back.double() - answers.double()).abs().max()) <= Codec("uint16").error < 1.2e-5


def test_saturated_values_are_counted_and_clipped() -> None:
    answers = torch.tensor([[-0.3, 0.5, 1.3], [0.0, 1.25, -0.25], [7.0, -7.0, 1.26]])
    stored, outside = Codec("uint16").encode(answers)
    assert outside.tolist() == [2, 0, 3]
    back = Codec("uint16").decode(stored, CPU)
    assert torch.allclose(back, answers.clamp(-0.25, 1.25), rtol=0, atol=1.2e-5)
    assert Codec("fp16").encode(torch.tensor([[7e4, 1.0]]))[1].tolist() == [1]


def test_floats_keep_what_they_can() -> None:
    answers = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.5 - 0.25
    assert torch.equal(Codec("fp32").seen_through(answers), answers)
    assert torch.equal(Codec("fp16").seen_through(answers), answers.half().float())
    assert float((Codec("fp16").seen_through(answers) - answers).abs().max()) <= Codec("fp16").error
