"""JPEG as tensor arithmetic against the library, and the original's arithmetic against its description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from atelier.data.bundled import bundled_path
from atelier.degrade import jpeg_torch
from atelier.degrade.codec import jpeg_round_trip
from atelier.degrade.jpeg_torch import jpeg_round_trip_torch
from atelier.images import read_image

PHOTOGRAPHS = ("coffee", "chelsea", "astronaut")


def photograph(name: str) -> np.ndarray:
    """A crop whose sides are no multiples of a block."""
    return np.ascontiguousarray(read_image(bundled_path(name)).pixels[60:237, 80:269])


def round_trip(pixels: np.ndarray, quality: float, **how) -> np.ndarray:
    tensor = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    result = jpeg_round_trip_torch(tensor, torch.tensor([quality]), **how)
    return result[0].permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_mean_error_to_libjpeg_on_photographs_is_under_six_tenths_of_a_level(quality):
    """Measured over these crops: 0.2 to 0.5 levels in colour (4:2:0), 0.1 to 0.3 in grey."""
    for name in PHOTOGRAPHS:
        pixels = photograph(name)
        library = jpeg_round_trip(pixels, quality).astype(float)
        assert np.abs(round_trip(pixels, quality) - library).mean() < 0.6
        grey = pixels[:, :, 1:2]
        assert np.abs(round_trip(grey, quality) - jpeg_round_trip(grey, quality)).mean() < 0.4
        # The same picture's loss is many times that, so the agreement says something.
        assert np.abs(library - pixels).mean() > 3 * np.abs(round_trip(pixels, quality) - library).mean()


def test_the_tables_are_those_that_the_library_writes(tmp_path):
    """Whole entries, the right way round: read back from a file of every quality."""
    luma, chroma = jpeg_torch._tables(torch.device("cpu"))
    for quality in (1, 10, 37, 50, 51, 90, 100):
        Image.new("RGB", (16, 16)).save(tmp_path / "x.jpg", quality=quality)
        written = Image.open(tmp_path / "x.jpg").quantization
        percent = jpeg_torch._percent(torch.tensor([float(quality)]), True)
        for number, table in enumerate((luma, chroma)):
            assert jpeg_torch._entries(table, percent, True)[0].flatten().tolist() == written[number], quality


def stripes(horizontal: bool) -> np.ndarray:
    """Waves of frequency 5 of 7 along one axis, grey."""
    wave = 128 + 60 * np.cos(np.pi * (2 * np.arange(64) + 1) * 5 / 16)
    field = np.broadcast_to(wave if horizontal else wave[:, None], (64, 64))
    return np.rint(field).astype(np.uint8)[:, :, None]


def test_transposed_tables_are_told_from_right_ones(monkeypatch):
    """Annex K divides frequency 5 by 40 along rows and by 24 along columns: a wave tells which is which."""

    def errors(**how) -> list[float]:
        library = [jpeg_round_trip(stripes(h), 25).astype(float) for h in (True, False)]
        ours = [round_trip(stripes(h), 25, **how) for h in (True, False)]
        return [float(np.abs(a - b).mean()) for a, b in zip(ours, library, strict=True)]

    assert max(errors()) < 0.6
    tables = jpeg_torch._tables(torch.device("cpu"))
    monkeypatch.setattr(jpeg_torch, "_tables", lambda device: tuple(table.T for table in tables))
    assert max(errors()) > 1.5


def test_reference_arithmetic_is_the_originals():
    """Transposed real tables, no rounding of samples, zeros beyond the border, repeated chroma; written out here."""
    pixels, quality = photograph("coffee")[:40, :24], 41.7
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    rgb = np.pad(pixels.astype(np.float64), ((0, 8), (0, 8), (0, 0)))
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    planes = list((rgb @ to_ycc.T + [0, 128, 128]).transpose(2, 0, 1))
    planes[1:] = [plane.reshape(24, 2, 16, 2).mean(axis=(1, 3)) for plane in planes[1:]]
    k = np.arange(8)
    d = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    d[0] /= np.sqrt(2)
    tables = [
        table.numpy().astype(np.float64).T * percent / 100
        for table in jpeg_torch._tables(torch.device("cpu"))
    ]
    for number, plane in enumerate(planes):
        table = tables[min(number, 1)]
        for y in range(0, plane.shape[0], 8):
            for x in range(0, plane.shape[1], 8):
                block = d @ (plane[y : y + 8, x : x + 8] - 128) @ d.T
                plane[y : y + 8, x : x + 8] = d.T @ (np.round(block / table) * table) @ d + 128
    y, cb, cr = planes[0], *(np.kron(plane, np.ones((2, 2))) - 128 for plane in planes[1:])
    back = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    expected = np.clip(back, 0, 255)[:40, :24]
    got = round_trip(pixels, quality, arithmetic="reference")
    # A coefficient on the edge of two steps may fall to the other side in float32; then a whole block differs.
    assert np.median(np.abs(got - expected)) < 1e-3 and np.abs(got - expected).mean() < 0.05


def test_batches_qualities_and_gradients():
    pixels = np.stack([photograph(name) for name in PHOTOGRAPHS]).astype(np.float32) / 255
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    qualities = torch.tensor([30.2, 61.0, 94.6])
    whole = jpeg_round_trip_torch(batch, qualities)
    for k in range(3):
        assert torch.allclose(whole[k : k + 1], jpeg_round_trip_torch(batch[k : k + 1], qualities[k : k + 1]))
    small = batch[:1, :, :32, :32].clone().requires_grad_()
    jpeg_round_trip_torch(small, qualities[2:], differentiable=True).sum().backward()
    assert small.grad is not None and torch.isfinite(small.grad).all() and small.grad.abs().mean() > 0.01
    hard = batch[:1, :, :32, :32].clone().requires_grad_()
    soft = jpeg_round_trip_torch(hard, qualities[2:], differentiable=True)
    assert soft.requires_grad
    assert (soft - jpeg_round_trip_torch(hard, qualities[2:])).abs().mean() * 255 < 2
