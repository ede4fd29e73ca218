"""ELSA attention in another size, and in the place of window attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from archs.examples import lively, picture, small_options
from atelier.archs.swinir_options import SwinIROptions
from atelier.compress.axes import Drawn, overlap
from atelier.compress.inherit import InheritPlan, inherit_plan
from atelier.compress.inherit_attention import Attention, AttentionSize
from atelier.compress.options import InheritOptions

BASE = small_options(in_chans=1, window_size=4, num_heads=(2, 2), attention="elsa")
BLOCK = "layers.0.residual_group.blocks.0."


def built(seed: int = 0, **changes: Any) -> Any:
    """A SwinIR as drawn, in evaluation mode; ``elsa_*`` are options of its attention."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SwinIROptions(**{**BASE, **changes}).build().eval()


def carry(old: Any, new: Any, **options: Any) -> InheritPlan:
    """Make ``new`` out of ``old`` in place; returns the plan."""
    plan = inherit_plan(old.options, new.options, old.state_dict(), InheritOptions(**options))
    new.load_state_dict(plan.apply(old.state_dict(), new.state_dict())[0])
    return plan


def answer(net: Any) -> Tensor:
    with torch.no_grad():
        y: Tensor = net(picture(1, 1, 12, 12))
    return y


def same(one: Tensor, other: Tensor, atol: float) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("scope", ["image", "window"])
def test_the_same_and_the_deeper_network(scope: str) -> None:
    elsa = {"kernel_size": 3, "scope": scope, "lam": 1}
    old = lively(built(elsa=elsa))
    new = built(1, elsa=elsa)
    assert carry(old, new).loaded == tuple(old.state_dict())
    assert torch.equal(answer(old), answer(new))
    deeper = built(1, elsa=elsa, depths=(4, 2, 1), num_heads=(2, 2, 3))
    carry(old, deeper)
    same(answer(old), answer(deeper), 1e-6)


def test_filters_that_were_not_there_change_nothing() -> None:
    """Without a factor it was 1, without a summand 0."""
    for before, after in (
        ({"lam": 0, "gamma": 1}, {"lam": 1, "gamma": 1}),
        ({"lam": 1, "gamma": 0}, {"lam": 1}),
    ):
        old, new = (
            lively(built(elsa={"kernel_size": 3, **before})),
            built(1, elsa={"kernel_size": 3, **after}),
        )
        carry(old, new)
        same(answer(old), answer(new), 1e-6)
        back = built(2, elsa={"kernel_size": 3, **before})
        assert BLOCK + "attn.ghost_head" not in carry(new, back).loaded
        same(answer(old), answer(back), 1e-6)


def test_an_explicit_scale_is_taken_back() -> None:
    old, new = lively(built(elsa={"kernel_size": 3})), built(1, elsa={"kernel_size": 3, "qk_scale": 0.2})
    carry(old, new)
    same(answer(old), answer(new), 1e-5)


@pytest.mark.parametrize("heads", [2, 3, 4])
def test_wider_attention_does_what_it_did(heads: int) -> None:
    """Old channels get the old result, new ones nothing, whatever else comes in on new channels."""
    elsa = {"kernel_size": 3, "lam": 1}
    old = lively(built(depths=(1,), num_heads=(2,), elsa=elsa), 1)
    new = lively(built(depths=(1,), num_heads=(heads,), embed_dim=24, elsa=elsa), 2)
    old_state, fresh = old.state_dict(), new.state_dict()
    sizes = [AttentionSize(h, c, None, ("mul", "add")) for h, c in ((2, 12), (heads, 24))]
    shapes = [{key: tuple(value.shape) for key, value in each.items()} for each in (old_state, fresh)]
    maps = overlap(12, 24), *sizes, overlap(2, heads)
    attention = Attention(BLOCK, *maps, "offset", *shapes)
    state = {}
    for key, value in fresh.items():
        if key.startswith(BLOCK + "attn."):
            rule = attention.rule(key.removeprefix(BLOCK))
            assert not isinstance(rule, Drawn)
            state[key.removeprefix(BLOCK + "attn.")] = rule.make(old_state, value)
    ours, theirs = (net.layers[0].residual_group.blocks[0].attn for net in (new, old))
    ours.load_state_dict(state)
    results = []
    x = picture(1, 24, 6, 6)
    for net, channels, width in ((theirs, 12, 6), (ours, 24, 24 // heads)):
        results.append(reference(net.state_dict(), x[:, :channels], width))
    same(results[1][:, :12], results[0], 1e-5)
    assert results[1][:, 12:].abs().max() < 1e-6


def reference(state: dict[str, Tensor], x: Tensor, width: int) -> Tensor:
    """ELSA with lambda and gamma 1 as the formula has it, on a whole map [1, C, H, W]."""
    channels, (height, side) = x.shape[1], x.shape[2:]
    taps = state["ghost_head"].shape[-1] ** 2
    rows = x.flatten(2).transpose(1, 2) @ state["qkv.weight"].t() + state["qkv.bias"]
    mixed = (rows.shape[-1] - channels) // 2
    q, k, v = rows.transpose(1, 2).reshape(1, -1, height, side).split([mixed, mixed, channels], 1)
    conv, point = (state[f"hadamard_attn.{i}.weight"] for i in (0, 2))
    a = torch.nn.functional.conv2d(
        q * k * width**-0.5,
        conv,
        state["hadamard_attn.0.bias"],
        padding=conv.shape[-1] // 2,
        groups=mixed // conv.shape[1],
    )
    h = torch.nn.functional.conv2d(torch.nn.functional.gelu(a), point, state["hadamard_attn.2.bias"])
    h = h.view(channels // width, taps, height * side).softmax(1).repeat_interleave(width, 0)
    mul, add = state["ghost_head"].view(2, channels, taps, 1)
    near = torch.nn.functional.unfold(v, math.isqrt(taps), padding=math.isqrt(taps) // 2)
    out = ((mul * h + add) * near.view(channels, taps, -1)).sum(1)
    y = out.t() @ state["proj.weight"].t() + state["proj.bias"]
    return y.t().reshape(1, -1, height, side)


def test_another_kernel_keeps_the_middle() -> None:
    old, new = lively(built(elsa={"kernel_size": 3})), built(1, elsa={"kernel_size": 5})
    carry(old, new)
    key = BLOCK + "attn.ghost_head"
    small, large = old.state_dict()[key], new.state_dict()[key]
    assert torch.equal(large[..., 1:-1, 1:-1], small)
    assert large.count_nonzero() == small.count_nonzero()
    back = built(2, elsa={"kernel_size": 3})
    carry(new, back)
    assert all(torch.equal(value, old.state_dict()[key]) for key, value in back.state_dict().items())


@pytest.mark.parametrize("to_elsa", [True, False])
def test_one_attention_in_place_of_the_other_starts_silent(to_elsa: bool) -> None:
    elsa = {"attention": "elsa", "elsa": {"kernel_size": 3}}
    window = {"attention": "window"}
    before, after = (window, elsa) if to_elsa else (elsa, window)
    old, new = lively(built(**before)), built(1, **after)
    drawn = {key: value.clone() for key, value in new.state_dict().items()}
    plan = carry(old, new)
    state = new.state_dict()
    for key, value in state.items():
        if ".attn.proj." in key:
            assert value.abs().max() == 0
        elif ".attn." in key:
            assert torch.equal(value, drawn[key])
        else:
            assert key in plan.loaded and torch.equal(value, old.state_dict()[key])


def test_only_the_blocks_that_change_start_silent() -> None:
    old = lively(built(elsa={"kernel_size": 3, "where": "even"}))
    new = built(1, elsa={"kernel_size": 3})
    plan = carry(old, new)
    assert BLOCK + "attn.ghost_head" in plan.loaded
    silent = BLOCK.replace("blocks.0", "blocks.1") + "attn.proj.weight"
    assert new.state_dict()[silent].abs().max() == 0


def test_every_new_number_wakes_within_two_steps() -> None:
    elsa = {"kernel_size": 3, "lam": 1}
    old, new = (
        lively(built(elsa=elsa)),
        built(1, elsa={**elsa, "kernel_size": 5}, embed_dim=24, num_heads=(4, 4)),
    )
    plan = carry(old, new)
    nowhere = {key: torch.full_like(value, math.nan) for key, value in old.state_dict().items()}
    made, _ = plan.apply(nowhere, new.state_dict())
    asleep = {key: mask for key, value in made.items() if (mask := ~value.isnan()).any()}
    optimizer = torch.optim.Adam(new.parameters(), 1e-3)
    for seed in range(2):
        optimizer.zero_grad()
        (new(picture(2, 1, 16, 16)) - picture(2, 1, 16, 16, seed=seed + 7)).square().mean().backward()
        for key, parameter in new.named_parameters():
            if key in asleep and bool(parameter.grad[asleep[key]].abs().max() > 0):
                del asleep[key]
        optimizer.step()
    assert asleep == {}
