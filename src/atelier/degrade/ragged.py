"""Pictures of different sizes computed together: copied side by side onto one canvas, cut out of it again.

What lies on a canvas beyond a picture is zero or what arithmetic makes of it, and is never read. Pictures are grouped
by size, for the canvas has the largest height and width of its group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_PIXELS = 2**22
"""Canvases of a group hold at most this many pixels together: half a gigabyte for JPEG's intermediate values."""


def groups(sizes: Sequence[tuple[int, int]], together: int | None) -> Iterator[list[int]]:
    """Indices of pictures to compute together, largest first; each index once.

    Args:
        sizes: ``(h, w)`` of every picture.
        together: at most this many in a group; None: as :data:`MOST_PIXELS` allows.
    """
    group: list[int] = []
    height = width = 0
    for index in sorted(range(len(sizes)), key=lambda k: (-sizes[k][0] * sizes[k][1], k)):
        h, w = max(height, sizes[index][0]), max(width, sizes[index][1])
        full = together is not None and len(group) >= together
        if group and (full or h * w * (len(group) + 1) > MOST_PIXELS):
            yield group
            group, (h, w) = [], sizes[index]
        group.append(index)
        height, width = h, w
    if group:
        yield group


def size_of(picture: Tensor) -> tuple[int, int]:
    """``(h, w)``."""
    return picture.shape[-2], picture.shape[-1]


def stacked(pictures: Sequence[Tensor], fill: float = 0.0) -> Tensor:
    """``1 x C x h x w`` each to ``N x C x H x W``; ``fill`` beyond them."""
    if len(pictures) == 1:
        return pictures[0]
    height = max(picture.shape[-2] for picture in pictures)
    width = max(picture.shape[-1] for picture in pictures)
    canvas = pictures[0].new_full((len(pictures), pictures[0].shape[1], height, width), fill)
    for place, picture in zip(canvas, pictures, strict=True):
        place[:, : picture.shape[-2], : picture.shape[-1]] = picture[0]
    return canvas


def unstacked(canvas: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Views of the pictures on ``canvas``, ``1 x C x h x w``."""
    return [canvas[k : k + 1, :, :height, :width] for k, (height, width) in enumerate(sizes)]


def bordered(picture: Tensor, margin: tuple[int, int]) -> Tensor:
    """``1 x C x h x w`` with (rows, columns) mirrored around it without repeating the edge, again where it is short."""
    rows, columns = margin
    if rows < picture.shape[2] and columns < picture.shape[3]:
        return F.pad(picture, (columns, columns, rows, rows), mode="reflect")
    picture = picture.index_select(2, mirrored(picture.shape[2], rows, picture.device))
    return picture.index_select(3, mirrored(picture.shape[3], columns, picture.device))


def mirrored(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices of ``length`` pixels with ``margin`` mirrored ones on either side, mirrored again where that is short."""
    place = torch.arange(-margin, length + margin, device=device)
    period = max(2 * (length - 1), 1)
    place = place.abs() % period
    return torch.minimum(place, period - place) if length > 1 else torch.zeros_like(place)


def correlated(canvas: Tensor, kernels: Tensor) -> Tensor:
    """Every channel of ``N x C x H x W`` with the kernel of its picture (``N x a x b``), without a border.

    One group a channel: a depthwise filter keeps full float32 on a GPU, where an ordinary one may round to TF32, and
    adds up a pixel's products in the same order whatever lies beside it.
    """
    count, channels, height, width = canvas.shape
    if count * channels == 1:  # one group would be an ordinary filter, which adds up in another order
        return correlated(canvas.expand(-1, 2, -1, -1), kernels)[:, :1]
    kernels = kernels[:, None].expand(-1, channels, -1, -1).reshape(count * channels, 1, *kernels.shape[1:])
    planes = F.conv2d(canvas.reshape(1, count * channels, height, width), kernels, groups=count * channels)
    return planes.view(count, channels, *planes.shape[2:])


def by_groups(
    compute: Callable[[list[int]], list[Tensor]], sizes: Sequence[tuple[int, int]], together: int | None
) -> list[Tensor]:
    """Results of ``compute`` for each of :func:`groups`, in the pictures' order."""
    results: dict[int, Tensor] = {}
    for group in groups(sizes, together):
        results |= zip(group, compute(group), strict=True)
    return [results[index] for index in range(len(sizes))]
