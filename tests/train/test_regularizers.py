"""The corrections of weights against their description, without a look at a value."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from atelier.train.regularizer_options import RegularizerOptions
from atelier.train.regularizers import apply_regularizer, nudge_entries, nudge_singular_values


def matrix(weight: Tensor) -> Tensor:
    """[cout, cin, kh, kw] as [kh * kw * cin, cout] in float64."""
    _, channels, height, width = weight.shape
    rows = [
        weight[:, c, y, x].detach().double()
        for y in range(height)
        for x in range(width)
        for c in range(channels)
    ]
    return torch.stack(rows)


def with_singular_values(values: list[float], shape: tuple[int, int, int, int]) -> nn.Conv2d:
    """A convolution of ``shape`` (its weight's) whose matrix has these singular values."""
    out, channels, height, width = shape
    rows = height * width * channels
    generator = torch.Generator().manual_seed(2)
    left, _ = torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(out, len(values), generator=generator, dtype=torch.float64))
    product = left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T
    conv = nn.Conv2d(channels, out, (height, width)).double()
    with torch.no_grad():
        conv.weight.copy_(product.view(height, width, channels, out).permute(3, 2, 0, 1))
    return conv


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 1, 3, 3), (16, 1, 3, 3), (5, 6, 1, 1)])
def test_singular_values_move_towards_the_range(shape: tuple[int, int, int, int]) -> None:
    conv = with_singular_values([2.0, 1.4, 0.6, 0.3], shape)
    before = matrix(conv.weight)
    nudge_singular_values(conv)
    left, values, right = torch.linalg.svd(before, full_matrices=False)
    moved = values.clone()
    moved[0] -= 1e-4
    moved[3:] += 1e-4  # where the matrix has more than four, the others are 0 and their directions any
    after = matrix(conv.weight)
    if min(before.shape) == 4:
        torch.testing.assert_close(after, (left * moved) @ right, rtol=0, atol=1e-12)
    found = torch.linalg.svdvals(after)
    torch.testing.assert_close(found, moved, rtol=0, atol=1e-12)


def test_a_weight_in_range_stays_what_it_is_bit_for_bit() -> None:
    conv = with_singular_values([1.49, 1.0, 0.9, 0.51], (4, 3, 3, 3)).float()
    before = conv.weight.detach().clone()
    nudge_singular_values(conv)
    assert torch.equal(conv.weight, before)


def test_convolutions_of_one_shape_do_not_mix() -> None:
    torch.manual_seed(0)
    alone = [nn.Conv2d(4, 4, 3) for _ in range(3)]
    for scale, conv in zip((0.1, 1.0, 10.0), alone, strict=True):
        with torch.no_grad():
            conv.weight.mul_(scale)
    together = nn.Sequential(*(with_weights_of(conv) for conv in alone), nn.Linear(4, 4), nn.BatchNorm2d(4))
    linear = together[3].weight.detach().clone()
    nudge_singular_values(together)
    for conv, other in zip(alone, together, strict=False):
        nudge_singular_values(conv)
        torch.testing.assert_close(conv.weight, other.weight, rtol=0, atol=1e-7)
    assert torch.equal(together[3].weight, linear)


def with_weights_of(conv: nn.Conv2d) -> nn.Conv2d:
    twin = nn.Conv2d(conv.in_channels, conv.out_channels, 3)
    twin.load_state_dict(conv.state_dict())
    return twin


def test_many_corrections_bring_a_weight_into_the_range() -> None:
    conv = with_singular_values([1.502, 0.498], (2, 3, 3, 3))
    for _ in range(25):
        nudge_singular_values(conv)
    values = torch.linalg.svdvals(matrix(conv.weight))
    assert float(values[0]) == pytest.approx(1.5, abs=1.1e-4) and float(values[1]) == pytest.approx(
        0.5, abs=1.1e-4
    )


def test_entries_beyond_the_limit_move_back() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, (1, 4)), nn.Linear(3, 1), nn.BatchNorm2d(1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([2.0, -1.6, 1.5, -1.5]).view(1, 1, 1, 4))
        net[0].bias.fill_(3.0)
        net[1].weight.copy_(torch.tensor([[0.1, -3.0, 1.4]]))
        net[1].bias.fill_(-1.4)
        net[2].weight.fill_(9.0)
    nudge_entries(net)
    expected = torch.tensor([2.0 - 1e-4, -1.6 + 1e-4, 1.5, -1.5])
    torch.testing.assert_close(net[0].weight.detach().flatten(), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(net[0].bias.detach(), torch.tensor([3.0 - 1e-4]), rtol=0, atol=3e-7)
    torch.testing.assert_close(
        net[1].weight.detach(), torch.tensor([[0.1, -3.0 + 1e-4, 1.4]]), rtol=0, atol=3e-7
    )
    assert float(net[1].bias.detach()) == pytest.approx(-1.4, abs=1e-7)
    assert float(net[2].weight.detach()) == 9.0


@pytest.mark.parametrize(
    ("options", "step", "changes"),
    [
        ({"orth_freq": 3}, 3, "orth"),
        ({"orth_freq": 3}, 4, ""),
        ({"clip_freq": 2}, 4, "clip"),
        ({"clip_freq": 2}, 1, ""),
        ({"orth_freq": 3, "clip_freq": 2}, 6, "both"),
        ({"orth_freq": 3, "clip_freq": 2}, 2, "clip"),
    ],
)
def test_each_on_its_own_steps(options: dict[str, Any], step: int, changes: str) -> None:
    def network() -> nn.Module:
        torch.manual_seed(4)
        net = nn.Conv2d(3, 3, 3)
        with torch.no_grad():
            net.weight.mul_(20)
        return net

    net, expected = network(), network()
    if changes in ("orth", "both"):
        nudge_singular_values(expected)
    if changes in ("clip", "both"):
        nudge_entries(expected)
    assert torch.equal(expected.weight, network().weight) == (changes == "")
    apply_regularizer(net, RegularizerOptions(**options), step)
    assert torch.equal(net.weight, expected.weight)


def test_in_place_and_in_the_layout_of_the_weights() -> None:
    """The optimiser and the average hold these tensors; a channels-last run keeps its layout."""
    net = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    parameter, address = net.weight, net.weight.data_ptr()
    nudge_singular_values(net)
    nudge_entries(net)
    assert net.weight is parameter and net.weight.data_ptr() == address
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    assert net.weight.requires_grad and net.weight.grad_fn is None


def test_no_value_is_looked_at(no_host_sync: Callable[[], AbstractContextManager[Any]]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 8))
    with no_host_sync():
        apply_regularizer(net, RegularizerOptions(orth_freq=1, clip_freq=1), 1)


@pytest.mark.parametrize("wrong", [{}, {"orth_freq": 0}, {"clip_freq": -1}, {"orth_step": 1}])
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegularizerOptions(**wrong)
