"""Window attention by matrix products against the formula, where logits are moderate and where they are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atelier.archs import swinir_products
from atelier.archs.swinir_products import attend
from atelier.archs.swinir_windows import Groups, in_parts

HEADS, DIM, TOKENS = 2, 3, 4
ONE_KIND: Groups = ((5, 0),)
ALL_KINDS: Groups = ((3, 0), (2, 1), (1, 2), (1, 3))


def formula(qkv: Tensor, biases: Tensor, groups: Groups, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v, a window and a head at a time."""
    channels = qkv.shape[0] // 3
    columns = []
    window = 0
    for count, kind in groups:
        for _ in range(count):
            own = qkv[:, window * TOKENS : (window + 1) * TOKENS].view(3, HEADS, DIM, TOKENS)
            heads = []
            for head in range(HEADS):
                q, k, v = own[:, head]
                heads.append(v @ torch.softmax(q.t() @ k * scale + biases[kind, head], -1).t())
            columns.append(torch.stack(heads).view(channels, TOKENS))
            window += 1
    return torch.cat(columns, 1)


def arguments(groups: Groups, size: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    windows, kinds = sum(count for count, _ in groups), 1 + max(kind for _, kind in groups)
    qkv = torch.randn(3 * HEADS * DIM, windows * TOKENS, generator=generator, dtype=torch.float64)
    qkv[: 2 * HEADS * DIM] *= size
    biases = torch.randn(kinds, HEADS, TOKENS, TOKENS, generator=generator, dtype=torch.float64)
    return qkv.requires_grad_(), biases.requires_grad_()


@pytest.fixture(params=[1 << 20, 2 * TOKENS * TOKENS * 8], ids=["one piece", "pieces of two windows"])
def piece_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(swinir_products, "_PIECE_BYTES", request.param)
    return int(request.param)


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("groups", [ONE_KIND, ALL_KINDS], ids=["one kind", "all kinds"])
@pytest.mark.parametrize("size", [1.0, 30.0], ids=["moderate", "sums beyond the limit"])
def test_values_and_gradients_are_the_formulas(groups: Groups, size: float) -> None:
    qkv, biases = arguments(groups, size)
    weight = torch.rand(HEADS * DIM, qkv.shape[1], dtype=torch.float64)
    results = []
    for function in (attend, formula):
        out = function(qkv, biases, groups, 0.7)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (qkv, biases))))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("limit", [2.0**60, 1.0], ids=["sums alone", "row maxima"])
def test_gradcheck(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swinir_products, "_LARGEST_SUM", limit)
    qkv, biases = arguments(ALL_KINDS)
    assert torch.autograd.gradcheck(lambda qkv, biases: attend(qkv, biases, ALL_KINDS, 0.7), (qkv, biases))


@pytest.mark.parametrize("shift", [500.0, -500.0], ids=["overflow", "underflow"])
def test_float32_logits_that_no_power_could_hold(shift: float) -> None:
    qkv, biases = (each.detach() for each in arguments(ALL_KINDS))
    biases = biases + shift
    ours = attend(qkv.float(), biases.float(), ALL_KINDS, 0.7)
    torch.testing.assert_close(ours.double(), formula(qkv, biases, ALL_KINDS, 0.7), rtol=1e-4, atol=1e-4)


def test_one_row_far_below_the_others_keeps_its_precision() -> None:
    """All its powers would be zero without its own maximum, though the largest sum looks harmless."""
    qkv, biases = (each.detach() for each in arguments(ONE_KIND))
    biases = biases.clone()
    biases[:, :, 1] -= 300.0
    ours = attend(qkv.float(), biases.float(), ONE_KIND, 0.7)
    torch.testing.assert_close(ours.double(), formula(qkv, biases, ONE_KIND, 0.7), rtol=1e-4, atol=1e-4)


def test_moderate_logits_need_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    inner = swinir_products._attend

    def counted(*given: object, **named: object) -> object:
        calls.append(named)
        return inner(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(swinir_products, "_attend", counted)
    for size, expected in ((1.0, 1), (60.0, 2)):
        calls.clear()
        qkv, biases = (each.detach() for each in arguments(ALL_KINDS, size))
        attend(qkv, biases, ALL_KINDS, 1.0)
        assert len(calls) == expected


def test_not_a_number_stays_where_it_was() -> None:
    qkv, biases = (each.detach() for each in arguments(ONE_KIND))
    qkv[0, 0] = float("nan")
    out = attend(qkv, biases, ONE_KIND, 0.7)
    assert out[:DIM, :TOKENS].isnan().any()
    assert out[:, TOKENS:].isfinite().all()


def test_parts_cover_every_window_once_with_its_kind() -> None:
    for most in range(1, 9):
        parts = in_parts(ALL_KINDS, most)
        assert [first for first, _, _ in parts] == list(range(0, 7, most))
        assert all(count == sum(number for number, _ in groups) <= most for _, count, groups in parts)
        kinds = [kind for _, _, groups in parts for number, kind in groups for _ in range(number)]
        assert kinds == [0, 0, 0, 1, 1, 2, 3]
