"""Sweeps: products with the Jacobian against autograd, the solution, and the step that unseen crops decide on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from archs.examples import lively, picture
from atelier.archs import SRVGGNetCompact
from atelier.compress.chain import Chain, compact_chain, run
from atelier.compress.moments import Moments, at, patches
from atelier.compress.sweeps import (
    Linearised,
    Vector,
    _chain,
    _direction,
    _loss,
    _stepped,
    _vector,
    sweep,
)

PLACES = torch.arange(0, 144, 2)


def chain(**options: Any) -> Chain:
    net = lively(SRVGGNetCompact(**{"num_feat": 5, "num_conv": 2, "upscale": 2, **options}))
    return compact_chain(net.options, net.state_dict())


def moved(layers: Chain, size: float) -> Chain:
    generator = torch.Generator().manual_seed(3)
    return _chain([each + size * torch.randn(each.shape, generator=generator) for each in _vector(layers)])


def inner(one: Vector, other: Vector) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("act", ["prelu", "relu", "leakyrelu"])
def test_products_are_those_of_autograd(act: str) -> None:
    layers, x = chain(act_type=act), picture(2, 3, 7, 6)
    vector = _vector(moved(layers, 1.0))
    parts = _vector(layers)
    output, expected = torch.func.jvp(lambda *p: run(_chain(list(p)), x), tuple(parts), tuple(vector))
    around = Linearised(layers, x)
    torch.testing.assert_close(around.output, output)
    torch.testing.assert_close(around.product(vector), expected, rtol=1e-4, atol=1e-5)
    carried = picture(*output.shape, seed=4)
    leaves = [each.clone().requires_grad_() for each in parts]
    gradients = torch.autograd.grad(run(_chain(leaves), x), leaves, carried)
    outer = [torch.zeros(len(layer.bias), len(layer.bias), dtype=torch.float64) for layer in layers]
    for found, gradient in zip(around.transposed(carried, outer), gradients, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)
    rows = carried.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(outer[-1], rows @ rows.T, rtol=1e-5, atol=1e-4)


def test_one_layer_is_solved_as_least_squares() -> None:
    """With a single linear layer the problem is linear: ten products with this preconditioner solve it."""
    layers = chain()[-1:]
    x, wanted = picture(4, 5, 12, 12), picture(4, 12, 12, 12, seed=5)
    places = torch.arange(144)
    direction = _direction(layers, x, wanted, places, 0, True)
    solved = _chain([a + b for a, b in zip(_vector(layers), direction, strict=True)])
    moments = Moments.empty(45, 12)
    moments.add(patches(x, 3, places), at(wanted, places))
    least = float(moments.error(moments.solve(1e-9)).sum())
    assert _loss(solved, x, wanted) == pytest.approx(least, rel=1e-3)
    assert _loss(layers, x, wanted) > 2 * least


def test_a_known_network_is_found_again() -> None:
    layers, x = chain(), picture(12, 3, 12, 12)
    wanted = run(layers, x)
    start = moved(layers, 0.02)
    found = sweep(start, x, wanted, PLACES, sweeps=4, seed=0, fit_slopes=True)
    new = picture(2, 3, 12, 12, seed=8)
    y = run(layers, new)
    assert _loss(found, new, y) < 0.05 * _loss(start, new, y)


def test_nothing_missing_changes_nothing_bit_for_bit() -> None:
    layers, x = chain(), picture(3, 3, 12, 12)
    found = sweep(layers, x, run(layers, x), PLACES, sweeps=2, seed=0, fit_slopes=True)
    assert all(torch.equal(a, b) for a, b in zip(_vector(found), _vector(layers), strict=True))


def test_fixed_slopes_stay() -> None:
    layers, x = chain(act_type="leakyrelu"), picture(4, 3, 12, 12)
    bent = tuple(replace(layer, slope=b.slope) for layer, b in zip(moved(layers, 0.02), layers, strict=True))
    found = sweep(layers, x, run(bent, x), PLACES, sweeps=2, seed=0, fit_slopes=False)
    assert not torch.equal(found[0].weight, layers[0].weight)
    assert all(
        a.slope is not None and b.slope is not None and torch.equal(a.slope, b.slope)
        for a, b in zip(found[:-1], layers[:-1], strict=True)
    )


def test_a_step_that_does_not_help_unseen_crops_is_not_made() -> None:
    layers, x = chain(), picture(2, 3, 12, 12)
    wanted = run(moved(layers, 0.01), x)
    towards = [b - a for a, b in zip(_vector(layers), _vector(moved(layers, 0.01)), strict=True)]
    assert _loss(_stepped(layers, towards, x, wanted), x, wanted) < 1e-6
    assert _stepped(layers, [-each for each in towards], x, wanted) is layers
    half = _stepped(layers, [2 * each for each in towards], x, wanted)
    torch.testing.assert_close(_vector(half)[0], _vector(moved(layers, 0.01))[0])
