"""Exemplar matching: colours fetched from the references, and how much the places resemble each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.nonlocal_match import match
from atelier.colorize.references import Anchor, References, Role
from atelier.errors import UserError

#: Every matcher works at 1/4 of the picture's size.
REDUCTION = 4


@dataclass(frozen=True)
class ReferenceCache:
    """What a matcher keeps of the references of a batch; made once, used for every frame.

    Keys of one reference do not depend on the others, so caches may be made one by one, joined and cut.

    Attributes:
        features: ``[B, K, C]`` float32 of unit length, the references' positions one after another.
        ab: ``[B, K, 2]``, the unit chroma at these positions.
        valid: ``[B, K]`` bool, False for positions that are padding; None: all count.
        counts: positions of each reference, K together.
    """

    features: Tensor
    ab: Tensor
    valid: Tensor | None
    counts: tuple[int, ...]

    @classmethod
    def join(cls, caches: Sequence[ReferenceCache]) -> ReferenceCache:
        """All references of several caches of the same batch."""
        masks = [cache.valid for cache in caches]
        valid = None
        if any(mask is not None for mask in masks):
            valid = torch.cat(
                [
                    torch.ones_like(cache.features[..., 0], dtype=torch.bool) if mask is None else mask
                    for cache, mask in zip(caches, masks, strict=True)
                ],
                dim=1,
            )
        return cls(
            torch.cat([cache.features for cache in caches], dim=1),
            torch.cat([cache.ab for cache in caches], dim=1),
            valid,
            tuple(count for cache in caches for count in cache.counts),
        )

    def select(self, kept: Sequence[int]) -> ReferenceCache:
        """The references with these numbers, in this order.

        Raises:
            ValueError: none, or a number that does not exist.
        """
        if not kept or not all(0 <= r < len(self.counts) for r in kept):
            raise ValueError(f"a selection of {len(self.counts)} references cannot be {list(kept)}")
        ends = torch.tensor(self.counts).cumsum(0).tolist()
        places = torch.cat([torch.arange(ends[r] - self.counts[r], ends[r]) for r in kept])
        places = places.to(self.features.device)
        return ReferenceCache(
            self.features[:, places],
            self.ab[:, places],
            None if self.valid is None else self.valid[:, places],
            tuple(self.counts[r] for r in kept),
        )

    def to(self, device: torch.device | str) -> ReferenceCache:
        """The same on ``device``."""
        valid = None if self.valid is None else self.valid.to(device)
        return ReferenceCache(self.features.to(device), self.ab.to(device), valid, self.counts)


class ExemplarMatcher(nn.Module, ABC):
    """Base of the matchers: what they have in common is everything but the features.

    Sides that are no multiple of ``size_multiple`` are padded by repeating the border; what lies there is neither
    compared nor returned.
    """

    #: Sides of pictures that the feature network takes.
    size_multiple: int
    #: How results are enlarged to full size: "nearest" (as the official network does) or "bilinear".
    enlarging: str

    def __init__(self, attention_chunk: int = 1024) -> None:
        super().__init__()
        self.attention_chunk = attention_chunk

    @abstractmethod
    def temperature(self) -> float | Tensor:
        """Of the softmax, now."""

    @abstractmethod
    def keys(self, lab: Tensor, valid: Tensor | None) -> Tensor:
        """Features ``[B, N, C]`` of one reference ``[B, 3, H, W]`` in unit LAB; ``valid`` ``[B, N]``, N = H/4 * W/4."""

    @abstractmethod
    def queries(self, lightness: Tensor, valid: Tensor | None) -> Tensor:
        """Features ``[B, N, C]`` of a frame's unit lightness ``[B, 1, H, W]``; ``valid`` as in :meth:`keys`."""

    def prepare(self, references: References) -> ReferenceCache:
        """Features of all references; one call of the feature network for each.

        Raises:
            UserError: a clip of the batch has no reference with an unpadded 4x4 block.
        """
        cache = ReferenceCache.join([self._prepare(references, r) for r in range(references.lab.shape[1])])
        if cache.valid is not None and not bool(cache.valid.any(dim=1).all()):
            raise UserError("a clip's references are nothing but padding, or smaller than 4x4 pixels")
        return cache

    def _prepare(self, references: References, r: int) -> ReferenceCache:
        lab = references.lab[:, r]
        if references.valid is None:
            return self._encode(lab, None)
        mask = references.valid[:, r]
        # Padding would cost time and disturb the networks' normalisations, so it is cut off before them.
        sizes = [(_extent(each[0].any(dim=1)), _extent(each[0].any(dim=0))) for each in mask]
        if len(set(sizes)) == 1:
            height, width = sizes[0]
            return self._encode(lab[..., :height, :width], mask[..., :height, :width])
        return _stacked(
            [
                self._encode(lab[b : b + 1, :, :height, :width], mask[b : b + 1, :, :height, :width])
                for b, (height, width) in enumerate(sizes)
            ]
        )

    def _encode(self, lab: Tensor, mask: Tensor | None) -> ReferenceCache:
        lab, blocks = self._padded(lab, mask)
        ab = F.avg_pool2d(lab[:, 1:].float(), REDUCTION).flatten(2).transpose(1, 2)
        return ReferenceCache(self.keys(lab, blocks), ab, blocks, (ab.shape[1],))

    def _padded(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(``x`` with sides that fit, which 4x4 blocks are picture throughout; None where all are)."""
        height, width = x.shape[-2:]
        right, below = -width % self.size_multiple, -height % self.size_multiple
        if mask is None:
            mask = torch.ones_like(x[:, :1], dtype=torch.bool)
        if right or below:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
            mask = F.pad(mask, (0, right, 0, below), value=False)
        blocks = F.avg_pool2d(mask.float(), REDUCTION).flatten(1) == 1
        return x, None if bool(blocks.all()) else blocks

    def match(self, lightness: Tensor, cache: ReferenceCache) -> tuple[Tensor, Tensor]:
        """Colours for a frame.

        Args:
            lightness: ``[B, 1, H, W]``, unit scale.
            cache: of the same batch.

        Returns:
            Unit ab ``[B, 2, H, W]``, and the cosine ``[B, 1, H, W]`` in [-1, 1] of the best match; float32.

        Raises:
            ValueError: the cache was made for another number of clips.
        """
        if len(lightness) != len(cache.features):
            raise ValueError(
                f"{len(lightness)} frames do not go with references of {len(cache.features)} clips"
            )
        padded, blocks = self._padded(lightness, None)
        found = match(
            self.queries(padded, blocks),
            cache.features,
            cache.ab,
            self.temperature(),
            valid=cache.valid,
            chunk=self.attention_chunk,
        )
        height, width = lightness.shape[-2:]
        rows, columns = padded.shape[-2] // REDUCTION, padded.shape[-1] // REDUCTION
        ab, similarity = (
            F.interpolate(
                each.transpose(1, 2).reshape(len(each), -1, rows, columns),
                scale_factor=REDUCTION,
                mode=self.enlarging,
            )[..., :height, :width]
            for each in found
        )
        return ab, similarity

    @torch.no_grad()
    def resemblance(self, lightness: Tensor, cache: ReferenceCache) -> Tensor:
        """How well each reference suits a frame: its mean similarity.

        One reference is compared at a time, so that memory does not grow with their number.

        Args:
            lightness: ``[B, 1, H, W]``, unit scale.
            cache: of the same batch.

        Returns:
            ``[B, R]`` in [-1, 1]; -1 where a reference is nothing but padding in that clip.
        """
        scores = []
        for r in range(len(cache.counts)):
            similarity = self.match(lightness, cache.select([r]))[1]
            scores.append(similarity.mean(dim=(1, 2, 3)).clamp(min=-1))
        return torch.stack(scores, dim=1)


def _stacked(items: Sequence[ReferenceCache]) -> ReferenceCache:
    """One batch out of clips whose reference differs in size."""
    count = max(item.counts[0] for item in items)
    features, ab, valid = [], [], []
    for item in items:
        missing = count - item.counts[0]
        mask = torch.ones_like(item.features[..., 0], dtype=torch.bool) if item.valid is None else item.valid
        features.append(F.pad(item.features, (0, 0, 0, missing)))
        ab.append(F.pad(item.ab, (0, 0, 0, missing)))
        valid.append(F.pad(mask, (0, missing), value=False))
    return ReferenceCache(torch.cat(features), torch.cat(ab), torch.cat(valid), (count,))


def _extent(used: Tensor) -> int:
    """One more than the last True of a vector; at least 1."""
    places = used.nonzero()
    return int(places[-1]) + 1 if len(places) else 1


def keep_references(
    roles: Sequence[Role], counts: Sequence[int], limit: int, frame: int, resemblance: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Which references stay when together they have more keys than memory shall hold.

    The anchors nearest to ``frame`` and the exemplars that resemble the scene most, taken in turns, so that many of
    one kind do not push out all of the other.

    Args:
        roles: of every reference.
        counts: keys of every reference (:attr:`ReferenceCache.counts`).
        limit: keys that may stay; the first choice stays even where it alone has more.
        frame: the anchors' distance is counted from here.
        resemblance: of every reference, higher is better; decides among exemplars, and among anchors as near.

    Returns:
        (numbers of those that stay, of those that are left out), both ascending.
    """
    numbers = range(len(roles))
    anchors = sorted(
        (
            (abs(role.frame - frame), -resemblance[r], r)
            for r, role in enumerate(roles)
            if isinstance(role, Anchor)
        )
    )
    exemplars = sorted((-resemblance[r], r) for r in numbers if not isinstance(roles[r], Anchor))
    queues = [[entry[-1] for entry in anchors], [entry[-1] for entry in exemplars]]
    ranked = [queue[place] for place in numbers for queue in queues if place < len(queue)]
    kept: list[int] = []
    total = 0
    for r in ranked:
        if kept and total + counts[r] > limit:
            break
        kept.append(r)
        total += counts[r]
    return sorted(kept), sorted(set(numbers) - set(kept))
