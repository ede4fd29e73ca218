"""Which residual groups a shallower SwinIR keeps, and that it keeps them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from archs.examples import lively, picture, small_options
from atelier.archs.swinir_options import SwinIROptions
from atelier.compress.inherit import inherit_plan
from atelier.compress.inherit_groups import kept_groups
from atelier.compress.options import InheritOptions


def built(groups: int, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    options = small_options(depths=(2,) * groups, num_heads=(2,) * groups, **changes)
    return SwinIROptions(**options).build().eval()


def carried(old: Any, new: Any, **options: Any) -> Any:
    plan = inherit_plan(old.options, new.options, old.state_dict(), InheritOptions(**options))
    state, made = plan.apply(old.state_dict(), new.state_dict())
    new.load_state_dict(state)
    return made


@pytest.mark.parametrize(
    ("old", "new", "which", "kept"),
    [
        (6, 4, "first", [0, 1, 2, 3]),
        (6, 4, "last", [2, 3, 4, 5]),
        (6, 4, "proportional", [1, 2, 4, 5]),
        (3, 2, "proportional", [1, 2]),
        (6, 6, "proportional", [0, 1, 2, 3, 4, 5]),
        (6, 6, "last", [0, 1, 2, 3, 4, 5]),
        (2, 4, "last", [0, 1]),
        (2, 4, "proportional", [0, 1]),
    ],
)
def test_kept_groups(old: int, new: int, which: Any, kept: list[int]) -> None:
    assert kept_groups(old, new, which) == kept


@pytest.mark.parametrize(("which", "kept"), [("first", [0, 1]), ("last", [2, 3]), ("proportional", [1, 3])])
@pytest.mark.parametrize("changes", [{}, {"attention": "elsa", "elsa": {"where": [1, 2]}}])
def test_the_shallower_network_is_the_old_one_without_the_others(
    which: str, kept: list[int], changes: dict[str, Any]
) -> None:
    """Same width: equal to the old network with the other groups taken out."""
    old = lively(built(4, **changes))
    there = old.options.elsa.where if changes else ()
    here = [place for place, group in enumerate(kept) if group in there]
    new = built(2, 1, **({"attention": "elsa", "elsa": {"where": here}} if here else {}))
    carried(old, new, rstb=which)
    old.layers = nn.ModuleList(old.layers[group] for group in kept)
    x = picture(1, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(new(x), old(x))


def test_equal_depth_and_width_are_bit_equal_and_all_loaded() -> None:
    old, new = lively(built(3)), built(3, 1)
    assert carried(old, new, rstb="proportional") == {}
    x = picture(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(new(x), old(x))


def test_a_narrower_and_another_window_take_the_same_groups() -> None:
    """The rules that read other tensors of their block read those of the kept one."""
    old = lively(built(3, window_size=8, embed_dim=12))
    new = built(1, 1, window_size=4, embed_dim=8)
    choices = {"select": "l2", "window_bias": "interpolate"}
    carried(old, new, rstb="last", **choices)
    last_alone = built(1, 2, window_size=8, embed_dim=12)
    groups = {
        key.replace("layers.2.", "layers.0."): value
        for key, value in old.state_dict().items()
        if not key.startswith(("layers.0.", "layers.1."))
    }
    last_alone.load_state_dict(groups)
    expected = built(1, 1, window_size=4, embed_dim=8)
    carried(last_alone, expected, **choices)
    for key, value in new.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key
