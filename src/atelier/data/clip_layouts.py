"""Opens the clips that an option file describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atelier.data.clip_sources import ClipSource
from atelier.data.clip_synthetic import SyntheticClips, SyntheticFilms
from atelier.data.clip_validation import ClipValidation
from atelier.data.synthetic_clips import HELD_OUT, TRAINING

if TYPE_CHECKING:
    from atelier.data.clip_options import TrainClipsOptions, ValClipsOptions
    from atelier.data.options import CacheOptions


def open_training(options: TrainClipsOptions, cache: CacheOptions, *, quiet: bool = False) -> ClipSource:
    """The clips to train on, checked.

    Raises:
        UserError: anything wrong with the material, all of it in one message.
    """
    return SyntheticClips(
        options.pictures or TRAINING,
        frames=options.clip_length,
        size=options.crop_size[0],
        gap=options.reference.min_gap,
        anchor=options.reference.anchor,
        exemplars=options.reference.count,
    )


def open_validation(options: ValClipsOptions, cache: CacheOptions, *, quiet: bool = False) -> ClipValidation:
    """The films to measure on, checked.

    Raises:
        UserError: anything wrong with the material, all of it in one message.
    """
    assert options.clip_length is not None
    source = SyntheticFilms(
        options.pictures or HELD_OUT,
        clips=options.clips,
        frames=options.clip_length,
        size=options.short_side,
        seed=options.seed,
        anchor=options.reference.role == "anchor",
    )
    return ClipValidation(options, source, [f"synthetic_{number}" for number in range(len(source))])
