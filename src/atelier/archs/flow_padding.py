"""Padding of pictures for flow networks that work at an eighth of the size on a pyramid of four levels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Borders(NamedTuple):
    """How many pixels were added on each side."""

    left: int
    right: int
    top: int
    bottom: int

    @classmethod
    def around(cls, height: int, width: int, multiple: int = 8, least: int = 128) -> Borders:
        """Sides become multiples of ``multiple`` and at least ``least``; split evenly, the odd pixel right and below.

        The default ``least`` leaves the fourth level of an eighth two positions a side.
        """
        across = max(-(-width // multiple) * multiple, least) - width
        down = max(-(-height // multiple) * multiple, least) - height
        return cls(across // 2, across - across // 2, down // 2, down - down // 2)

    def pad(self, picture: Tensor) -> Tensor:
        """``[B, C, H, W]`` with its border pixels repeated outwards."""
        return F.pad(picture, list(self), mode="replicate") if any(self) else picture

    def crop(self, padded: Tensor) -> Tensor:
        """The part of ``[B, C, H', W']`` that is not padding."""
        height, width = padded.shape[-2:]
        return padded[..., self.top : height - self.bottom, self.left : width - self.right]
