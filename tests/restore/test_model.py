from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atelier.errors import RunStopped, UserError
from atelier.images import imresize, to_tensor
from atelier.restore.model import RestorationModel, find_device

Net = Callable[..., nn.Module]
Facts = Callable[..., Any]


class Enlarge(nn.Module):
    """Nearest neighbour plus ``lift``: what comes out is known exactly."""

    def __init__(self, scale: int = 2, lift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.lift = scale, lift
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return nn.functional.interpolate(x, scale_factor=self.scale, mode="nearest") + self.lift


def noise(dtype: str, channels: int, height: int = 12, width: int = 9) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(channels)
    if dtype == "float32":
        return generator.random((height, width, channels), dtype=np.float32)
    return generator.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype, endpoint=True)


def doubled(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return image.repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("net_channels", [1, 3])
def test_any_picture_through_any_network(
    small_facts: Facts, dtype: str, channels: int, net_channels: int
) -> None:
    model = RestorationModel(Enlarge(), small_facts(in_channels=net_channels, out_channels=net_channels))
    image = noise(dtype, channels)
    before = image.copy()
    restored = model.restore(image)
    assert restored.dtype == image.dtype
    assert restored.shape == (24, 18, channels)
    assert np.array_equal(image, before)
    assert {shape[1] for shape in model.net.shapes} == {net_channels}
    if channels > 2 and net_channels == 1:
        # Chroma is resized bicubically: luma alone is the network's.
        weights = np.array([65.481, 128.553, 24.966]) / 255
        white = 1.0 if dtype == "float32" else float(np.iinfo(dtype).max)
        inside = (restored[..., :3] > 0).all(-1) & (restored[..., :3] < white).all(-1)
        error = (restored[..., :3] / white - doubled(image)[..., :3] / white) @ weights
        assert inside.any()
        assert np.abs(error[inside]).max() < 0.004
        restored, image = restored[..., 3:], image[..., 3:]
    # The rest is exact to the last bit of 8 and 16 bits: nothing went through fewer.
    np.testing.assert_allclose(restored, doubled(image), rtol=0, atol=1e-6 if dtype == "float32" else 0)


def test_dark_16_bit_stays_16_bit(small_facts: Facts) -> None:
    """A reader that looks at the largest value takes this for 8 bits."""
    model = RestorationModel(Enlarge(), small_facts())
    image = (noise("uint16", 3) % 200).astype(np.uint16)
    assert np.array_equal(model.restore(image), doubled(image))


def test_results_are_clamped_before_rounding(small_facts: Facts) -> None:
    """SwinIR issue 144: 256 became 0."""
    image = noise("uint8", 3)
    bright = RestorationModel(Enlarge(lift=0.5), small_facts()).restore(image)
    expected = np.minimum(doubled(image).astype(np.float64) / 255 + 0.5, 1) * 255
    np.testing.assert_allclose(bright, expected, rtol=0, atol=0.5 + 1e-3)
    assert (bright == 255).any()


def test_alpha_goes_through_the_network_or_bicubic(small_facts: Facts) -> None:
    image = noise("uint8", 4)
    model = RestorationModel(Enlarge(), small_facts())
    by_network = model.restore(image)
    by_bicubic = model.restore(image, alpha_upsampler="bicubic")
    assert np.array_equal(by_network[..., 3:], doubled(image[..., 3:]))
    expected = imresize(image[..., 3:].astype(np.float32) / 255, scale=2).clip(0, 1) * 255
    np.testing.assert_allclose(by_bicubic[..., 3:], expected, rtol=0, atol=0.5 + 1e-3)
    assert np.array_equal(by_network[..., :3], by_bicubic[..., :3])
    assert not np.array_equal(by_network[..., 3], by_bicubic[..., 3])


@pytest.mark.parametrize("value", [0, 77, 255])
def test_alpha_that_says_nothing_stays(small_facts: Facts, value: int) -> None:
    image = noise("uint8", 4)
    image[..., 3] = value
    restored = RestorationModel(Enlarge(lift=0.2), small_facts()).restore(image)
    assert (restored[..., 3] == value).all()


def test_alpha_is_not_denoised(small_facts: Facts) -> None:
    image = noise("uint8", 2)
    model = RestorationModel(Enlarge(scale=1, lift=0.1), small_facts(scale=1, in_channels=1, out_channels=1))
    restored = model.restore(image)
    assert np.array_equal(restored[..., 1], image[..., 1])
    assert not np.array_equal(restored[..., 0], image[..., 0])


@pytest.mark.parametrize("outscale", [0.5, 1, 1.15, 2.0, 3.7, 0.01])
def test_outscale(small_facts: Facts, outscale: float) -> None:
    image = noise("uint16", 4, 40, 100)
    restored = RestorationModel(Enlarge(), small_facts()).restore(image, outscale=outscale)
    assert restored.shape == (max(int(40 * outscale), 1), max(int(100 * outscale), 1), 4)
    assert restored.dtype == np.uint16


def test_outscale_resizes_before_rounding(small_facts: Facts) -> None:
    image = noise("uint8", 3, 20, 20)
    restored = RestorationModel(Enlarge(lift=0.3 / 255), small_facts()).restore(image, outscale=1)
    lifted = nn.functional.interpolate(to_tensor(image)[None], scale_factor=2) + 0.3 / 255
    expected = imresize(lifted, size=(20, 20))[0].permute(1, 2, 0).clamp(0, 1) * 255
    np.testing.assert_allclose(restored, expected, rtol=0, atol=0.5 + 1e-3)


def test_tiles_equal_the_whole_picture(conv_net: Net, small_facts: Facts) -> None:
    model = RestorationModel(conv_net(), small_facts())
    image = noise("float32", 3, 60, 50)
    tiled = model.restore(image, tile=16)
    np.testing.assert_allclose(tiled, model.restore(image, tile=None), rtol=0, atol=1e-5)


def test_after_running_out_of_memory_the_smaller_tile_is_kept(conv_net: Net, small_facts: Facts) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.failures = conv_net(), 0

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] > 40:
                self.failures += 1
                raise MemoryError
            result: Tensor = self.net(x)
            return result

    model = RestorationModel(Small(), small_facts())
    image = noise("uint8", 3, 60, 90)
    first = model.restore(image, tile=None)
    failures = model.net.failures
    assert failures > 0
    assert np.array_equal(model.restore(image, tile=None), first)
    assert model.net.failures == failures


class Overflow(nn.Module):
    """Finite in float32 only, as SwinIR's activations are."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.full((3, 3, 1, 1), 1e20) if always else torch.full((3, 3, 1, 1), 1e5)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.conv2d(x, self.weight)
        y = nn.functional.conv2d(y, self.weight) / 1e10
        return torch.nn.functional.interpolate(
            y * (1e30 if self.weight[0, 0, 0, 0] > 1e10 else 1), scale_factor=2
        )


def test_half_precision_that_overflows_is_repeated(
    small_facts: Facts, caplog: pytest.LogCaptureFixture
) -> None:
    image = noise("float32", 3) / 16
    full = RestorationModel(Overflow(), small_facts()).restore(image)
    with caplog.at_level(logging.WARNING):
        half = RestorationModel(Overflow(), small_facts(), precision="fp16").restore(image)
    assert np.array_equal(half, full)
    assert "repeated in fp32" in caplog.text


def test_damaged_weights_are_named(small_facts: Facts) -> None:
    with pytest.raises(RunStopped, match=r"ConvNet gave NaN or infinity for \d+ of 1296"):
        RestorationModel(Overflow(always=True), small_facts()).restore(noise("uint8", 3))


def test_unsafe_precision_is_refused(small_facts: Facts) -> None:
    swinir = small_facts(architecture="SwinIR", supports_half=False)
    with pytest.raises(UserError, match=r"fp16 .* SwinIR.* 65504.* bf16"):
        RestorationModel(Enlarge(), swinir, precision="fp16")
    for allowed in ("auto", "fp32", "bf16"):
        RestorationModel(Enlarge(), swinir, precision=allowed)
    with pytest.raises(UserError, match="bf16 is not safe"):
        RestorationModel(Enlarge(), small_facts(supports_bfloat16=False), precision="bf16")
    with pytest.raises(UserError, match="int8"):
        RestorationModel(Enlarge(), small_facts(), precision="int8")


def test_automatic_precision_halves_only_where_8_bits_cannot_tell(small_facts: Facts) -> None:
    model = RestorationModel(Enlarge(), small_facts(), precision="auto")
    assert model._precision(np.dtype("uint8")) == "fp32"
    model.device = torch.device("cuda")
    assert model._precision(np.dtype("uint8")) == "fp16"
    assert model._precision(np.dtype("uint16")) == "fp32"
    for facts in (small_facts(supports_half=False), small_facts(receptive_radius=None)):
        model.facts = facts
        assert model._precision(np.dtype("uint8")) == "fp32"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), "H×W×C"),
        (np.zeros((4, 4, 5), np.uint8), "H×W×C"),
        (np.zeros((0, 4, 3), np.uint8), "not empty"),
        (np.zeros((4, 4, 3), np.float64), "float64"),
        (np.full((4, 4, 3), 255, np.float32), "255"),
        (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_pictures_that_are_none(small_facts: Facts, image: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RestorationModel(Enlarge(), small_facts()).restore(image)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outscale": 0}, "outscale"),
        ({"outscale": float("nan")}, "outscale"),
        ({"alpha_upsampler": "x"}, "'x'"),
    ],
)
def test_arguments_that_fit_no_picture(small_facts: Facts, changes: dict[str, Any], message: str) -> None:
    model = RestorationModel(Enlarge(), small_facts())
    with pytest.raises(UserError, match=message):
        model.restore(noise("uint8", 3), **changes)
    with pytest.raises(UserError, match=message):
        model.check(**changes)


def test_networks_of_other_channels_are_refused(small_facts: Facts) -> None:
    with pytest.raises(UserError, match="4 channels and gives 3"):
        RestorationModel(Enlarge(), small_facts(in_channels=4)).restore(noise("uint8", 3))


def test_facts(small_facts: Facts) -> None:
    model = RestorationModel(Enlarge(), small_facts(scale=4, in_channels=1))
    assert (model.architecture, model.scale, model.in_channels) == ("ConvNet", 4, 1)


@pytest.mark.parametrize("name", ["cuda:7", "tpu", "meta", "cuda:x"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(UserError, match=name):
        find_device(name)


def test_no_gpu_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="no GPU on this machine"):
        find_device("cuda")
