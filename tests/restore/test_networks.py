"""The house's networks through this room: exact tiles, joints without a seam, any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atelier.archs import SRVGGNetCompact, SwinIR, save_weights
from atelier.errors import UserError
from atelier.restore import load_model, restore_tensor
from atelier.restore.grid import plan_axis

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


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


def test_a_saved_model_loads_and_restores(tmp_path: Path) -> None:
    net = lively(SRVGGNetCompact(num_feat=8, num_conv=4, upscale=2), gain=1.4)
    path = tmp_path / "net_g_latest.pth"
    save_weights(path, {"params": net.state_dict()}, {})
    model, report = load_model(path, device="cpu", report=True)
    assert (model.architecture, model.scale, model.in_channels) == ("SRVGGNetCompact", 2, 3)
    assert report.complete
    image = (picture(50, 60)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    with torch.no_grad():
        expected = net(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None])
    restored = model.restore(image, tile=16)
    np.testing.assert_allclose(restored, expected[0].permute(1, 2, 0).clamp(0, 1) * 255, rtol=0, atol=0.501)


def test_fp16_is_refused_for_a_loaded_swinir(tmp_path: Path, swinir: nn.Module) -> None:
    path = tmp_path / "swinir.pth"
    save_weights(
        path, {"params": swinir.state_dict()}, {"arch": "SwinIR", "options": swinir.options.model_dump()}
    )
    with pytest.raises(UserError, match="fp16 is not safe for SwinIR"):
        load_model(path, device="cpu", precision="fp16")
    assert load_model(path, device="cpu").facts.size_multiple == 8


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the shared weights are not here")
def test_a_published_network_on_a_photograph() -> None:
    from atelier.images import read_image

    model = load_model(SHARED / "weights" / "realesr-animevideox2v3.pth", device="cpu")
    assert model.scale == 2
    photograph = read_image(SHARED / "data" / "Set5" / "LR_bicubic" / "X4" / "birdx4.png").pixels[:60, :64]
    whole = model.restore(photograph, tile=None)
    tiled = model.restore(photograph, tile=24)
    assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1
    # It is a picture of the same thing: its 2x2 means are near the photograph.
    means = whole.reshape(60, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(means - photograph).mean() < 10
