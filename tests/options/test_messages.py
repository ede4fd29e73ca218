"""Every kind of mistake and the exact line it gives."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from atelier.options.messages import show

Refusal = Callable[..., str]

_INNER = "lr, betas, milestones, clip, flag, mode, gpu, weight, where, layers, even"
_TOP = "name, steps, inner, pet, zoo, herd, guest, sets"

#: (what stands in the file after `name: x`, the message after `run.yml:`)
ONE_MISTAKE = [
    # wrong type
    ("inner: {lr: abc}", "2: inner.lr: given 'abc', allowed: a number, greater than 0"),
    ("steps: 1.5", "2: steps: given 1.5, allowed: a whole number, at least 1, at most 1000"),
    ("steps: [1]", "2: steps: given [1], allowed: a whole number, at least 1, at most 1000"),
    ("steps: ~", "2: steps: given null, allowed: a whole number, at least 1, at most 1000"),
    ("inner: {flag: maybe}", "2: inner.flag: given 'maybe', allowed: true or false"),
    ("inner: {where: 5}", "2: inner.where: given 5, allowed: a path or null"),
    ("inner: {clip: x}", "2: inner.clip: given 'x', allowed: a number or null"),
    ("inner: 3", f"2: inner: given 3, allowed: a mapping with the keys {_INNER}"),
    ("sets: 3", "2: sets: given 3, allowed: a mapping with the keys train, ... or null"),
    ("inner: {milestones: 3}", "2: inner.milestones: given 3, allowed: a list of whole numbers"),
    ("inner: {milestones: [1, x]}", "2: inner.milestones.1: given 'x', allowed: a whole number"),
    ("inner: {layers: [1]}", "2: inner.layers: given [1], allowed: a mapping of names, each to a number"),
    ("inner:\n  layers:\n    conv: x", "4: inner.layers.conv: given 'x', allowed: a number"),
    ("pet: {type: Cat, colour: 5}", "2: pet.colour: given 5, allowed: text (write it in quotes)"),
    # range, length, choice
    ("steps: 0", "2: steps: given 0, allowed: a whole number, at least 1, at most 1000"),
    ("inner: {lr: -1}", "2: inner.lr: given -1, allowed: a number, greater than 0"),
    ("inner: {betas: [1]}", "2: inner.betas: given [1], allowed: a list of 2 numbers"),
    ("inner: {betas: [1, 2, 3]}", "2: inner.betas: given [1, 2, 3], allowed: a list of 2 numbers"),
    ("inner: {mode: fp64}", "2: inner.mode: given 'fp64', allowed: 'fp32', 'bf16' or 'fp16'"),
    # unions: one line, about the alternative that was meant
    ("inner: {gpu: x}", "2: inner.gpu: given 'x', allowed: 'auto' or a whole number"),
    ("inner: {weight: x}", "2: inner.weight: given 'x', allowed: a number or a list of numbers"),
    ("inner: {weight: [1, x]}", "2: inner.weight.1: given 'x', allowed: a number"),
    # our own checks
    ("inner: {even: 3}", "2: inner.even: given 3: must be even"),
    # unknown keys
    ("stepps: 3", f"2: stepps: unknown key, allowed: {_TOP}; did you mean 'steps'?"),
    ("qqq: 3", f"2: qqq: unknown key, allowed: {_TOP}"),
    ("lr: 3", f"2: lr: unknown key, allowed: {_TOP}; it belongs to inner"),
    ("inner:\n  pet: Cat", f"3: inner.pet: unknown key, allowed: {_INNER}; it belongs to the top level"),
    ("pet: {type: Cat, lifes: 3}", "2: pet.lifes: unknown key, allowed: type, lives, colour; did you mean 'lives'?"),
    ("sets: {train: {}, val_1: {lrr: 1}}", f"2: sets.val_1.lrr: unknown key, allowed: {_INNER}; did you mean 'lr'?"),
    ("pet: {type: Dog, owner: m, lives: 3}",
     "2: pet.lives: unknown key, allowed: type, owner, friends; it belongs to type Cat; 'pet={type: Dog}' begins the "
     "section anew"),
    ("lives: 3\npet: {type: Cat}", f"2: lives: unknown key, allowed: {_TOP}; did you mean pet.lives?"),
    ("lives: 3\nguest: {colour: red}\npet: Cat",
     f"2: lives: unknown key, allowed: {_TOP}; did you mean pet.lives or guest.lives?"),
    ("lives: 3\npet: {type: Dog, owner: m}", f"2: lives: unknown key, allowed: {_TOP}"),
    # components
    ("pet: cat", "2: pet: given 'cat', allowed: Cat, Dog; did you mean 'Cat'?"),
    ("pet:\n  lives: 3\n  type: Catt", "4: pet.type: given 'Catt', allowed: Cat, Dog; did you mean 'Cat'?"),
    ("pet: {type: Whale}", "2: pet.type: given 'Whale', allowed: Cat, Dog"),
    ("pet: {type: 3}", "2: pet.type: given 3, allowed: Cat, Dog"),
    ("pet: {lives: 3}", "2: pet.type: missing; needed: an animal, one of Cat, Dog"),
    ("pet: 3", "2: pet: given 3, allowed: a mapping with a type, or one of Cat, Dog"),
    ("pet: Dog", "2: pet.owner: missing; needed: text"),
    ("zoo: [Cat, {type: Dog, owner: m, friends: [Rat]}]",
     "2: zoo.1.friends.0: given 'Rat', allowed: Cat, Dog; did you mean 'Cat'?"),
    ("zoo: {a: Cat}",
     "2: zoo: given {a: 'Cat'}, allowed: a list, each the name of an animal (Cat, Dog) or a mapping with its type"),
    ("herd:\n  one: {type: Cat, lives: 0}", "3: herd.one.lives: given 0, allowed: a whole number, at least 1"),
    ("guest: {lives: x}", "2: guest.lives: given 'x', allowed: a whole number, at least 1"),
    # missing
    ("sets: {}", f"2: sets.train: missing; needed: a mapping with the keys {_INNER}"),
    ("sets: {trian: {}}",
     f"2: sets.train: missing; needed: a mapping with the keys {_INNER}; is it 'trian' that was meant?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ONE_MISTAKE, ids=[text for text, _ in ONE_MISTAKE])
def test_one_mistake_one_line(text: str, message: str, small: SimpleNamespace, refusal: Refusal) -> None:
    assert refusal(small.check, f"name: x\n{text}\n") == f"run.yml:{message}"


def test_all_mistakes_at_once_in_the_order_of_lines(small: SimpleNamespace, refusal: Refusal) -> None:
    text = "inner:\n  mode: fp64\n  lrr: 1\nsteps: 0\nnam: x\npet: {type: Dog}\n"
    assert refusal(small.check, text, "guest.lives=0", "inner.even=3").split("\n") == [
        "run.yml:1: name: missing; needed: text, not empty, matching ^[^/]+$; is it 'nam' that was meant?",
        "run.yml:2: inner.mode: given 'fp64', allowed: 'fp32', 'bf16' or 'fp16'",
        f"run.yml:3: inner.lrr: unknown key, allowed: {_INNER}; did you mean 'lr'?",
        "run.yml:4: steps: given 0, allowed: a whole number, at least 1, at most 1000",
        f"run.yml:5: nam: unknown key, allowed: {_TOP}; did you mean 'name'?",
        "run.yml:6: pet.owner: missing; needed: text",
        "command line: guest.lives: given 0, allowed: a whole number, at least 1",
        "command line: inner.even: given 3: must be even",
    ]


def test_checks_across_sections_stand_at_the_first_line(small: SimpleNamespace, refusal: Refusal) -> None:
    assert refusal(small.check, "# head\nname: x\nsteps: 13\n") == (
        "run.yml:2: steps 13 brings bad luck; choose another"
    )


def test_text_that_yaml_read_as_a_number(small: SimpleNamespace, refusal: Refusal) -> None:
    assert refusal(small.check, "name: 2024") == (
        "run.yml:1: name: given 2024, allowed: text, not empty, matching ^[^/]+$ (write it in quotes)"
    )
    assert small.check("name: 001").name == "001"
    assert small.check("name: no").name == "no"


def test_words_for_truth_and_digits_with_a_zero_reach_their_keys(small: SimpleNamespace) -> None:
    read = small.check("name: x\nsteps: 010\ninner: {flag: on}")
    assert (read.steps, read.inner.flag) == (10, True)


def test_no_word_of_pydantic_gets_through(small: SimpleNamespace, refusal: Refusal) -> None:
    for text, _ in ONE_MISTAKE:
        said = refusal(small.check, f"name: x\n{text}\n").lower()
        for jargon in ("input", "pydantic", "validation", "http", "dictionary", "instance", "tag", "none"):
            assert jargon not in said


def test_teeth_without_the_union_rule_there_would_be_more_lines(small: SimpleNamespace) -> None:
    with pytest.raises(ValidationError) as caught:
        small.Inner(weight=[1, "x"])
    assert caught.value.error_count() == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (float("inf"), ".inf"),
        (float("-inf"), "-.inf"),
        (float("nan"), ".nan"),
        ("a'b", '"a\'b"'),
        ([1, {"a": None}], "[1, {a: null}]"),
        ("x" * 100, "'" + "x" * 56 + "..."),
    ],
)
def test_show(value: object, text: str) -> None:
    assert show(value) == text
