"""What the rules for SwinIR promise: outputs kept, nothing dead, nothing lost on the way back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import atelier.compress.inherit_swinir as rules
from archs.examples import lively, picture, small_options
from atelier.archs.swinir_attention import WindowAttention
from atelier.archs.swinir_options import SwinIROptions
from atelier.archs.swinir_windows import relative_position_index
from atelier.compress.axes import Drawn, Made, overlap
from atelier.compress.inherit import InheritPlan, inherit_plan, shapes_of
from atelier.compress.inherit_attention import Attention, AttentionSize, heads_map
from atelier.compress.options import InheritOptions
from atelier.errors import UserError

BASE = small_options(in_chans=1, window_size=4, num_heads=(2, 2))


def built(seed: int = 0, **changes: Any) -> Any:
    """A SwinIR as drawn, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SwinIROptions(**{**BASE, **changes}).build().eval()


def carry(old: Any, new: Any, **options: Any) -> InheritPlan:
    """Make ``new`` out of ``old`` in place; returns the plan."""
    plan = inherit_plan(old.options, new.options, old.state_dict(), InheritOptions(**options))
    new.load_state_dict(plan.apply(old.state_dict(), new.state_dict())[0])
    return plan


def difference(one: nn.Module, other: nn.Module, channels: int = 1) -> float:
    x = picture(1, channels, 11, 13)
    with torch.no_grad():
        return float((one(x) - other(x)).abs().max())


# --- outputs that stay


@pytest.mark.parametrize(
    "changes",
    [
        {"depths": (4, 2)},
        {"depths": (3, 5)},
        {"depths": (2, 2, 2), "num_heads": (2, 2, 3)},
        {"depths": (4, 3, 1, 2), "num_heads": (2, 2, 4, 1), "drop_path_rate": 0.1},
    ],
)
@pytest.mark.parametrize("kind", ["1conv", "3conv"])
def test_a_deeper_network_gives_the_same_picture(changes: dict[str, Any], kind: str) -> None:
    old = lively(built(resi_connection=kind))
    new = built(1, resi_connection=kind, **changes)
    assert difference(old, new) > 1e-2
    carry(old, new)
    assert difference(old, new) < 1e-6


def test_only_zero_branches_keep_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teeth: added blocks as they are drawn change it."""
    monkeypatch.setattr(rules, "zero", Drawn)
    old, new = lively(built()), built(1, depths=(4, 2))
    carry(old, new)
    assert difference(old, new) > 1e-4


@pytest.mark.parametrize("ratio", [2.5, 4.0])
def test_more_hidden_units_give_the_same_picture(ratio: float) -> None:
    old, new = lively(built()), built(1, mlp_ratio=ratio)
    carry(old, new)
    assert difference(old, new) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ape": True},
        {"resi_connection": "3conv", "qkv_bias": False},
        {"upsampler": "pixelshuffle", "upscale": 4},
        {"upsampler": "nearest+conv", "upscale": 2},
        {"upsampler": "pixelshuffledirect", "upscale": 3, "patch_norm": False},
    ],
)
@pytest.mark.parametrize("select", ["first", "l2"])
def test_the_same_architecture_is_taken_over_bit_for_bit(changes: dict[str, Any], select: str) -> None:
    old, new = lively(built(**changes)), built(1, **changes)
    plan = carry(old, new, select=select)
    assert plan.loaded == tuple(old.state_dict())
    assert all(torch.equal(value, old.state_dict()[key]) for key, value in new.state_dict().items())
    assert plan.apply(old.state_dict(), new.state_dict())[1] == {}


def test_a_change_that_no_tensor_shows() -> None:
    """img_range and an explicit qk_scale are taken back in the weights."""
    old, new = lively(built()), built(1, img_range=255.0, qk_scale=0.3)
    carry(old, new)
    assert difference(old, new) < 1e-5


@pytest.mark.parametrize("heads", [3, 4, 6])
def test_wider_attention_does_what_it_did(heads: int) -> None:
    """Old channels get the old result, new ones nothing: 3 heads of 4 channels become heads of 8, 6 or 4."""
    old_shapes, new_shapes, results = {}, {}, []
    old, new = (lively(WindowAttention(12, 4, 3), 1), WindowAttention(24, 4, heads))
    old_state = {f"b.attn.{key}": value for key, value in old.state_dict().items()}
    old_shapes = {key: tuple(value.shape) for key, value in old_state.items()}
    new_shapes = {f"b.attn.{key}": tuple(value.shape) for key, value in new.state_dict().items()}
    sizes = AttentionSize(3, 12), AttentionSize(heads, 24)
    attention = Attention("b.", overlap(12, 24), *sizes, overlap(3, heads), "offset", old_shapes, new_shapes)
    state = {}
    for key, fresh in lively(new, 2).state_dict().items():
        rule = attention.rule(f"attn.{key}")
        assert not isinstance(rule, Made | Drawn)
        state[key] = rule.make(old_state, fresh)
    new.load_state_dict(state)
    rows = picture(32, 12)
    wide = torch.cat([rows, picture(32, 12, seed=2)], 1)
    with torch.no_grad():
        for net, x in ((old, rows), (new, wide)):
            results.append(net(x, net.prepare(False), ((2, 0),)))
    torch.testing.assert_close(results[1][:, :12], results[0], rtol=0, atol=1e-5)
    assert results[1][:, 12:].abs().max() == 0


def test_wider_streams_are_close_where_channels_have_zero_mean() -> None:
    """LayerNorm over twice the channels: exact for centred channels and silent new ones."""
    norm, wide = lively(nn.LayerNorm(8)), nn.LayerNorm(16)
    x = picture(5, 8) * 3
    x = x - x.mean(1, keepdim=True)
    with torch.no_grad():
        wide.weight[:8], wide.bias[:8] = norm.weight * 0.5**0.5, norm.bias
        torch.testing.assert_close(wide(torch.cat([x, 0 * x], 1))[:, :8], norm(x), rtol=1e-4, atol=1e-5)
    old, new = built(), built(1, embed_dim=24)
    lively(old)
    carry(old, new)
    key = "layers.1.residual_group.blocks.0.norm2.weight"
    torch.testing.assert_close(new.state_dict()[key][:12], old.state_dict()[key] * 0.5**0.5)


# --- nothing dead, nothing lost


GROWTH: list[dict[str, Any]] = [
    {"embed_dim": 24, "num_heads": (4, 4), "depths": (4, 2, 2)},
    {"embed_dim": 18},
    {"mlp_ratio": 3.0},
    {"window_size": 5},
]
GROWTH[0]["num_heads"] = (4, 4, 4)


@pytest.mark.parametrize("changes", GROWTH)
@pytest.mark.parametrize("kind", ["1conv", "3conv"])
def test_every_new_number_wakes_within_two_steps(changes: dict[str, Any], kind: str) -> None:
    """In every tensor, the part that came from nowhere has some gradient in one of two steps."""
    old, new = lively(built(resi_connection=kind)), built(1, resi_connection=kind, **changes)
    plan = carry(old, new)
    nowhere = {key: torch.full_like(value, math.nan) for key, value in old.state_dict().items()}
    made, _ = plan.apply(nowhere, new.state_dict())
    asleep = {key: mask for key, value in made.items() if (mask := ~value.isnan()).any()}
    optimizer = torch.optim.Adam(new.parameters(), 1e-3)
    for seed in range(2):
        optimizer.zero_grad()
        (new(picture(2, 1, 16, 16)) - picture(2, 1, 16, 16, seed=seed + 7)).square().mean().backward()
        for key, parameter in new.named_parameters():
            assert parameter.grad is not None
            if key in asleep and bool(parameter.grad[asleep[key]].abs().max() > 0):
                del asleep[key]
        optimizer.step()
    assert asleep == {}


@settings(max_examples=15, deadline=None)
@given(
    embed=st.sampled_from([12, 18, 24]),
    heads=st.sampled_from([2, 3, 6]),
    more=st.integers(0, 2),
    ratio=st.sampled_from([2.0, 2.5]),
    window=st.sampled_from([4, 5]),
    kind=st.sampled_from(["1conv", "3conv"]),
)
def test_growing_and_slicing_back_returns_the_weights(
    embed: int, heads: int, more: int, ratio: float, window: int, kind: str
) -> None:
    """All but LayerNorm weights, which keep the factor of the wider one, and q, which is scaled there and back.

    More heads of fewer channels at the same width would lose channels; such pairs are left out.
    """
    if embed // heads < 6:
        heads = 2
    old = lively(built(resi_connection=kind))
    sizes = {"embed_dim": embed, "num_heads": (heads,) * (2 + more), "depths": (2 + more,) * (2 + more)}
    large = built(1, **sizes, mlp_ratio=ratio, window_size=window, resi_connection=kind)
    back = built(2, resi_connection=kind)
    carry(old, large)
    carry(large, back)
    for key, value in old.state_dict().items():
        found = back.state_dict()[key]
        if "norm" in key and key.endswith("weight"):
            torch.testing.assert_close(found, value * (12 / embed) ** 0.5)
        elif ".qkv." in key:
            torch.testing.assert_close(found, value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(found, value), key


def test_the_strongest_channels_stay() -> None:
    """Every second channel is nearly silent: l2 drops those, and the picture hardly changes."""
    old = lively(built(embed_dim=24, depths=(2,), num_heads=(2,)))
    with torch.no_grad():
        for key, value in old.state_dict().items():
            if (
                (
                    key in ("conv_first.weight", "conv_first.bias")
                    or ".conv." in key
                    or key.startswith("conv_after")
                )
                or ".proj." in key
                or ".fc2." in key
            ):
                value[1::2] *= 1e-4
            if value.ndim > 1 and value.shape[1] == 24 and "proj" not in key:
                value[:, 1::2] *= 1e-4
    plan = carry(old, built(1, embed_dim=12, depths=(2,), num_heads=(2,)), select="l2")
    rule = plan.rules["conv_first.bias"]
    assert rule.axes[0].source == tuple(range(0, 24, 2))  # type: ignore[union-attr]
    first = carry(old, built(1, embed_dim=12, depths=(2,), num_heads=(2,)))
    assert first.rules["conv_first.bias"].axes[0].source == tuple(range(12))  # type: ignore[union-attr]


def test_fewer_hidden_units_and_heads_keep_the_strong_ones() -> None:
    old = lively(built(embed_dim=24, num_heads=(4, 4)))
    block = "layers.0.residual_group.blocks.0."
    state = old.state_dict()
    with torch.no_grad():
        state[block + "mlp.fc2.weight"][:, :24] *= 1e-3
        state[block + "attn.proj.weight"].view(24, 4, 6)[:, 1] *= 1e-3
    plan = carry(old, built(1, embed_dim=24, num_heads=(3, 3), mlp_ratio=1.0), select="l2")
    hidden = plan.rules[block + "mlp.fc1.bias"].axes[0]  # type: ignore[union-attr]
    assert hidden.source == tuple(range(24, 48))
    sizes = AttentionSize(4, 24), AttentionSize(3, 24)
    assert heads_map(*sizes, state, block, "l2").source == (0, 2, 3)
    assert heads_map(*sizes, state, block, "first").source == (0, 1, 2)


def test_a_shallower_network_drops_the_last() -> None:
    old = lively(built(depths=(4, 3, 2), num_heads=(2, 2, 2)))
    new = built(1)
    plan = carry(old, new)
    assert plan.loaded == tuple(new.state_dict())
    assert all(torch.equal(value, old.state_dict()[key]) for key, value in new.state_dict().items())


# --- windows


@pytest.mark.parametrize(("before", "after"), [(4, 6), (6, 4)])
def test_position_biases_keep_their_offsets(before: int, after: int) -> None:
    old, new = lively(built(window_size=before)), built(1, window_size=after)
    carry(old, new)
    key = "layers.0.residual_group.blocks.1.attn.relative_position_bias_table"
    tables = [
        net.state_dict()[key][relative_position_index(net.window_size, torch.device("cpu"))]
        for net in (old, new)
    ]
    side = min(before, after)
    grids = [
        table.view(w, w, w, w, -1)[:side, :side, :side, :side]
        for table, w in zip(tables, (before, after), strict=True)
    ]
    assert torch.equal(*grids)
    if after > before:
        far = tables[1].view(after, after, after, after, -1)[0, 0, :, 0]
        assert torch.equal(far[before - 1], far[after - 1])


def test_interpolated_biases_keep_corners_and_centre() -> None:
    old, new = lively(built()), built(1, window_size=7)
    carry(old, new, window_bias="interpolate")
    key = "layers.0.residual_group.blocks.1.attn.relative_position_bias_table"
    small, large = (net.state_dict()[key].view(side, side, -1) for net, side in ((old, 7), (new, 13)))
    torch.testing.assert_close(large[::12, ::12], small[::6, ::6])
    torch.testing.assert_close(large[6, 6], small[3, 3])


# --- heads and colours


def test_every_doubling_starts_as_the_first() -> None:
    old = lively(built(upsampler="pixelshuffle", upscale=2))
    new = built(1, upsampler="pixelshuffle", upscale=8)
    plan = carry(old, new)
    for i in (0, 2, 4):
        assert torch.equal(new.upsample[i].weight, old.upsample[0].weight)
        assert torch.equal(new.upsample[i].bias, old.upsample[0].bias)
    assert torch.equal(new.conv_last.weight, old.conv_last.weight)
    assert {"upsample.0.weight", "conv_last.weight"} <= set(plan.loaded)
    smaller = built(2, upsampler="pixelshuffle", upscale=2)
    assert carry(new, smaller).loaded == tuple(smaller.state_dict())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"upsampler": "pixelshuffledirect", "upscale": 2}),
        ({"upsampler": "pixelshuffle", "upscale": 2}, {"upsampler": "nearest+conv", "upscale": 2}),
        (
            {"upsampler": "pixelshuffledirect", "upscale": 2},
            {"upsampler": "pixelshuffledirect", "upscale": 3},
        ),
    ],
)
def test_another_head_starts_afresh_and_the_body_is_inherited(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    old, new = lively(built(**before)), built(1, **after)
    drawn = {key: value.clone() for key, value in new.state_dict().items()}
    plan = carry(old, new)
    body = [key for key in drawn if key.startswith(("conv_first", "patch", "layers", "norm", "conv_after"))]
    assert list(plan.loaded) == body
    assert all(torch.equal(new.state_dict()[key], drawn[key]) for key in drawn if key not in body)


def test_a_step_of_three_cannot_become_a_doubling() -> None:
    old = lively(built(upsampler="pixelshuffle", upscale=3))
    plan = carry(old, built(1, upsampler="pixelshuffle", upscale=2))
    assert isinstance(plan.rules["upsample.0.weight"], Drawn)
    assert "conv_last.weight" in plan.loaded and "conv_before_upsample.0.weight" in plan.loaded


@pytest.mark.parametrize(
    "head",
    [{}, {"upsampler": "pixelshuffledirect", "upscale": 2}, {"upsampler": "nearest+conv", "upscale": 2}],
)
def test_colours(head: dict[str, Any]) -> None:
    """Inside the picture a grey one gets the same answer; at the border the zeros around it mean another grey."""
    grey, colour = lively(built(**head)), built(1, in_chans=3, **head)
    with torch.no_grad():
        for net in (grey,):  # nothing between the convolutions, so that the border does not spread
            for key, value in net.state_dict().items():
                if key.startswith(("layers", "conv_after_body")):
                    value.zero_()
    carry(grey, colour)
    x = picture(1, 1, 24, 24)
    inside = (..., slice(12, -12), slice(12, -12)) if head else (..., slice(6, -6), slice(6, -6))
    with torch.no_grad():
        before, after = grey(x), colour(x.expand(-1, 3, -1, -1))
        torch.testing.assert_close(after[inside], before.expand(-1, 3, -1, -1)[inside], rtol=0, atol=2e-5)
        again = built(2, **head)
        carry(colour, again)
        torch.testing.assert_close(again(x)[inside], before[inside], rtol=0, atol=2e-5)


def test_other_numbers_of_colours_overlap() -> None:
    old, new = lively(built(in_chans=3)), built(1, in_chans=4)
    carry(old, new)
    assert torch.equal(new.conv_first.weight[:, :3], old.conv_first.weight)
    assert new.conv_first.weight[:, 3].abs().max() == 0
    assert torch.equal(new.conv_last.weight[:3], old.conv_last.weight)
    assert new.conv_last.weight[3].abs().max() > 0


def test_absolute_positions_appear_as_zero() -> None:
    old, new = lively(built()), built(1, ape=True)
    carry(old, new)
    x = picture(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(old(x), new(x))


def test_absolute_positions_grow_with_the_picture() -> None:
    old, new = lively(built(ape=True)), built(1, ape=True, img_size=31, embed_dim=24)
    carry(old, new)
    small, large = (net.absolute_pos_embed.view(side, side, -1) for net, side in ((old, 16), (new, 31)))
    torch.testing.assert_close(large[::30, ::30, :12], small[::15, ::15])
    assert large[..., 12:].abs().max() == 0


def test_what_appears_with_an_option() -> None:
    old, new = lively(built(qkv_bias=False, patch_norm=False)), built(1, resi_connection="3conv")
    plan = carry(old, new)
    assert all(value.abs().max() == 0 for key, value in new.state_dict().items() if key.endswith("qkv.bias"))
    for key in ("patch_embed.norm.weight", "layers.0.conv.0.weight", "conv_after_body.4.bias"):
        assert isinstance(plan.rules[key], Drawn)


# --- the plan


def test_an_average_is_carried_by_the_same_choices() -> None:
    old, average = lively(built(embed_dim=24)), lively(built(embed_dim=24), 5)
    new = built(1)
    plan = inherit_plan(old.options, new.options, old.state_dict(), InheritOptions(select="l2"))
    state, _ = plan.apply(average.state_dict(), new.state_dict())
    kept = list(plan.rules["norm.bias"].axes[0].source)  # type: ignore[union-attr]
    assert torch.equal(state["norm.bias"], average.state_dict()["norm.bias"][kept])
    own = inherit_plan(old.options, new.options, average.state_dict(), InheritOptions(select="l2"))
    assert own.rules["norm.bias"] != plan.rules["norm.bias"]


def test_fresh_state_and_old_state_are_left_alone() -> None:
    old, new = lively(built()), built(1, depths=(3, 2))
    states: list[dict[str, Tensor]] = [old.state_dict(), new.state_dict()]
    copies = [{key: value.clone() for key, value in each.items()} for each in states]
    state, _ = inherit_plan(old.options, new.options, states[0], InheritOptions()).apply(*states)
    for value in state.values():
        value.add_(1)
    for one, other in zip(states, copies, strict=True):
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_what_cannot_be_inherited() -> None:
    old, new = built(), built(depths=(2,), num_heads=(2,))
    state = dict(old.state_dict())
    del state["norm.bias"]
    with pytest.raises(UserError, match=r"not complete: norm\.bias is missing, expected \[12\]"):
        inherit_plan(old.options, new.options, state, InheritOptions())
    plan = inherit_plan(old.options, new.options, old.state_dict(), InheritOptions())
    with pytest.raises(UserError, match=r"norm\.bias has shape \[3\], expected \[12\]"):
        plan.apply({**old.state_dict(), "norm.bias": torch.zeros(3)}, new.state_dict())
    assert shapes_of(old.options) == {key: tuple(value.shape) for key, value in old.state_dict().items()}
