"""The house's networks through this room: exact tiles, joints without a seam, any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from atelier.archs.compact import SRVGGNetCompact
from atelier.archs.swinir import SwinIR
from atelier.restore import restore_tensor
from atelier.restore.grid import plan_axis


def lively(net: nn.Module, gain: float, seed: int = 0) -> nn.Module:
    """Random weights strong enough that a result depends on its surroundings, as a trained network's does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain / fan_in**0.5)
    return net.eval()


def picture(height: int, width: int) -> Tensor:
    """A gradient with noise, 1×3×H×W."""
    generator = torch.Generator().manual_seed(5)
    y, x = torch.meshgrid(torch.linspace(0.2, 0.7, height), torch.linspace(0.2, 0.7, width), indexing="ij")
    noise = 0.03 * torch.randn(3, height, width, generator=generator)
    return (torch.stack([x, y, (x + y) / 2]) + noise).clamp(0, 1)[None]


@pytest.mark.parametrize("size", [(70, 90), (33, 101), (40, 7), (1, 80)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_compact_tiles_exactly(size: tuple[int, int], scale: int) -> None:
    net = lively(SRVGGNetCompact(num_feat=8, num_conv=4, upscale=scale), gain=1.4)
    assert net.options.receptive_radius == 6
    lq = picture(*size)
    with torch.no_grad():
        whole = net(lq)
    tiled = restore_tensor(net, lq, scale=scale, tile=32, receptive_radius=net.options.receptive_radius)
    assert float(whole.std()) > 0.1
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    if min(size) > 32:
        # Teeth: two pixels less of context, and it is exact no more.
        short = restore_tensor(net, lq, scale=scale, tile=32, overlap=4, receptive_radius=4)
        assert float((short - whole).abs().max()) > 1e-5


@pytest.fixture(scope="module")
def swinir() -> nn.Module:
    net = SwinIR(
        img_size=64,
        embed_dim=24,
        depths=(4, 4),
        num_heads=(3, 3),
        window_size=8,
        mlp_ratio=2.0,
        upscale=1,
        upsampler="",
    )
    return lively(net, gain=0.8)


def test_swinir_joints_leave_no_seam(swinir: nn.Module) -> None:
    size, tile, overlap = 136, 40, 16
    lq = picture(size, size)
    with torch.no_grad():
        whole = swinir(lq)

    def measure(overlap: int, radius: int | None) -> tuple[float, float]:
        """PSNR of tiled against whole; the largest mean step of their difference across a joint."""
        tiled = restore_tensor(
            swinir, lq, scale=1, tile=tile, overlap=overlap, size_multiple=8, receptive_radius=radius
        )
        error = tiled - whole
        profile = error.mean(dim=(0, 1, 2))
        joints = plan_axis(size, tile, overlap, 8).joints
        step = max(float((profile[x] - profile[x - 1]).abs()) for x in joints)
        return -10 * float(error.square().mean().log10()), step

    psnr, step = measure(overlap, None)
    assert psnr >= 50
    assert step < 0.1 / 255
    # Teeth: cut without overlap the same measures see the joints.
    worse, seam = measure(0, 0)
    assert worse < psnr - 10
    assert seam > 5 * step


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (31, 50), (64, 72)])
def test_padding_outside_is_the_networks_own(swinir: nn.Module, size: tuple[int, int]) -> None:
    lq = picture(*size)
    with torch.no_grad():
        whole = swinir(lq)
    restored = restore_tensor(swinir, lq, scale=1, size_multiple=8)
    torch.testing.assert_close(restored, whole, rtol=0, atol=1e-5)
