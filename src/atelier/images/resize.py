"""MATLAB's ``imresize`` with the bicubic kernel: the field's way of making low-resolution pictures.

Each dimension is a matrix product with a banded weight matrix (Keys 1981, a = -1/2; the kernel is stretched
by 1/scale when shrinking, which is the antialiasing). The rows of the matrix are cut into blocks, each of
which touches only a short run of the input: that is as fast as gathering taps, runs in the linear algebra
library, and needs no code of its own for gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

T = TypeVar("T", bound="npt.NDArray[Any] | torch.Tensor")

_ONE_BLOCK = 256  # up to this length a single dense product is fastest
_BLOCK = 64  # output rows of a block on the CPU
_BLOCK_ON_DEVICE = 1024  # elsewhere few large products beat many small ones
_ROUNDING = 0.5 + 1e-7  # a tie stays a tie whatever the order of summation: exact ties go up, as in MATLAB


@dataclass(frozen=True)
class _Block:
    """Output rows ``first..last`` are ``weights @ input[start:stop]``."""

    first: int
    last: int
    start: int
    stop: int
    weights: Any


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -1/2 (IEEE Trans. ASSP 29, 1981, equation 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


@lru_cache(maxsize=64)
def _plan(length: int, out_length: int, scale: float, antialiasing: bool, block: int) -> tuple[_Block, ...]:
    """Weights in float64 that take one dimension from ``length`` to ``out_length`` samples.

    Output sample i (from 0) lies at input position (i + 1/2) / scale - 1/2. Beyond the edge the picture is
    mirrored, the edge sample repeated; taps outside are folded onto the samples they mirror.
    """
    stretch = min(scale, 1.0) if antialiasing else 1.0
    width = 4.0 / stretch
    centre = (np.arange(out_length) + 0.5) / scale - 0.5
    first_tap = np.floor(centre - width / 2).astype(np.int64)
    taps = first_tap[:, None] + np.arange(math.ceil(width) + 2)
    weights = _cubic(stretch * (centre[:, None] - taps))
    weights /= weights.sum(axis=1, keepdims=True)
    period = 2 * length
    source = taps % period
    source = np.where(source < length, source, period - 1 - source)
    used = weights != 0
    blocks = []
    step = out_length if length <= _ONE_BLOCK else block
    for first in range(0, out_length, step):
        last = min(first + step, out_length)
        own = used[first:last]
        start = int(source[first:last][own].min())
        stop = int(source[first:last][own].max()) + 1
        dense = np.zeros((last - first, stop - start))
        rows = np.broadcast_to(np.arange(last - first)[:, None], own.shape)[own]
        np.add.at(dense, (rows, source[first:last][own] - start), weights[first:last][own])
        dense.setflags(write=False)
        blocks.append(_Block(first, last, start, stop, dense))
    return tuple(blocks)


@lru_cache(maxsize=64)
def _tensor_plan(
    length: int, out_length: int, scale: float, antialiasing: bool, device: torch.device, dtype: torch.dtype
) -> tuple[_Block, ...]:
    import torch

    block = _BLOCK if device.type == "cpu" else _BLOCK_ON_DEVICE
    plan = _plan(length, out_length, scale, antialiasing, block)
    # The cache outlives the caller's mode: a tensor made in inference mode could never meet a gradient later.
    with torch.inference_mode(False):
        return tuple(
            _Block(b.first, b.last, b.start, b.stop, torch.tensor(b.weights, dtype=dtype, device=device))
            for b in plan
        )


def _target(
    shape: tuple[int, int], scale: float | None, size: tuple[int, int] | None
) -> Iterator[tuple[int, int, float]]:
    """(dimension, new length, scale) in order of work: smaller scale first, rows first where equal."""
    if (scale is None) == (size is None):
        raise ValueError("imresize needs either scale or size, not both")
    if min(shape) < 1:
        raise ValueError(f"imresize needs a picture of at least one pixel, not {shape[0]}×{shape[1]}")
    if scale is not None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a positive number, not {scale}")
        # MATLAB takes ceil(length * scale). A product that is whole but for the last bit (1.1 * 10) counts
        # as whole.
        work = [(axis, max(1, math.ceil(n * scale - 1e-9)), float(scale)) for axis, n in enumerate(shape)]
    else:
        assert size is not None
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), both at least 1, not {size}")
        work = [(axis, int(m), m / n) for axis, (m, n) in enumerate(zip(size, shape, strict=True))]
    yield from sorted(work, key=lambda step: step[2])


def imresize(
    image: T, scale: float | None = None, size: tuple[int, int] | None = None, antialiasing: bool = True
) -> T:
    """Resize by MATLAB's bicubic, ``imresize(image, scale)`` or ``imresize(image, [height width])``.

    Args:
        image: numpy ``H×W×C`` or ``H×W`` (uint8, uint16, float32, float64), or a floating torch tensor
            ``N×C×H×W`` (any leading dimensions) on any device; differentiable.
        scale: factor for both dimensions; the result measures ceil(length * scale), positions follow the
        factor. size: (height, width) instead; each dimension is then scaled by its own ratio.
        antialiasing: widen the kernel when shrinking (MATLAB's default).

    Returns:
        A new picture of the same kind. Integers are computed in double precision, and rounded (ties up) and
        clipped after each dimension as MATLAB does. Floats are neither rounded nor clipped and may leave [0,
        1]; float16 and bfloat16 are computed in float32. An unchanged size with scale 1 gives a copy.

    Raises:
        ValueError, TypeError: for impossible sizes or other types.
    """
    if isinstance(image, np.ndarray):
        return cast(T, _resize_array(image, scale, size, antialiasing))
    return cast(T, _resize_tensor(cast("torch.Tensor", image), scale, size, antialiasing))


def _resize_array(
    image: npt.NDArray[Any], scale: float | None, size: tuple[int, int] | None, antialiasing: bool
) -> npt.NDArray[Any]:
    if image.ndim not in (2, 3) or str(image.dtype) not in ("uint8", "uint16", "float32", "float64"):
        raise TypeError(
            "imresize takes numpy H×W×C or H×W of uint8, uint16, float32 or float64, "
            f"not shape {image.shape} of {image.dtype}"
        )
    out = image
    for axis, length, factor in _target((image.shape[0], image.shape[1]), scale, size):
        if factor == 1 and length == out.shape[axis]:
            continue
        plan = _plan(out.shape[axis], length, factor, antialiasing, _BLOCK)
        if axis == 0:
            out = _rows(out.reshape(out.shape[0], -1), plan).reshape(length, *out.shape[1:])
        else:
            turned = np.ascontiguousarray(out.swapaxes(0, 1))
            rows = _rows(turned.reshape(turned.shape[0], -1), plan)
            out = rows.reshape(length, *turned.shape[1:]).swapaxes(0, 1)
    return out.copy() if out is image else np.ascontiguousarray(out)


def _rows(image: npt.NDArray[Any], plan: tuple[_Block, ...]) -> npt.NDArray[Any]:
    """The plan applied to the first dimension of a 2-D array, in the array's own type."""
    out = np.empty((plan[-1].last, image.shape[1]), image.dtype)
    whole = image.dtype.kind == "u"
    work = np.dtype(np.float64) if whole else image.dtype
    for block in plan:
        source = image[block.start : block.stop].astype(work, copy=False)
        part = block.weights.astype(work, copy=False) @ source
        if whole:
            np.floor(np.add(part, _ROUNDING, out=part), out=part)
            np.clip(part, 0, np.iinfo(image.dtype).max, out=part)
        out[block.first : block.last] = part
    return out


def _resize_tensor(
    image: torch.Tensor, scale: float | None, size: tuple[int, int] | None, antialiasing: bool
) -> torch.Tensor:
    import torch

    if not isinstance(image, torch.Tensor) or image.ndim < 3 or not image.is_floating_point():
        kind = f"{image.dtype}" if isinstance(image, torch.Tensor) else type(image).__name__
        raise TypeError(f"imresize takes a numpy picture or a floating torch tensor N×C×H×W, not {kind}")
    dtype = image.dtype if image.dtype in (torch.float32, torch.float64) else torch.float32
    out = image.to(dtype)
    # Mixed precision would do these products in 8 bits of mantissa.
    with torch.autocast(device_type=image.device.type, enabled=False):
        for axis, length, factor in _target((image.shape[-2], image.shape[-1]), scale, size):
            n = out.shape[axis - 2]
            if factor == 1 and length == n:
                continue
            plan = _tensor_plan(n, length, factor, antialiasing, image.device, dtype)
            if axis == 0:
                parts = [b.weights @ out[..., b.start : b.stop, :] for b in plan]
            else:
                parts = [out[..., b.start : b.stop] @ b.weights.T for b in plan]
            out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis - 2)
    return out.clone() if out is image else out.to(image.dtype)
