"""How many clips a training set has: what makes epochs steps."""

from __future__ import annotations

from atelier.data.clip_layouts import open_training
from atelier.data.clip_options import TrainClipsOptions
from atelier.data.options import CacheOptions
from atelier.images.video import VIDEO_SUFFIXES


def count_clips(options: TrainClipsOptions) -> int:
    """The clips of an epoch, as training will count them.

    Of pictures only the sizes are read, and nothing is written; video files are decoded into the shard cache, where
    training finds them.

    Raises:
        UserError: anything wrong with the material, all of it in one message.
    """
    films = any(
        entry.suffix.lower() in VIDEO_SUFFIXES
        for root in options.roots
        if root.is_dir()
        for entry in root.iterdir()
    )
    source = open_training(options, CacheOptions(enabled=films), quiet=not films)
    try:
        return len(source)
    finally:
        source.close()
