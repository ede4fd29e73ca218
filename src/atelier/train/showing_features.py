"""What a distilled run's report shows of the features that its terms compared."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from atelier.evaluate.feature_maps import FeaturePair, write_feature_maps
from atelier.objectives.base import Objective


def keep_feature_maps(objective: Objective, pictures: Tensor, folder: Path) -> None:
    """Write the maps on that of ``pictures`` [N, C, H, W] with the most contrast; nothing where none are compared."""
    place = int(pictures.flatten(1).var(1).argmax())
    lq = pictures[place : place + 1]
    maps = objective.feature_maps(lq)
    if maps:
        pairs = [FeaturePair(title, own.cpu().numpy(), other.cpu().numpy()) for title, own, other in maps]
        write_feature_maps(
            folder, (lq[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy(), pairs
        )
