"""A graph of one size over pictures of others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from atelier.archs import SRVGGNetCompact
from atelier.restore.fixed_size import run_at_size


def _network() -> tuple[nn.Module, list[tuple[int, ...]]]:
    torch.manual_seed(0)
    net = SRVGGNetCompact(num_feat=4, num_conv=1, upscale=2).eval().requires_grad_(False)
    return net, []


@pytest.mark.parametrize("shape", [(16, 24), (16, 25), (41, 24), (50, 77)])
def test_windows_give_what_the_whole_picture_gives(shape: tuple[int, int]) -> None:
    net, seen = _network()

    def run(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return net(x)

    x = torch.rand(2, 3, *shape)
    found = run_at_size(run, x, (16, 24), 2, receptive_radius=3)
    assert set(seen) == {(1, 3, 16, 24)}
    assert found.shape == (2, 3, 2 * shape[0], 2 * shape[1])
    assert torch.allclose(found, net(x), atol=1e-6)
    without = run_at_size(net, x, (16, 24), 2, receptive_radius=None)
    assert not torch.equal(without, found) or shape == (16, 24)  # feathered: the rims of windows have a say


def test_feathered_windows_keep_what_is_the_same_everywhere() -> None:
    x = torch.rand(1, 1, 37, 90)
    found = run_at_size(lambda part: part.repeat_interleave(3, -1).repeat_interleave(3, -2), x, (16, 20), 3)
    assert torch.allclose(found, x.repeat_interleave(3, -1).repeat_interleave(3, -2), atol=1e-6)


def test_a_smaller_picture_is_continued_and_cut() -> None:
    found = run_at_size(lambda part: part * 2, torch.full((1, 1, 1, 3), 0.25), (8, 8), 1)
    assert torch.equal(found, torch.full((1, 1, 1, 3), 0.5))


def test_windows_start_on_multiples() -> None:
    starts = []
    x = torch.arange(50.0).view(1, 1, 1, 50).expand(1, 1, 16, 50)

    def run(part: Tensor) -> Tensor:
        starts.append(int(part[0, 0, 0, 0]))
        return part

    assert torch.equal(run_at_size(run, x, (16, 16), 1, receptive_radius=2, multiple=4), x)
    assert len(starts) > 2
    assert all(start % 4 == 0 for start in starts)
