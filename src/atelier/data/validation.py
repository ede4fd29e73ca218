"""Validation pictures: whole pairs, the same at every validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from atelier.data.channels import fit_channels
from atelier.data.options import ValImagesOptions
from atelier.data.pairs import open_pictures
from atelier.data.sources import Item
from atelier.degrade.base import Degradation, Pixels
from atelier.errors import UserError
from atelier.randomness import Streams


@dataclass(frozen=True)
class Pair:
    """One validation picture.

    Attributes:
        name: unique in its set, usable as a file name.
        lq: ``h x w x C`` pixels as they are in the file, or float32 where a degradation leaves whole levels.
        gt: ``h*scale x w*scale x C`` pixels.
    """

    name: str
    lq: Pixels
    gt: Pixels


class ValidationSet(Sequence[Pair]):
    """A list of pairs, decoded when asked for.

    Args:
        options: the data set.
        scale: gt side / lq side.
        degradation: the run's; makes lq where the set has neither ``dataroot_lq`` nor a degradation of its own.
            Randomness comes from ``Streams(seed, 0, i)``.
        seed: the run's ``manual_seed``.
        in_channels: of the network.

    Raises:
        UserError: anything wrong with the pictures, all of it in one message.
    """

    def __init__(
        self,
        options: ValImagesOptions,
        *,
        scale: int,
        degradation: Degradation | None,
        seed: int,
        in_channels: int,
    ) -> None:
        self.name, self.scale, self.seed, self.in_channels = options.name, scale, seed, in_channels
        self._pictures = open_pictures(options, scale=scale, in_channels=in_channels)
        if options.degradation is not None:
            degradation = options.degradation.build(scale)
        self._grey_from = options.grey_from
        self._degradation = (
            degradation.for_whole_pictures()
            if degradation is not None and self._pictures.lq is None
            else None
        )
        if self._pictures.lq is None and degradation is None:
            raise UserError(
                f"data set '{options.name}' has no dataroot_lq, so a degradation must make lq of its clean pictures"
            )
        self.names = unique_names(self._pictures.gt.items)[: options.most]
        self._middle = options.middle
        self.fingerprint = self._pictures.fingerprint

    def __len__(self) -> int:
        return len(self.names)

    def sizes(self) -> list[tuple[str, int, int]]:
        """(place, height, width) of each gt as it is measured, in pixels, known from the pictures' headers."""
        items = self._pictures.gt.items
        sizes = [self._measured_size(index) for index in range(len(self))]
        return [
            (items[index].place, height * self.scale, width * self.scale)
            for index, (height, width) in enumerate(sizes)
        ]

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        """Pair ``index``; raises :class:`UserError` naming a picture that cannot be read."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        pictures = self._pictures
        gt = self._part(pictures.gt.read(index), index, self.scale)
        if pictures.lq is not None:
            lq = self._part(pictures.lq.read(index), index, 1)
        else:
            assert self._degradation is not None
            streams = Streams(self.seed, 0, index)
            parameters = self._degradation.draw(streams, (gt.shape[0], gt.shape[1], gt.shape[2]))
            lq = self._degradation.apply(gt, parameters, streams)
            gt = self._degradation.target(gt, parameters, streams)
        return Pair(self.names[index], lq, gt)

    def _part(self, picture: Pixels, index: int, unit: int) -> Pixels:
        """What is measured of a picture, with the network's channels; ``unit``: the side of an lq pixel in it."""
        height, width, _ = self._pictures.lq_shapes[index]
        down, across = self._measured_size(index)
        top, left = (height - down) // 2 * unit, (width - across) // 2 * unit
        part = picture[top : top + down * unit, left : left + across * unit]
        return fit_channels(np.ascontiguousarray(part), self.in_channels, self._grey_from)

    def _measured_size(self, index: int) -> tuple[int, int]:
        """(height, width) of what is measured of a picture, in lq pixels."""
        height, width, _ = self._pictures.lq_shapes[index]
        return min(height, self._middle or height), min(width, self._middle or width)


def unique_names(items: Sequence[Item]) -> list[str]:
    """A short name for each picture: its stem, longer by folders and suffix where stems repeat."""
    names = [item.stem.rpartition("/")[2] for item in items]
    choices = (
        [item.stem.replace("/", "_") for item in items],
        [item.name.replace("/", "_").replace(".", "_") for item in items],
        [f"{item.group}_{item.name.replace('/', '_').replace('.', '_')}" for item in items],
        [f"{number:05d}_{item.stem.replace('/', '_')}" for number, item in enumerate(items)],
    )
    for better in choices:
        seen: dict[str, int] = {}
        for name in names:
            seen[name] = seen.get(name, 0) + 1
        if max(seen.values(), default=1) == 1:
            break
        names = [new if seen[name] > 1 else name for name, new in zip(names, better, strict=True)]
    return names
