"""Tiles that become pixels as they come: the same picture, and never a float copy of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atelier.images import from_tensor, to_tensor
from atelier.restore import RestorationModel, restore_tensor, tiling
from atelier.restore.canvas import Blend, PixelCanvas, TensorCanvas
from atelier.restore.grid import plan_axis
from atelier.restore.memory import Cost

Net = Callable[..., nn.Module]


def noise(height: int, width: int, dtype: Any) -> np.ndarray:
    values = np.random.default_rng(0).random((height, width, 3), np.float32)
    return values if dtype == np.float32 else (values * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("overlap", [4, 2], ids=["cut", "blended"])
def test_pixels_are_those_of_the_tensor(conv_net: Net, small_facts: Any, dtype: Any, overlap: int) -> None:
    net, image = conv_net(), noise(61, 47, dtype)
    given: dict[str, Any] = {"tile": 16, "overlap": overlap}
    whole = restore_tensor(net, to_tensor(image)[None], scale=2, receptive_radius=4, **given)
    restored = RestorationModel(net, small_facts()).restore(image, **given)
    assert restored.dtype == dtype
    assert np.array_equal(restored, from_tensor(whole[0], dtype))


def test_pixels_cut_off_what_lies_beyond(window_net: Net, small_facts: Any) -> None:
    net, image = window_net(), noise(61, 47, np.uint8)
    facts = small_facts(scale=1, size_multiple=8, receptive_radius=None)
    restored = RestorationModel(net, facts).restore(image, tile=16, overlap=8, pre_pad=5)
    padded = torch.nn.functional.pad(to_tensor(image)[None], (0, 5, 0, 5), mode="reflect")
    whole = restore_tensor(net, padded, scale=1, tile=16, overlap=8, size_multiple=8)
    assert np.array_equal(restored, from_tensor(whole[0, :, :61, :47]))


def test_wrong_values_are_counted_in_every_piece() -> None:
    canvas = PixelCanvas(4, 6, np.dtype(np.uint8))
    left, right = torch.zeros(1, 3, 4, 3), torch.zeros(1, 3, 4, 5)
    left[0, 1, 2, 0], right[0, 0, 0, 1] = float("nan"), float("inf")
    right[..., 3:] = float("nan")  # beyond the border
    canvas.place(0, 0, left)
    canvas.place(0, 3, right)
    assert canvas.wrong_values() == (2, 72)


def test_blended_sums_are_as_high_as_one_tile() -> None:
    """And rows go on as soon as no later tile reaches them, each of them once."""
    rows, columns = plan_axis(100, 16, 8, 1), plan_axis(40, 16, 8, 1)
    assert len(rows.starts) > 3
    whole = torch.rand(1, 2, 200, 80)

    seen: list[tuple[int, int]] = []

    class Counting(TensorCanvas):
        def place(self, top: int, left: int, piece: Tensor) -> None:
            seen.append((top, piece.shape[-2]))
            super().place(top, left, piece)

    canvas = Counting(1, 200, 80, torch.device("cpu"))
    blend = Blend(rows, columns, 2, canvas, torch.device("cpu"))
    for i, y in enumerate(rows.starts):
        for j, x in enumerate(columns.starts):
            piece = whole[..., 2 * y : 2 * (y + rows.size), 2 * x : 2 * (x + columns.size)]
            blend.add(i, j, piece)
        assert blend.sums is not None
        assert blend.sums.shape == (1, 2, 2 * rows.size, 80)
    assert canvas.result is not None
    torch.testing.assert_close(canvas.result, whole, rtol=0, atol=1e-6)
    assert [top for top, _ in seen] == [2 * start for start in rows.starts]
    assert sum(height for _, height in seen) == 200


def test_the_result_counts_as_memory_of_the_automatic_tile(
    conv_net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free for tiles is what the result leaves, and nothing is left of too little."""
    lq = torch.rand(1, 3, 150, 200)
    sizes: list[int] = []

    def tile_of(free: int, cost: float) -> int:
        monkeypatch.setattr(tiling, "free_memory", lambda device: free)
        monkeypatch.setattr(tiling, "measure_cost", lambda *_: Cost(cost, 1, 1.0))
        net = conv_net()
        handle = net.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[-1]))
        restore_tensor(net, lq, scale=2, tile="auto", receptive_radius=4)
        handle.remove()
        return sizes[-1]

    result = 4 * 3 * 300 * 400
    enough = 150 * 200 * 100 / 0.7
    assert tile_of(int(result + 1.01 * enough), 100.0) == 200
    assert tile_of(int(result + 0.5 * enough), 100.0) < 200
    assert tile_of(result // 2, 100.0) == tiling.SMALLEST_TILE + 2 * 4
