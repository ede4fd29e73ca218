"""The match: chunks, several references, keys left out, the copy, and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atelier.archs.nonlocal_match import centred_unit, match


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem(queries: int = 37, keys: int = 23) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a batch of 2."""
    asked = centred_unit(drawn(2, 8, queries, 1, seed=1))
    return asked, centred_unit(drawn(2, 8, keys, 1, seed=2)), drawn(2, keys, 3, seed=3)


def test_features_are_centred_and_of_length_one() -> None:
    features = drawn(2, 5, 4, 6) * 3 + 7
    unit = centred_unit(features)
    by_hand = features - features.mean((2, 3), keepdim=True)
    by_hand = (by_hand / by_hand.norm(dim=1, keepdim=True)).flatten(2).transpose(1, 2)
    assert torch.allclose(unit, by_hand, atol=1e-6)


def test_padding_does_not_move_the_mean() -> None:
    features = drawn(1, 5, 4, 6)
    padded = torch.cat([features, torch.full((1, 5, 4, 2), 9.0)], dim=3)
    valid = torch.zeros(1, 4, 8, dtype=torch.bool)
    valid[..., :6] = True
    kept = centred_unit(padded, valid.flatten(1)).unflatten(1, (4, 8))[:, :, :6].flatten(1, 2)
    assert torch.allclose(kept, centred_unit(features), atol=1e-6)


def test_features_that_do_not_differ_stay_finite_with_finite_gradients() -> None:
    features = torch.ones(1, 4, 3, 3, requires_grad=True)
    unit = centred_unit(features)
    match(unit, unit, torch.rand(1, 9, 2), 0.01)[0].sum().backward()
    assert features.grad is not None
    assert torch.isfinite(unit).all() and torch.isfinite(features.grad).all()


def test_the_definition() -> None:
    queries, keys, values = problem()
    colours, best = match(queries, keys, values, 0.05)
    cosines = torch.einsum("bnc,bkc->bnk", queries, keys)
    assert torch.allclose(colours, torch.softmax(cosines / 0.05, -1) @ values, atol=1e-6)
    assert torch.allclose(best[..., 0], cosines.amax(-1), atol=1e-6)
    assert best.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("temperature", [0.01, 1e-10])
@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 10_000])
def test_the_chunk_changes_nothing(chunk: int, temperature: float) -> None:
    whole = match(*problem(), temperature, chunk=37)
    for found, expected in zip(match(*problem(), temperature, chunk=chunk), whole, strict=True):
        assert torch.allclose(found, expected, atol=2e-5)  # the last bit of a cosine, over the temperature


def test_the_chunk_changes_no_gradient() -> None:
    def gradients(chunk: int) -> list[Tensor]:
        inputs = [each.clone().requires_grad_() for each in problem()]
        tau = torch.tensor(0.05, requires_grad=True)
        colours, best = match(*inputs, tau, chunk=chunk)
        return list(torch.autograd.grad(colours.square().sum() + best.sum(), [*inputs, tau]))

    for found, expected in zip(gradients(5), gradients(1000), strict=True):
        assert expected.abs().max() > 0
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.005, 0.05, 1e-10])
@pytest.mark.parametrize("left_out", [False, True])
def test_without_gradients_it_is_the_same(temperature: float, left_out: bool) -> None:
    queries, keys, values = problem(queries=300, keys=190)
    valid = None
    if left_out:
        valid = torch.rand(2, 190, generator=torch.Generator().manual_seed(4)) > 0.3
    given = [each.clone() for each in (queries, keys, values)]
    found = match(queries, keys, values, temperature, valid=valid)
    learned = match(queries.requires_grad_(), keys, values, temperature, valid=valid)
    for one, other in zip(found, learned, strict=True):
        assert torch.allclose(one, other, atol=2e-5)
    for one, other in zip((queries, keys, values), given, strict=True):
        assert torch.equal(one, other)  # what is computed in place is nobody else's


def test_at_the_coldest_the_best_value_is_copied() -> None:
    queries, keys, values = problem()
    copied, _ = match(queries, keys, values, 1e-10)
    best = torch.einsum("bnc,bkc->bnk", queries, keys).argmax(-1)
    for item in range(2):
        assert torch.equal(copied[item], values[item, best[item]])


def test_keys_that_are_left_out_do_not_count() -> None:
    queries, keys, values = problem()
    valid = torch.ones(2, 23, dtype=torch.bool)
    valid[:, 15:] = False
    loud = values.clone()
    loud[:, 15:] = 1e4
    for temperature in (0.05, 1e-10):
        found = match(queries, keys, loud, temperature, valid=valid)
        expected = match(queries, keys[:, :15], values[:, :15], temperature)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.005, 0.01, 1e-10])
def test_half_precision_input_is_matched_in_float32(dtype: torch.dtype, temperature: float) -> None:
    halved = [each.to(dtype) for each in problem()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = match(halved[0], halved[1], halved[2], temperature)
    expected = match(*(each.float() for each in halved), temperature)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
