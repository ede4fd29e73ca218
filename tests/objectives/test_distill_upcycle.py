"""Upcycling: exact ways back, draws that depend on (seed, step, sample) alone, tiles from the right place."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.errors import UserError
from atelier.images import imresize
from atelier.objectives.distill.term_options import UpcycleOptions
from atelier.objectives.distill.upcycle import Upcycled, apply, draw, undo, upcycle, zoom_out
from atelier.randomness import Streams

ALL = torch.tensor(list(itertools.product((False, True), repeat=4)))


def pictures(count: int, side: int) -> Tensor:
    """Values on a grid on which 1 - x is exact in float32."""
    return torch.randint(0, 257, (count, 3, side, side), generator=torch.Generator().manual_seed(4)) / 256


def made(
    gt: Tensor, lq: Tensor, scale: int, numbers: Any, seed: int = 7, step: int = 3, **options: Any
) -> Upcycled:
    return upcycle(gt, lq, UpcycleOptions(**options), scale=scale, seed=seed, step=step, numbers=numbers)


def test_all_16_combinations_return_the_input_exactly() -> None:
    tiles = pictures(1, 6).expand(16, -1, -1, -1)
    changed = apply(tiles, ALL)
    assert torch.equal(undo(changed, ALL), tiles)
    assert len({tuple(each.flatten().tolist()) for each in changed}) == 16


def test_the_forward_order_would_not_come_back() -> None:
    """The known fault: h-flip or v-flip (not both) with transpose needs the reverse order."""
    tiles = pictures(1, 6).expand(16, -1, -1, -1)
    wrong = apply(apply(tiles, ALL), ALL)
    turned = (wrong != tiles).flatten(1).any(1)
    assert torch.equal(turned, (ALL[:, 1] ^ ALL[:, 2]) & ALL[:, 3])
    assert torch.equal(wrong[turned], tiles[turned].flip(2, 3))
    # The share of samples that it spoils at p 0.3.
    p = torch.where(ALL, 0.3, 0.7).prod(1)
    assert float(p[turned].sum()) == pytest.approx(0.126)


def test_operations_by_hand() -> None:
    tile = pictures(1, 4)
    array = tile[0].numpy()
    for operations in ALL:
        expected = array
        if operations[0]:
            expected = 1 - expected
        if operations[1]:
            expected = expected[:, :, ::-1]
        if operations[2]:
            expected = expected[:, ::-1]
        if operations[3]:
            expected = expected.swapaxes(1, 2)
        np.testing.assert_array_equal(apply(tile, operations[None])[0].numpy(), expected)


def test_draws_depend_on_seed_step_and_sample_alone() -> None:
    lq, gt = pictures(4, 8), pictures(4, 32)
    whole = made(gt, lq, 4, [0, 1, 2, 3], tiles=2, p=0.5)
    # One rank's half of the batch, in another order: each sample still gets its own.
    half = made(gt[[3, 1]], lq[[3, 1]], 4, [3, 1], tiles=2, p=0.5)
    rows = [6, 7, 2, 3]
    for name in ("tiles", "inputs", "operations"):
        assert torch.equal(getattr(half, name), getattr(whole, name)[rows])
    for other in ({"seed": 8}, {"step": 4}):
        again = made(gt, lq, 4, [0, 1, 2, 3], tiles=2, p=0.5, **other)
        assert not torch.equal(again.operations, whole.operations)
    assert not torch.equal(made(gt, lq, 4, [4, 5, 6, 7], tiles=2, p=0.5).operations, whole.operations)


def test_tiles_are_those_drawn_and_different() -> None:
    scale, side = 3, 4
    lq, gt = pictures(5, side), torch.arange(5 * 3 * 144.0).view(5, 3, 12, 12) / 2160
    found = made(gt, lq, scale, range(5), tiles=4)
    row = 0
    for number in range(5):
        places, operations = draw(UpcycleOptions(tiles=4), scale, Streams(7, 3, number))
        assert len(set(places)) == 4 and places.max() < 9
        for place, chosen in zip(places, operations, strict=True):
            y, x = side * (place // scale), side * (place % scale)
            assert torch.equal(found.tiles[row], gt[number, :, y : y + side, x : x + side])
            assert found.operations[row].tolist() == chosen.tolist()
            row += 1
    assert found.tiles.shape == found.inputs.shape == (20, 3, side, side)


def test_operations_come_as_often_as_p_says() -> None:
    drawn = np.concatenate([draw(UpcycleOptions(), 4, Streams(1, step, 0))[1] for step in range(2000)])
    assert np.abs(drawn.mean(0) - 0.3).max() < 0.04
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.08
    places = np.concatenate([draw(UpcycleOptions(), 2, Streams(1, step, 0))[0] for step in range(2000)])
    assert np.abs(np.bincount(places, minlength=4) / 2000 - 0.25).max() < 0.04


def test_the_way_back_undoes_what_a_network_that_follows_its_input_did() -> None:
    lq, gt = pictures(3, 8), pictures(3, 16)
    found = made(gt, lq, 2, range(3), tiles=3, p=0.6)
    assert not torch.equal(found.inputs, found.tiles)
    enlarged = [torch.nn.functional.interpolate(each, scale_factor=2) for each in (found.inputs, found.tiles)]
    assert torch.equal(found.undo(enlarged[0]), enlarged[1])


def test_a_gradient_comes_through_the_way_back() -> None:
    outs = pictures(16, 6).requires_grad_()
    undo(outs, ALL).mul(torch.arange(36.0).view(6, 6)).sum().backward()
    assert outs.grad is not None and torch.equal(outs.grad.abs().sum((1, 2, 3)), torch.full((16,), 3 * 630.0))


def test_at_scale_1_the_input_itself_is_the_tile() -> None:
    lq, gt = pictures(2, 8), pictures(2, 8) / 2
    found = made(gt, lq, 1, range(2), p=1.0)
    assert torch.equal(found.tiles, lq) and torch.equal(found.undo(found.inputs), lq)
    assert torch.equal(found.inputs, 1 - lq.flip(2, 3).transpose(2, 3))


@pytest.mark.parametrize(
    ("lq", "gt", "scale", "tiles", "words"),
    [
        ((3, 8, 8), (3, 16, 16), 2, 5, r"upcycle\.tiles: 5, but at scale 2 .* 4 tiles"),
        ((3, 8, 8), (3, 8, 8), 1, 2, r"upcycle\.tiles: 2, but at scale 1 .* 1 tile of"),
        ((3, 8, 12), (3, 16, 24), 2, 1, "square lq crops .* lq 3×8×12"),
        ((1, 8, 8), (3, 16, 16), 2, 1, "same channels.* lq 1×8×8 and gt 3×16×16"),
    ],
)
def test_what_cannot_be_upcycled(
    lq: tuple[int, ...], gt: tuple[int, ...], scale: int, tiles: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        made(torch.zeros(2, *gt), torch.zeros(2, *lq), scale, range(2), tiles=tiles)


def test_a_number_for_every_sample() -> None:
    with pytest.raises(ValueError, match="1 numbers for 2 samples"):
        made(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4), 2, [0])


def test_zoom_out_is_the_fields_bicubic() -> None:
    lq = pictures(2, 16)
    small = zoom_out(lq, 2)
    assert small.shape == (2, 3, 8, 8) and small.min() >= 0 and small.max() <= 1
    expected = imresize(lq[0].permute(1, 2, 0).contiguous().numpy(), scale=0.5)
    np.testing.assert_allclose(small[0].permute(1, 2, 0).numpy(), np.clip(expected, 0, 1), atol=1e-6)
    with pytest.raises(
        UserError, match="15×15 do not divide by the scale 2; choose a gt_size that 4 divides"
    ):
        zoom_out(lq[..., 1:, 1:], 2)
    with pytest.raises(UserError, match="at scale 1"):
        zoom_out(lq, 1)
