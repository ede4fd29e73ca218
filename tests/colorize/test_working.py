"""Working size and the way back to full size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from atelier.colorize.working import WorkingSize, enlarge, join, lightness
from atelier.errors import UserError
from atelier.images.lab import LabScale, rgb_to_lab


@pytest.mark.parametrize(
    ("width", "height", "content", "padded"),
    [
        (1280, 720, (256, 455), (256, 480)),
        (720, 1280, (455, 256), (480, 256)),
        (160, 96, (96, 160), (96, 160)),
        (97, 161, (161, 97), (192, 128)),
        (5, 3, (3, 5), (32, 32)),
    ],
)
def test_aspect_is_kept_and_nothing_is_enlarged(
    width: int, height: int, content: tuple[int, int], padded: tuple[int, int]
) -> None:
    size = WorkingSize.of(width, height, 256)
    assert (size.full, size.content, size.padded) == ((height, width), content, padded)
    planes = torch.rand(1, 2, height, width)
    work = size.shrink(planes)
    assert work.shape[-2:] == padded
    if content == size.full:
        assert torch.equal(size.crop(work), planes)


def test_padding_mirrors() -> None:
    size = WorkingSize.of(40, 33, 64)
    planes = torch.rand(1, 1, 33, 40)
    padded = size.pad(planes)
    expected = np.pad(planes[0, 0].numpy(), ((0, 31), (0, 24)), mode="reflect")
    assert np.array_equal(padded[0, 0].numpy(), expected)


@pytest.mark.parametrize("side", [0, 31, 100, -32])
def test_a_short_side_that_is_no_multiple(side: int) -> None:
    with pytest.raises(UserError, match="multiple of 32"):
        WorkingSize.of(100, 100, side)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("colour", [False, True])
def test_lightness_is_that_of_skimage(dtype: str, colour: bool) -> None:
    top = np.iinfo(dtype).max
    numbers = np.random.default_rng(0).integers(0, top + 1, (9, 7, 3)).astype(dtype)
    pixels = numbers if colour else np.repeat(numbers[..., :1], 3, axis=2)
    found = lightness(pixels)
    assert found.shape == (1, 1, 9, 7) and found.dtype == torch.float32
    expected = rgb2lab(pixels / top)[..., 0] / 50 - 1
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_full_size_lightness_stays(dtype: str) -> None:
    """Chroma is arbitrary; lightness of what lies inside sRGB comes back to the rounding of the output."""
    numbers = np.random.default_rng(1)
    pixels = np.repeat(numbers.integers(0, 256, (61, 97, 1)), 3, axis=2).astype(np.uint8)
    whole = lightness(pixels)
    ab = torch.from_numpy(numbers.uniform(-0.2, 0.2, (1, 2, 61, 97)).astype(np.float32))
    coloured, clipped = join(whole, ab, dtype)
    assert coloured.dtype == dtype and coloured.shape == (61, 97, 3)
    top = np.iinfo(dtype).max
    back = rgb2lab(coloured / top)[..., 0]
    wanted = (whole[0, 0].numpy() + 1) * 50
    inside = np.abs(back - wanted) * 2.55 <= 1
    assert 0 < clipped < inside.size
    assert (~inside).sum() <= clipped
    lab = rgb_to_lab(torch.from_numpy(coloured.astype(np.float32) / top).permute(2, 0, 1))
    found = LabScale.UNIT.normalise(lab)[1:].numpy()[:, inside]
    assert np.median(np.abs(found - ab[0].numpy()[:, inside])) < (0.01 if dtype == "uint8" else 1e-4)


def test_values_are_rounded() -> None:
    grey = np.full((4, 4, 3), 77, np.uint8)
    coloured, clipped = join(lightness(grey), torch.zeros(1, 2, 4, 4), np.uint8)
    assert np.array_equal(coloured, grey) and clipped == 0


def test_guided_chroma_follows_edges() -> None:
    """A step in lightness and colour at the same place, off the working grid."""
    size = WorkingSize.of(256, 64, 32)
    right = torch.arange(256) >= 101
    whole = (right.float() - 0.5).expand(1, 1, 64, 256).contiguous()
    truth = (0.4 * right.float() - 0.2).expand(1, 2, 64, 256)
    work, ab = size.shrink(whole), size.shrink(truth)
    errors = {
        how: float((enlarge(ab, size, whole, work, how) - truth).abs().mean())  # type: ignore[arg-type]
        for how in ("bilinear", "guided")
    }
    assert errors["guided"] < 0.5 * errors["bilinear"]
    flat = enlarge(ab, size, torch.zeros_like(whole), torch.zeros_like(work), "guided")
    assert float(flat.abs().max()) <= 0.21
