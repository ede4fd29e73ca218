from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atelier.errors import RunStopped, UserError
from atelier.restore import memory, tiling
from atelier.restore.grid import plan_axis
from atelier.restore.tiling import pad_to_multiple, restore_tensor

Net = Callable[..., nn.Module]

#: Tiled against untiled, float32: the issue's bound for convolutional networks.
EXACT = 1e-5


def picture(height: int, width: int, channels: int = 3, seed: int = 1) -> Tensor:
    """A slow gradient with a little noise, which shows seams best: N×C×H×W in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    base = torch.stack([0.2 + 0.5 * x, 0.3 + 0.4 * y, 0.2 + 0.3 * (x + y)])[:channels]
    noise = 0.02 * torch.randn(base.shape, generator=generator)
    return (base + noise).clamp(0, 1)[None]


def whole(net: nn.Module, lq: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = net.eval()(lq)
    return result


def seam(error: Tensor, starts: Sequence[int]) -> float:
    """Largest mean step of ``tiled - whole`` across the columns of a joint.

    Averaged along the joint, so that a line too faint to see in one pixel but visible as a line counts.
    """
    profile = error.mean(dim=(0, 1, 2))
    return max(float((profile[x] - profile[x - 1]).abs()) for x in starts)


@pytest.mark.parametrize("size", [(50, 70), (33, 97), (64, 64), (5, 90), (1, 40), (1, 1), (47, 3)])
@pytest.mark.parametrize("tile", [16, 32])
def test_convolutions_tile_exactly(conv_net: Net, size: tuple[int, int], tile: int) -> None:
    net, lq = conv_net(layers=6, scale=3), picture(*size)
    tiled = restore_tensor(net, lq, scale=3, tile=tile, receptive_radius=6)
    assert tiled.shape == (1, 3, size[0] * 3, size[1] * 3)
    torch.testing.assert_close(tiled, whole(net, lq), rtol=0, atol=EXACT)


def test_a_batch_of_pictures_tiles_exactly(conv_net: Net) -> None:
    net = conv_net()
    lq = torch.cat([picture(40, 40), picture(40, 40, seed=2)])
    tiled = restore_tensor(net, lq, scale=2, tile=16, receptive_radius=4)
    torch.testing.assert_close(tiled, whole(net, lq), rtol=0, atol=EXACT)


def test_several_tiles_at_once_change_nothing(conv_net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "_tiles_at_once", lambda *_: 4)
    net = conv_net()
    lq = torch.cat([picture(50, 70), picture(50, 70, seed=2)])
    tiled = restore_tensor(net, lq, scale=2, tile=16, receptive_radius=4)
    torch.testing.assert_close(tiled, whole(net, lq), rtol=0, atol=EXACT)
    blended = restore_tensor(net, lq, scale=2, tile=16, overlap=8)
    torch.testing.assert_close(blended, whole(net, lq), rtol=0, atol=EXACT)


def test_an_overlap_below_the_radius_is_seen(conv_net: Net) -> None:
    """Teeth: the exactness above is not true of any overlap."""
    net, lq = conv_net(layers=6), picture(50, 70)
    cut = restore_tensor(net, lq, scale=2, tile=16, overlap=1, receptive_radius=1)
    assert (cut - whole(net, lq)).abs().max() > 100 * EXACT


def seam_of(net: nn.Module, overlap: int, radius: int | None) -> tuple[float, float]:
    """(PSNR of tiled against whole, the seam measure) for 144x144 pixels in tiles of 48."""
    lq = picture(144, 144)
    tiled = restore_tensor(
        net, lq, scale=1, tile=48, overlap=overlap, size_multiple=8, receptive_radius=radius
    )
    error = tiled - whole(net, lq)
    joints = plan_axis(144, 48, overlap, 8).joints
    assert joints
    return -10 * float(error.square().mean().log10()), seam(error, joints)


def test_feathered_joints_leave_no_seam(window_net: Net) -> None:
    psnr, step = seam_of(window_net(), overlap=16, radius=None)
    assert psnr >= 50
    # Half a step of 8 bits in one pixel cannot be seen; along a line a tenth of a step is the bound here.
    assert step < 0.1 / 255


def test_cut_joints_are_seen_as_a_seam(window_net: Net) -> None:
    """Teeth: the measure sees what users complain of (a network that claims a radius it does not keep)."""
    psnr, step = seam_of(window_net(), overlap=0, radius=0)
    assert psnr < 50
    assert step > 0.5 / 255


def test_tiles_start_on_the_window_grid(window_net: Net) -> None:
    """Teeth: with tiles off the grid the same network at a larger overlap is far from the whole picture."""
    net, lq = window_net(), picture(160, 160)
    reference = whole(net, lq)

    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = net(pad_to_multiple(x, 8))
            return result[..., : x.shape[-2], : x.shape[-1]]

    on_grid = restore_tensor(net, lq, scale=1, tile=45, overlap=16, size_multiple=8)
    off_grid = restore_tensor(Padded(), lq, scale=1, tile=45, overlap=18, size_multiple=1)
    assert (on_grid - reference).square().mean() < 0.01 * (off_grid - reference).square().mean()


def test_all_tiles_have_one_size(window_net: Net) -> None:
    net = window_net()
    restore_tensor(net, picture(100, 131), scale=1, tile=24, overlap=8, size_multiple=8)
    assert len(set(net.sizes)) == 1
    assert len(net.sizes) > 4


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 9), (17, 1)])
def test_sizes_that_are_no_multiple_of_the_window(window_net: Net, size: tuple[int, int]) -> None:
    lq = picture(*size)
    restored = restore_tensor(window_net(), lq, scale=1, tile="auto", size_multiple=8)
    assert restored.shape == lq.shape
    assert torch.isfinite(restored).all()


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [0] * 8),
        (2, [0, 1, 0, 1, 0, 1, 0, 1]),
        (3, [0, 1, 2, 1, 0, 1, 2, 1]),
        (7, [0, 1, 2, 3, 4, 5, 6, 5]),
    ],
)
def test_padding_mirrors_again_and_again(length: int, expected: list[int]) -> None:
    row = torch.arange(length, dtype=torch.float32)[None, None, None]
    assert pad_to_multiple(row, 8)[0, 0, 0].tolist() == expected
    assert pad_to_multiple(row.mT, 8)[0, 0, :, 3].tolist() == expected


def test_padding_equals_torchs_reflection() -> None:
    lq = picture(13, 10)
    expected = torch.nn.functional.pad(lq, (0, 6, 0, 3), mode="reflect")
    assert torch.equal(pad_to_multiple(lq, 16), expected)


class _FailsAtTile(nn.Module):
    """Runs out of memory at call ``at``, and always above ``limit`` pixels; remembers what it was shown."""

    def __init__(
        self, net: nn.Module, at: int = 0, limit: int = 10**9, error: type[BaseException] | None = None
    ) -> None:
        super().__init__()
        self.net, self.at, self.limit, self.error = net, at, limit, error
        self.calls: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(tuple(x.shape))
        if len(self.calls) == self.at or x.shape[-1] * x.shape[-2] > self.limit:
            if self.error is not None:
                raise self.error("out of memory" if self.error is not MemoryError else "")
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
            )
        result: Tensor = self.net(x)
        return result


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("overlap", [4, 2])
def test_out_of_memory_at_the_third_tile_redoes_everything(
    conv_net: Net, caplog: pytest.LogCaptureFixture, error: type[BaseException] | None, overlap: int
) -> None:
    """No tile of the failed attempt, and none pasted twice (the fault of the original script)."""
    net, lq = conv_net(), picture(60, 90)
    failing = _FailsAtTile(net, at=3, error=error)
    with caplog.at_level(logging.WARNING):
        restored = restore_tensor(failing, lq, scale=2, tile=32, overlap=overlap, receptive_radius=4)
    again = restore_tensor(net, lq, scale=2, tile=16, overlap=overlap, receptive_radius=4)
    assert torch.equal(restored, again)
    assert "tiles of 16" in caplog.text
    assert failing.calls[2] == (1, 3, 32 + 2 * overlap, 32 + 2 * overlap)
    assert failing.calls[3] == (1, 3, 16 + 2 * overlap, 16 + 2 * overlap)


def test_the_whole_picture_falls_back_to_tiles(conv_net: Net) -> None:
    net, lq = conv_net(), picture(60, 90)
    failing = _FailsAtTile(net, limit=60 * 60)
    restored = restore_tensor(failing, lq, scale=2, receptive_radius=4)
    torch.testing.assert_close(restored, whole(net, lq), rtol=0, atol=EXACT)
    assert failing.calls[0] == (1, 3, 60, 90)


def test_fewer_tiles_at_once_come_before_smaller_ones(conv_net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "_tiles_at_once", lambda *_: 4)
    net, lq = conv_net(), picture(64, 64)
    failing = _FailsAtTile(net, at=1)
    restored = restore_tensor(failing, lq, scale=2, tile=16, receptive_radius=4)
    assert [call[0] for call in failing.calls[:2]] == [4, 2]
    assert {call[2:] for call in failing.calls} == {(24, 24)}
    torch.testing.assert_close(restored, whole(net, lq), rtol=0, atol=EXACT)


def test_the_smallest_tile_failing_ends_with_the_sizes(conv_net: Net) -> None:
    failing = _FailsAtTile(conv_net(), limit=1)
    with pytest.raises(RunStopped, match=r"90x60 .* 24x24 .* 4 .* MiB"):
        restore_tensor(failing, picture(60, 90), scale=2, receptive_radius=4)
    sizes = [call[-1] for call in failing.calls]
    assert sizes == sorted(set(sizes), reverse=True)


def test_other_errors_pass_through(conv_net: Net) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        restore_tensor(Broken(), picture(20, 20), scale=2, tile=16)


def test_automatic_tiles_fit_the_free_memory(conv_net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net, lq = conv_net(), picture(150, 200)
    seen = _FailsAtTile(net)
    monkeypatch.setattr(tiling, "free_memory", lambda device: 5 * 2**20)
    few = restore_tensor(seen, lq, scale=2, tile="auto", receptive_radius=4)
    few_calls = list(seen.calls)
    assert len(few_calls) > 2
    seen.calls.clear()
    monkeypatch.setattr(tiling, "free_memory", lambda device: 5 * 2**18)
    many = restore_tensor(seen, lq, scale=2, tile=0, receptive_radius=4)
    # The probe is not repeated, and a quarter of the memory gives smaller tiles.
    assert len(seen.calls) > len(few_calls)
    assert (
        max(call[-1] * call[-2] for call in seen.calls)
        < max(call[-1] * call[-2] for call in few_calls[1:]) / 2
    )
    torch.testing.assert_close(few, many, rtol=0, atol=2 * EXACT)
    monkeypatch.setattr(tiling, "free_memory", lambda device: 2**40)
    seen.calls.clear()
    restore_tensor(seen, lq, scale=2, tile="auto", receptive_radius=4)
    assert seen.calls == [(1, 3, 150, 200)]


def test_the_network_is_as_before(conv_net: Net) -> None:
    net = conv_net()
    net.train()
    net.body[1].eval()
    restore_tensor(net, picture(20, 20), scale=2, tile=16)
    assert net.training
    assert not net.body[1].training
    assert net.body[0].training
    restored = restore_tensor(net, picture(20, 20), scale=2)
    assert not restored.requires_grad
    # Not inference mode: what a network caches meanwhile must not break its next training step.
    assert not restored.is_inference()


def test_progress_counts_every_tile(conv_net: Net) -> None:
    seen: list[tuple[int, int]] = []
    restore_tensor(
        conv_net(),
        picture(40, 40),
        scale=2,
        tile=16,
        overlap=4,
        on_tile=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(n, 4) for n in range(1, 5)] or seen == [(n, 9) for n in range(1, 10)]


def test_bf16_is_near_and_float32(conv_net: Net) -> None:
    net, lq = conv_net(), picture(30, 30)
    half = restore_tensor(net, lq, scale=2, precision="bf16")
    assert half.dtype == torch.float32
    error = (half - whole(net, lq)).abs().max()
    assert 0 < error < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": -3}, "tile"),
        ({"overlap": -1}, "overlap"),
        ({"scale": 0}, "scale"),
        ({"precision": "int8"}, "int8"),
        ({"scale": 3}, r"should be 60 and 60"),
    ],
)
def test_bad_arguments(conv_net: Net, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        restore_tensor(conv_net(), picture(20, 20), **({"scale": 2} | changes))


def test_bad_tensors(conv_net: Net) -> None:
    for lq in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 0, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(UserError, match="lq must be"):
            restore_tensor(conv_net(), lq, scale=2)


def test_cost_is_what_lives_at_the_peak() -> None:
    class Known(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a = x * 2
            b = a + 1
            del a
            c = b.repeat(1, 3, 1, 1)
            del b
            return c.mean(dim=1, keepdim=True)

    net = Known()
    with torch.no_grad():
        cost = memory.measure_cost(net, net, torch.zeros(1, 1, 10, 10), ("cpu",))
    # At the peak: b (4 bytes a pixel) beside c (12), and c beside the mean is as much.
    assert cost.bytes_per_pixel == 16
    assert cost.elements_per_pixel == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_batches_tiles_and_measures_its_memory(conv_net: Net) -> None:
    lq = picture(200, 300)
    reference = whole(conv_net(), lq)
    net = _FailsAtTile(conv_net().to("cuda"))
    for tile in (32, "auto"):
        restored = restore_tensor(net, lq, scale=2, tile=tile, receptive_radius=4)
        assert restored.device.type == "cpu"
        # Convolutions on a GPU may use TF32.
        torch.testing.assert_close(restored, reference, rtol=0, atol=5e-3)
    assert max(call[0] for call in net.calls) > 1
