"""Pictures to tensors and back."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from atelier.errors import UserError
from atelier.images import from_tensor, to_tensor


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_value_comes_back(dtype):
    full = np.iinfo(dtype).max
    pixels = np.arange(full + 1, dtype=dtype).reshape(1, -1, 1)
    tensor = to_tensor(pixels)
    assert tensor.dtype == torch.float32 and tensor.shape == (1, 1, full + 1)
    assert tensor.min() == 0 and tensor.max() == 1
    assert np.array_equal(from_tensor(tensor, dtype), pixels)
    assert np.array_equal(tensor.numpy()[0, 0], (pixels[0, :, 0] / np.float32(full)).astype(np.float32))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_layout(dtype, channels):
    rng = np.random.default_rng(0)
    pixels = (rng.random((5, 7, channels)) * (1 if dtype == "float32" else 200)).astype(dtype)
    before = pixels.copy()
    tensor = to_tensor(pixels)
    assert tensor.shape == (channels, 5, 7) and tensor.is_contiguous()
    tensor.mul_(1)  # its own memory: the picture stays as it was
    back = from_tensor(tensor[None], dtype)
    assert back.dtype == np.dtype(dtype) and back.flags.c_contiguous
    assert np.array_equal(back, pixels) and np.array_equal(pixels, before)
    tensor.zero_()
    assert np.array_equal(pixels, before)


def test_clamping_and_rounding_half_to_even():
    values = torch.tensor([-1.0, 2.0, 0.5 / 255, 1.5 / 255, 2.5 / 255], dtype=torch.float64)
    assert from_tensor(values.reshape(1, 1, -1)).ravel().tolist() == [0, 255, 0, 2, 2]
    assert from_tensor(values.reshape(1, 1, -1), "float32").ravel().tolist()[:2] == [0, 1]


def test_the_tensor_is_not_changed():
    tensor = torch.rand(3, 4, 4, requires_grad=True)
    before = tensor.detach().clone()
    for dtype in ("uint8", "uint16", "float32"):
        from_tensor(tensor, dtype)[...] = 0
    assert torch.equal(tensor.detach(), before)


def test_half_precision_output():
    assert from_tensor(torch.full((1, 2, 2), 0.5, dtype=torch.bfloat16)).tolist() == [[[128], [128]]] * 2


def test_overflow_is_no_picture():
    for bad in (float("nan"), float("inf")):
        tensor = torch.zeros(3, 4, 4)
        tensor[1, 2, 3] = bad
        with pytest.raises(UserError, match="NaN or infinite"):
            from_tensor(tensor)


def test_what_they_refuse():
    for wrong in (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1), np.int64)):
        with pytest.raises(TypeError, match="H×W×C"):
            to_tensor(wrong)
    for bad in (torch.zeros(2, 3, 4, 4), torch.zeros(4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)):
        with pytest.raises(TypeError, match="C×H×W"):
            from_tensor(bad)
    with pytest.raises(TypeError, match="uint8, uint16 or float32"):
        from_tensor(torch.zeros(1, 4, 4), "int32")


def test_the_package_is_light_and_complete():
    code = """
import sys, atelier.images as images
heavy = {"torch", "cv2", "PIL", "numpy", "tifffile"} & set(sys.modules)
assert not heavy, heavy
assert set(images.__all__) <= set(dir(images))
for name in images.__all__:
    getattr(images, name)
assert "torch" not in sys.modules and "cv2" not in sys.modules
try:
    images.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
