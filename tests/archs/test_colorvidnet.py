"""ColorVidNet against the official key list and output."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archs.golden import agrees, formula_state, golden, shapes_of
from atelier.archs.colorvidnet import ColorVidNet


@pytest.mark.parametrize(
    ("in_channels", "parameters"), [(7, 32_802_395), (4, 32_801_531), (8, 32_802_395 + 288)]
)
def test_the_count_of_parameters_is_the_official_one(in_channels: int, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ColorVidNet(in_channels).parameters()) == parameters


def test_names_and_shapes_are_the_official_ones() -> None:
    with torch.device("meta"):
        state = ColorVidNet(7).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes_of("swintexco_colornet")


def test_formula_filled_weights_give_the_official_output() -> None:
    expected = golden("colornet")
    with torch.device("meta"):
        net = ColorVidNet(7, out_scale=128.0)
    net.load_state_dict(formula_state(shapes_of("swintexco_colornet"), expected["weights_seed"]), assign=True)
    x = np.random.RandomState(500).uniform(-1, 1, (1, 7, 32, 48)).astype(np.float32)
    with torch.no_grad():
        agrees(net.eval()(torch.from_numpy(x)), expected["output"], 1e-2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 4, 32, 32), "4 planes"), ((1, 7, 36, 32), "36x32"), ((1, 7, 32, 8), "at least 16")],
)
def test_an_input_that_does_not_fit_is_named(shape: tuple[int, ...], message: str) -> None:
    with torch.device("meta"):
        net = ColorVidNet(7)
        with pytest.raises(ValueError, match=message):
            net(torch.empty(shape))
