"""True clips in unit LAB for tests of the colouring terms."""

from __future__ import annotations

import torch
from torch import Tensor

from atelier.data.synthetic_clips import TRAINING, bundled_clip
from atelier.images.lab import LabScale, rgb_to_lab
from atelier.randomness import Streams


def true_clip(sample: int, frames: int = 4, size: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    """LAB ``[1, T, 3, H, W]``, flow ``[1, T, 2, H, W]`` and valid ``[1, T, 1, H, W]`` of a synthetic clip."""
    clip = bundled_clip(TRAINING, frames, size, Streams(11, 1, sample)("clip"))
    rgb = torch.from_numpy(clip.rgb).permute(0, 3, 1, 2).float() / 255
    lab = LabScale.UNIT.normalise(rgb_to_lab(rgb))
    return lab[None], torch.from_numpy(clip.flow)[None], torch.from_numpy(clip.valid)[None, :, None].float()


def random_lab(*batch: int, size: int = 16, seed: int = 0) -> Tensor:
    """Unit LAB ``[*batch, 3, size, size]`` of random sRGB pictures."""
    rgb = torch.rand(*batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return LabScale.UNIT.normalise(rgb_to_lab(rgb))
