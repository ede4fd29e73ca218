"""Folding, growing, choosing and solving, each against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from archs.examples import lively, picture
from atelier.archs import SRVGGNetCompact, load_network
from atelier.compress import fidelity, fold_scale, to_grey
from atelier.compress.chain import Chain, compact_chain, compact_state, run
from atelier.compress.fold import built
from atelier.compress.growth import deepen, duplicate, widen
from atelier.compress.least_squares import collect, relative_errors, solve
from atelier.compress.moments import Moments, patches
from atelier.compress.select import activation_scores, by_elimination, eliminate
from atelier.errors import UserError
from support import SHARED

WEIGHTS = SHARED / "weights" / "realesr-animevideox2v3.pth"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="no shared weights here")


def network(**changes: Any) -> Any:
    options = {"num_feat": 6, "num_conv": 3, "upscale": 2, **changes}
    return lively(SRVGGNetCompact(**options)).eval()


def chain_of(net: Any) -> Chain:
    return compact_chain(net.options, net.state_dict())


def gap(one: Any, other: Any, colours: int = 3) -> float:
    x = picture(2, colours, 9, 8)
    with torch.no_grad():
        return float((one(x) - other(x)).abs().max())


def all_of(layers: Chain) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(len(layer.bias))) for layer in layers)


@pytest.mark.parametrize("act", ["prelu", "relu", "leakyrelu"])
def test_a_chain_is_the_network_and_back(act: str) -> None:
    net = network(act_type=act)
    layers, x = chain_of(net), picture(1, 3, 7, 6)
    with torch.no_grad():
        tail = F.pixel_shuffle(run(layers, x), 2) + x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(tail, net(x), rtol=0, atol=1e-6)
    state = compact_state(layers, act)
    assert list(state) == list(net.state_dict())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize(("scale", "to"), [(4, 2), (4, 1), (2, 1), (6, 3), (3, 3)])
def test_folding_is_the_box_mean_of_the_output(scale: int, to: int) -> None:
    net = network(upscale=scale)
    x = picture(1, 3, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(
            fold_scale(net, to)(x), F.avg_pool2d(net(x), scale // to), rtol=0, atol=1e-5
        )


def test_averaging_consecutive_rows_is_another_fold() -> None:
    """The mistake in the file that the fold replaces; the check above would see it."""
    net, x = network(upscale=4), picture(1, 3, 7, 6)
    layers = chain_of(net)
    wrong = layers[-1].rows(range(12))
    wrong.weight.copy_(layers[-1].weight.unflatten(0, (12, 4)).mean(1))
    wrong.bias.copy_(layers[-1].bias.unflatten(0, (12, 4)).mean(1))
    with torch.no_grad():
        other = built((*layers[:-1], wrong), net, upscale=2)(x)
        assert float((other - F.avg_pool2d(net(x), 2)).abs().max()) > 1e-2


def test_a_scale_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"scale 4 cannot be folded to 3; allowed: 1, 2, 4"):
        fold_scale(network(upscale=4), 3)


@needs_weights
def test_folding_and_grey_with_real_weights() -> None:
    net: Any = load_network(WEIGHTS).net
    x = picture(1, 3, 12, 10)
    with torch.no_grad():
        torch.testing.assert_close(fold_scale(net, 1)(x), F.avg_pool2d(net(x), 2), rtol=0, atol=1e-5)
        grey = picture(1, 1, 12, 10)
        expected = net(grey.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        torch.testing.assert_close(to_grey(net)(grey), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("colours", [(3, 3), (1, 3)])
def test_grey_is_the_mean_of_the_colours(colours: tuple[int, int]) -> None:
    net = network(num_in_ch=colours[0], num_out_ch=colours[1])
    x = picture(2, 1, 9, 8)
    with torch.no_grad():
        expected = net(x.expand(-1, colours[0], -1, -1)).mean(1, keepdim=True)
        torch.testing.assert_close(to_grey(net)(x), expected, rtol=0, atol=1e-5)


def test_grey_twice_is_refused() -> None:
    with pytest.raises(UserError, match="grey already"):
        to_grey(to_grey(network()))


@settings(max_examples=20, deadline=None)
@given(
    more=st.integers(0, 7),
    deeper=st.integers(0, 6),
    act=st.sampled_from(["prelu", "relu"]),
    where=st.sampled_from(["even", "end"]),
)
def test_growth_changes_nothing(more: int, deeper: int, act: str, where: str) -> None:
    net = network(act_type=act)
    deep = deepen(chain_of(net), 3 + deeper, act, where)
    if act == "prelu":  # times one, plus zeros: the same numbers
        assert gap(net, built(deep, net)) == 0
    grown = built(widen(deep, 6 + more), net)
    assert (grown.options.num_feat, grown.options.num_conv) == (6 + more, 3 + deeper)
    assert gap(net, grown) < 1e-5


def test_where_layers_are_put() -> None:
    layers = chain_of(network())
    dirac = torch.nn.init.dirac_(torch.empty(6, 6, 3, 3))

    def added(where: str) -> list[int]:
        grown = deepen(layers, 6, "prelu", where)
        return [i for i, layer in enumerate(grown) if torch.equal(layer.weight, dirac)]

    assert added("end") == [4, 5, 6]
    assert added("even") == [1, 4, 6]


def test_leaky_units_cannot_grow_and_copies_change_the_function() -> None:
    net = network(act_type="leakyrelu")
    with pytest.raises(UserError, match="fixed slope bends negative values once more"):
        deepen(chain_of(net), 5, "leakyrelu")
    twice = duplicate(chain_of(net), 6)
    assert all(torch.equal(twice[1 + i].weight, twice[4 + i].weight) for i in range(3))
    assert gap(net, built(twice, net)) > 1e-3


def test_patches_are_what_a_convolution_sees() -> None:
    x, layer = picture(2, 5, 7, 6), chain_of(network(num_feat=5))[1]
    places = torch.tensor([0, 5, 17, 41])
    solution = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1).T
    expected = layer.linear(x).flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(patches(x, 3, places) @ solution, expected)


def test_moments_solve_as_the_stacked_problem() -> None:
    u = torch.cat([picture(300, 12, seed=2).double(), torch.ones(300, 1, dtype=torch.float64)], 1)
    y = picture(300, 4, seed=3).double()
    moments = Moments.empty(12, 4)
    for rows in range(0, 300, 70):
        moments.add(u[rows : rows + 70], y[rows : rows + 70])
    expected = torch.linalg.lstsq(u, y).solution
    torch.testing.assert_close(moments.solve(1e-12), expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(moments.error(expected), (y - u @ expected).square().sum(0))


def test_elimination_removes_what_costs_least_by_brute_force() -> None:
    taps, channels = 2, 5
    u = torch.cat([picture(200, channels * taps).double(), torch.ones(200, 1, dtype=torch.float64)], 1)
    y = u @ picture(channels * taps + 1, 3, seed=4).double() + 0.1 * picture(200, 3, seed=5)
    alive = list(range(channels))
    while len(alive) > 2:
        costs = []
        for j in alive:
            columns = [c * taps + t for c in alive if c != j for t in range(taps)] + [channels * taps]
            part = u[:, columns]
            costs.append(float((y - part @ torch.linalg.lstsq(part, y).solution).square().sum()))
        del alive[costs.index(min(costs))]
    assert eliminate(u.T @ u, u.T @ y, taps, 2)[0] == tuple(alive)


def test_elimination_leaves_dead_and_doubled_channels_out() -> None:
    net = network(num_feat=4, num_conv=2)
    layers = widen(chain_of(net), 8)  # every channel twice
    x, places = picture(8, 3, 16, 16), torch.arange(256)
    moments = collect(layers, [(i, i) for i in range(1, 4)], x, places)
    kept = by_elimination(layers, moments, 4, 1e-9)
    assert all({c % 4 for c in each} == {0, 1, 2, 3} for each in kept[:-1])
    solved = solve(layers, range(4), kept, x, places, 1e-9, fit_slopes=True)
    assert gap(net, built(solved, net)) < 1e-3
    assert max(relative_errors(layers, range(4), kept, solved, x)) < 1e-3


def test_activation_score_is_spread_times_reading_norm() -> None:
    layers, x = chain_of(network()), picture(2, 3, 8, 8)
    scores = activation_scores(layers, collect(layers, [(i, i) for i in range(1, 5)], x, torch.arange(64)))
    with torch.no_grad():
        after = layers[0](x)
    spread = after.double().transpose(0, 1).flatten(1).std(1, unbiased=False)
    norm = layers[1].weight.double().transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(scores[0], spread * norm, rtol=1e-5, atol=0)


def test_nothing_left_out_is_the_source_bit_for_bit() -> None:
    layers, x = chain_of(network()), picture(2, 3, 8, 8)
    solved = solve(layers, range(5), all_of(layers), x, torch.arange(64), 1e-4, fit_slopes=True)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(solved, layers, strict=True))
    assert relative_errors(layers, range(5), all_of(layers), solved, x) == (0.0,) * 5


def test_solving_takes_back_an_earlier_error() -> None:
    """Each layer is solved from the new chain's inputs; solved from the source's it would be worse."""
    layers, x, places = chain_of(network(num_feat=10)), picture(8, 3, 16, 16), torch.arange(256)
    kept = (*(tuple(range(5)) for _ in layers[:-1]), tuple(range(12)))
    solved = solve(layers, range(5), kept, x, places, 1e-6, fit_slopes=True)
    cut = (
        layers[0].rows(kept[0]),
        *(b.columns(a).rows(c) for a, b, c in zip(kept, layers[1:], kept[1:], strict=False)),
    )
    ours, plain = (relative_errors(layers, range(5), kept, each, x)[-1] for each in (solved, cut))
    assert ours < 0.7 * plain


def test_fidelity_by_hand() -> None:
    reference = torch.full((1, 3, 4, 4), 0.5)
    output = reference.clone()
    output[:, 0] += 0.1
    output[:, 1] -= 0.7  # clamped: half of the range
    found = fidelity([output], [reference])
    assert found.max_error == pytest.approx(0.5)
    assert found.shift == pytest.approx((25.5, -127.5, 0))
    assert found.colour_shift == pytest.approx(127.5)
    assert found.psnr == pytest.approx(-10 * torch.tensor((0.01 + 0.25) / 3).log10().item(), abs=1e-4)
    assert fidelity([reference], [reference]).psnr == float("inf")
    with pytest.raises(ValueError, match="cannot be compared"):
        fidelity([reference], [reference[..., :2]])
