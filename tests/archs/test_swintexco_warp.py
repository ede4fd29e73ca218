"""WarpNet against the official key list and output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from archs.golden import agrees, formula_state, golden, shapes_of
from atelier.archs.swintexco_warp import LEVELS, WarpNet

PARTS = {
    "layer2_1": 258_306,
    "layer3_1": 368_898,
    "layer4_1": 1_180_034,
    "layer5_1": 2_064_770,
    "layer": 14_158_851,
    "theta": 131_328,
    "phi": 131_328,
}


def drawn(seed: int, batch: int = 2, height: int = 64, width: int = 96) -> list[Tensor]:
    """Four levels of unit features for a picture of that size, as the golden recipe makes them."""
    levels = []
    for level, channels in enumerate(LEVELS):
        shape = (batch, channels, height >> (level + 1), width >> (level + 1))
        numbers = np.random.RandomState(seed + level).standard_normal(shape).astype(np.float32)
        levels.append(torch.from_numpy(numbers / np.linalg.norm(numbers, axis=1, keepdims=True)))
    return levels


def test_every_branch_has_the_official_count_of_parameters() -> None:
    with torch.device("meta"):
        net = WarpNet()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert counts == PARTS
    assert sum(counts.values()) == 18_293_515


def test_names_and_shapes_are_the_official_ones() -> None:
    with torch.device("meta"):
        state = WarpNet().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes_of("swintexco_nonlocal")


@pytest.fixture(scope="module")
def net() -> WarpNet:
    with torch.device("meta"):
        net = WarpNet()
    seed = golden("nonlocal")["weights_seed"]
    net.load_state_dict(formula_state(shapes_of("swintexco_nonlocal"), seed), assign=True)
    return net.requires_grad_().eval()


def reference_lab() -> Tensor:
    return torch.from_numpy(np.random.RandomState(400).uniform(-1, 1, (2, 3, 64, 96)).astype(np.float32))


def test_formula_filled_weights_give_the_official_output(net: WarpNet) -> None:
    expected = golden("nonlocal")
    with torch.no_grad():
        colour, similarity = net(drawn(200), drawn(300), reference_lab(), expected["temperature"])
    agrees(colour, expected["color"], 1e-4)
    agrees(similarity, expected["similarity"], 1e-4)


def colour_gradients(net: WarpNet, temperature: float) -> dict[str, float]:
    """Largest gradient of each weight under a loss of the colours alone; 0 where none arrives."""
    net.zero_grad()
    wanted = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    colour, _ = net(
        [level[:1] for level in drawn(200)],
        [level[:1] for level in drawn(300)],
        reference_lab()[:1],
        temperature,
    )
    if colour.requires_grad:
        (colour - wanted).abs().mean().backward()
    return {
        name: 0.0 if p.grad is None else p.grad.abs().max().item()
        for name, p in net.named_parameters()
        if name.endswith("weight")
    }


def test_a_loss_of_the_colours_alone_reaches_every_weight(net: WarpNet) -> None:
    gradients = colour_gradients(net, 0.01)
    assert len(gradients) == 27
    assert all(0 < value < float("inf") for value in gradients.values()), gradients


def test_a_copy_of_the_best_match_teaches_nothing(net: WarpNet) -> None:
    """The teeth of the test above: with the temperature of the original inference no weight hears of the colours."""
    assert set(colour_gradients(net, 1e-10).values()) == {0.0}
