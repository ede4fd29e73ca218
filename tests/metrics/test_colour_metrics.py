"""Metrics of colour: skimage and scipy agree, known values, and what grey films get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import jensenshannon
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from atelier.data.bundled import bundled_path
from atelier.data.synthetic_clips import HELD_OUT, bundled_clip
from atelier.errors import UserError
from atelier.images.files import read_image
from atelier.metrics.cdc import cdc, colour_histogram
from atelier.metrics.colour_difference import ab_psnr, ab_ssim, ciede2000, ciede2000_map, delta_ab
from atelier.metrics.colourfulness import colourfulness
from atelier.metrics.fid import FeatureStatistics, Fid, frechet_distance
from atelier.metrics.lab import lab_of
from atelier.metrics.lpips import MeanLpips
from atelier.metrics.measured import Measured
from atelier.metrics.ssim import ssim
from atelier.metrics.warp_error import WarpError, consistent
from atelier.randomness import Streams

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def pair() -> tuple[Pixels, Pixels]:
    picture: Pixels = read_image(bundled_path("astronaut")).pixels[40:136, 60:180]
    noise = np.random.default_rng(0).normal(0, 12, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), picture


def grey(picture: Pixels) -> Pixels:
    mean = picture.mean(axis=-1, keepdims=True).round()
    return np.repeat(mean, 3, axis=-1).astype(np.uint8)


def test_lab_is_skimage_s(pair: tuple[Pixels, Pixels]) -> None:
    np.testing.assert_allclose(lab_of(pair[0]), rgb2lab(pair[0]), atol=1e-4)
    np.testing.assert_allclose(lab_of(pair[0] / 255), lab_of(pair[0]), atol=1e-12)


def test_ab_alone(pair: tuple[Pixels, Pixels]) -> None:
    first, second = (rgb2lab(each)[..., 1:] for each in pair)
    assert ab_psnr(*pair) == pytest.approx(
        peak_signal_noise_ratio(first + 128, second + 128, data_range=255), abs=1e-4
    )
    assert delta_ab(*pair) == pytest.approx(np.abs(first - second).mean(), abs=1e-4)
    planes = [(each + 128) / 255 for each in (first, second)]
    expected = np.mean([ssim(planes[0][..., k, None], planes[1][..., k, None]) for k in range(2)])
    assert ab_ssim(*pair) == pytest.approx(expected, abs=1e-5)
    assert ab_psnr(pair[1], pair[1]) == np.inf and ab_ssim(pair[1], pair[1]) == pytest.approx(1)
    # Light alone does not matter to ab: two greys of any brightness have the same colours.
    dark, light = (np.full((16, 16, 3), value, np.uint8) for value in (40, 220))
    assert delta_ab(dark, light) < 0.01 and ciede2000(dark, light) > 40


def test_ciede2000_is_skimage_s(pair: tuple[Pixels, Pixels]) -> None:
    first, second = (rgb2lab(each) for each in pair)
    np.testing.assert_allclose(ciede2000_map(first, second), deltaE_ciede2000(first, second), atol=1e-9)
    assert ciede2000(*pair) == pytest.approx(deltaE_ciede2000(first, second).mean(), abs=1e-3)
    draw = np.random.default_rng(1)
    wild = [draw.uniform([0, -100, -100], [100, 100, 100], (4000, 3)) for _ in range(2)]
    np.testing.assert_allclose(ciede2000_map(*wild), deltaE_ciede2000(*wild), atol=1e-9)


def test_ciede2000_of_published_pairs() -> None:
    """Pairs 1, 7, 10, 17 and 25 of table 1 of Sharma, Wu & Dalal (2005): greys, opposite hues, large differences."""
    rows = [
        (50.0, 2.6772, -79.7751, 50.0, 0.0, -82.7485, 2.0425),
        (50.0, 0.0, 0.0, 50.0, -1.0, 2.0, 2.3669),
        (50.0, 2.4900, -0.0010, 50.0, -2.4900, 0.0010, 7.1792),
        (50.0, 2.5, 0.0, 73.0, 25.0, -18.0, 27.1492),
        (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
    ]
    table = np.array(rows)
    np.testing.assert_allclose(ciede2000_map(table[:, :3], table[:, 3:6]), table[:, 6], atol=5e-5)


def test_colourfulness(pair: tuple[Pixels, Pixels]) -> None:
    picture = pair[1].astype(float)
    rg, yb = picture[..., 0] - picture[..., 1], (picture[..., 0] + picture[..., 1]) / 2 - picture[..., 2]
    expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert colourfulness(pair[1]) == pytest.approx(expected)
    assert colourfulness(pair[1].astype(np.float32) / 255) == pytest.approx(expected, rel=1e-5)
    assert colourfulness(grey(pair[1])) < 0.01
    half = (0.5 * pair[1] + 0.5 * grey(pair[1])).round().astype(np.uint8)
    assert 0.45 * expected < colourfulness(half) < 0.55 * expected


def film(sample: int = 0, frames: int = 6) -> Any:
    return bundled_clip(HELD_OUT, frames, 48, Streams(5, 0, sample)("clip"))


def test_cdc() -> None:
    frames = film().rgb
    histograms = [colour_histogram(frame) for frame in frames]
    expected = []
    for d in (1, 2, 4):
        pairs = zip(histograms, histograms[d:], strict=False)
        expected.append(np.mean([jensenshannon(p, q, axis=1) ** 2 for p, q in pairs]))
    assert cdc(histograms) == pytest.approx(np.mean(expected), rel=1e-9)
    assert cdc([histograms[0]] * 5) == 0
    assert cdc(histograms) == pytest.approx(cdc(histograms[::-1]), rel=1e-12), "time has no direction here"
    black, white = (colour_histogram(np.full((4, 4, 3), value, np.uint8)) for value in (0, 255))
    assert cdc([black, white]) == pytest.approx(np.log(2))
    # Frames of two scenes are not compared.
    twice = [0] * len(histograms) + [1] * len(histograms)
    assert cdc([*histograms, *histograms], scenes=twice) == pytest.approx(cdc(histograms), rel=1e-12)
    assert cdc([black, black, white, white], scenes=[0, 0, 1, 1]) == 0 < cdc([black, black, white, white])
    with pytest.raises(UserError, match="of one scene"):
        cdc([black, white], scenes=[0, 1])
    # Two frames have no pair at distance 2 and 4; what there is counts.
    assert cdc(histograms[:2]) == pytest.approx(cdc(histograms[:2], (1,)))
    with pytest.raises(UserError, match="the film has 1"):
        cdc(histograms[:1])
    with pytest.raises(UserError, match="uint8"):
        colour_histogram(frames[0] / 255)


def warp_error(frames: npt.NDArray[Any], flow: torch.Tensor, mask: torch.Tensor) -> float:
    ab = torch.from_numpy(np.stack([lab_of(frame) for frame in frames]))[..., 1:].permute(0, 3, 1, 2)
    total = WarpError()
    for t in range(1, len(frames)):
        total.add(ab[t : t + 1], ab[t - 1 : t], flow[t : t + 1], mask[t : t + 1])
    return total.value()


def test_warp_error_of_the_truth() -> None:
    for sample in range(3):
        clip = film(sample)
        flow, mask = torch.from_numpy(clip.flow), torch.from_numpy(clip.valid)[:, None].float()
        exact, still = (warp_error(clip.rgb, each, mask) for each in (flow, torch.zeros_like(flow)))
        assert exact < 0.6 * still
        assert warp_error(clip.rgb, -flow, mask) > exact
        assert warp_error(np.stack([grey(frame) for frame in clip.rgb]), flow, mask) < 0.01
        flicker = clip.rgb.copy()
        flicker[::2, ..., 0] = np.minimum(flicker[::2, ..., 0].astype(int) + 30, 255)
        assert warp_error(flicker, flow, mask) > 2 * exact


def test_warp_error_formula_and_weights() -> None:
    here, there = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)
    here[:, 0] = 3.0  # a is off by 3, b by nothing: 3 over two planes
    flow, whole = torch.zeros(1, 2, 3, 4), torch.ones(1, 1, 3, 4)
    total = WarpError()
    total.add(here, there, flow, whole)
    assert total.value() == pytest.approx(1.5)
    part = whole.clone()
    part[..., :2] = 0
    total.add(there, there, flow, part)
    assert total.value() == pytest.approx(1.5 * 12 / 18), "pixels count alike, not frames"
    with pytest.raises(UserError, match="at least one pixel"):
        WarpError().value()


def test_consistency() -> None:
    there = torch.zeros(1, 2, 10, 12)
    there[:, 0] = 3.0
    found = consistent(there, -there)
    assert found[..., :9].all() and not found[..., 10:].any(), "what leaves the picture has no way back"
    assert not consistent(there, there).any()
    # Slack: sqrt(0.5) px where nothing moves.
    still = torch.zeros(1, 2, 4, 4)
    assert consistent(still, still + 0.49).all() and not consistent(still, still + 0.51).any()


def test_frechet_distance_against_scipy() -> None:
    draw = np.random.default_rng(0)
    mix = draw.normal(size=(6, 6))
    sets = [draw.normal(size=(300, 6)), draw.normal(size=(400, 6)) @ mix + 0.5]
    statistics = []
    for vectors in sets:
        each = FeatureStatistics()
        for portion in np.array_split(vectors, 7):
            each.add(portion)
        np.testing.assert_allclose(each.covariance(), np.cov(vectors.T), atol=1e-10)
        statistics.append(each)
    (m1, c1), (m2, c2) = ((vectors.mean(0), np.cov(vectors.T)) for vectors in sets)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(statistics[0], statistics[0]) == pytest.approx(0, abs=1e-9)


def test_learned_metrics_are_null_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    frames = torch.rand(2, 3, 40, 40)
    for metric in (Fid(), MeanLpips()):
        metric.add(frames, frames)
        found = metric.result()
        assert found.value is None and found.reason is not None
        assert found.reason.startswith("weights not available: "), found.reason
    wrong = tmp_path / "wrong.pth"
    torch.save({"fc.weight": torch.zeros(2)}, wrong)
    with pytest.raises(UserError, match=r"wrong\.pth does not hold torchvision's Inception v3"):
        Fid(wrong)
    with pytest.raises(ValueError):
        Measured(None)


@pytest.mark.slow
def test_fid_of_few_frames_is_null(tmp_path: Path) -> None:
    """A stand-in file of the right shape: the features come, but two frames are no set."""
    from torchvision import models

    torch.manual_seed(0)
    torch.save(models.inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "inception.pth")
    metric = Fid(tmp_path / "inception.pth")
    metric.add(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    assert metric._restored.mean().shape == (2048,)
    found = metric.result()
    assert found.value is None and found.reason is not None and "there are 2" in found.reason


def test_bad_input_is_named(pair: tuple[Pixels, Pixels]) -> None:
    with pytest.raises(UserError, match="must agree"):
        delta_ab(pair[0], pair[1][:-1])
    for metric in (delta_ab, ab_psnr, ab_ssim, ciede2000):
        with pytest.raises(UserError, match="RGB"):
            metric(pair[0][..., :1], pair[1][..., :1])
    with pytest.raises(UserError, match="RGB"):
        colourfulness(pair[0][..., :1])
