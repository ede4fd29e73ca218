"""LPIPS by its formula with made-up weights and never from the network; colour shift, chroma and sharpness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from atelier.errors import UserError
from atelier.metrics import METRICS
from atelier.metrics.colour_shift import chroma_ratio, colour_shift
from atelier.metrics.lpips import Lpips, LPIPSOptions, WeightsMissing
from atelier.metrics.sharpness import sharpness_ratio

CHANNELS = (64, 192, 384, 256, 256)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AlexNet's features at random (the classifier left out: 240 MB) and linear weights at random."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    features = models.AlexNet().features
    torch.save(
        {f"features.{name}": value for name, value in features.state_dict().items()}, folder / "alexnet.pth"
    )
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(CHANNELS)}
    torch.save(linear, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"


def test_lpips_is_its_formula(weights: tuple[Path, Path]) -> None:
    a, b = torch.rand(2, 3, 70, 90), torch.rand(2, 3, 70, 90)
    stored, linear = torch.load(weights[0]), torch.load(weights[1])
    features = models.AlexNet().features.eval()
    features.load_state_dict({name.removeprefix("features."): value for name, value in stored.items()})
    expected = torch.zeros(2)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, y = ((each - mean.view(3, 1, 1)) / deviation.view(3, 1, 1) for each in (a, b))
    taps = iter(linear.values())
    with torch.no_grad():
        for layer in features:
            x, y = layer(x), layer(y)
            if isinstance(layer, torch.nn.ReLU):
                u, v = (each / each.norm(dim=1, keepdim=True) for each in (x, y))
                expected += ((u - v) ** 2 * next(taps)).sum(1).mean((1, 2))
    network = Lpips(*weights)
    # The authors' shift and scale are ImageNet's, rounded to three digits.
    assert torch.allclose(network(a, b), expected, rtol=2e-2)
    assert torch.allclose(network(a, b), network(b, a)) and network(a, a).tolist() == [0.0, 0.0]


def test_lpips_as_a_metric(weights: tuple[Path, Path]) -> None:
    metric = LPIPSOptions(alexnet=weights[0], linear=weights[1]).build(2)
    assert metric.protocol == "LPIPS (AlexNet 0.1, crop 2)" and not metric.higher_is_better
    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    b = generator.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    assert metric(a, a) == 0 < metric(a, b)
    edge = a.copy()
    edge[:2] = 0
    assert metric(edge, b) == metric(a, b)
    grey = a[:, :, :1]
    assert metric(grey, b[:, :, :1]) == pytest.approx(metric(grey.repeat(3, 2), b[:, :, :1].repeat(3, 2)))
    with pytest.raises(UserError, match="too small"):
        metric(a[:34], b[:34])


def test_lpips_says_what_is_missing_and_fetches_nothing(
    weights: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsMissing, match="weights missing: AlexNet"):
        METRICS.options_class("lpips")().build(2)
    with pytest.raises(WeightsMissing, match="weights missing"):
        LPIPSOptions(alexnet=weights[0], linear=tmp_path / "no.pth").build(2)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read"):
        LPIPSOptions(alexnet=tmp_path / "bad.pth", linear=weights[1]).build(2)
    with pytest.raises(UserError, match="does not hold lin0"):
        LPIPSOptions(alexnet=weights[0], linear=weights[0]).build(2)
    with pytest.raises(UserError, match="does not hold AlexNet"):
        LPIPSOptions(alexnet=weights[1], linear=weights[1]).build(2)
    with pytest.raises(UserError, match="test_y_channel"):
        LPIPSOptions(test_y_channel=True).build(2)


def test_colour_shift() -> None:
    a = np.full((20, 30, 3), 100, np.uint8)
    b = a.copy()
    b[:, :, 1] += 7
    b[:, :, 2] -= 3
    assert colour_shift(a, b) == colour_shift(b, a) == 7
    assert colour_shift(a / np.float32(255), b / np.float32(255)) == pytest.approx(7, abs=1e-4)
    assert colour_shift(a.astype(np.uint16) * 257, b.astype(np.uint16) * 257) == pytest.approx(7)
    b[0] = 0
    assert colour_shift(a, b, crop_border=1) == 7
    metric = METRICS.options_class("colour_shift")().build(2)
    assert metric.protocol == "Colour shift (largest channel mean, levels of 255, crop 2)"
    assert not metric.higher_is_better and metric(a, b) == 7
    with pytest.raises(UserError, match="better: higher"):
        METRICS.options_class("colour_shift")(better="higher").build(2)


def test_chroma_and_sharpness_ratios() -> None:
    generator = np.random.default_rng(0)
    gt = generator.random((40, 40, 3)).astype(np.float32) * 0.5 + 0.25
    assert chroma_ratio(gt, gt) == sharpness_ratio(gt, gt) == 1
    half = gt.mean(axis=(0, 1)) + (gt - gt.mean(axis=(0, 1))) / 2
    # Both are energies: half the contrast is a quarter of them.
    assert chroma_ratio(half, gt) == pytest.approx(0.25, abs=0.01)
    assert sharpness_ratio(half, gt) == pytest.approx(0.25, abs=0.01)
    grey = gt.mean(axis=2, keepdims=True)
    assert chroma_ratio(grey, grey) == 1 and chroma_ratio(grey.repeat(3, 2), gt) < 0.01
    assert sharpness_ratio(grey, grey) == 1
    flat = np.full_like(gt, 0.5)
    assert chroma_ratio(gt, flat) > 100 and np.isfinite(sharpness_ratio(gt, flat))
