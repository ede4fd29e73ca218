"""What ``atelier data check`` tells of clips: that they can be opened, and where references come from."""

from __future__ import annotations

from atelier.data.clip_layouts import open_training
from atelier.data.clip_options import TrainClipsOptions, ValClipsOptions
from atelier.data.options import CacheOptions


def check_clips(
    train: TrainClipsOptions,
    validation: dict[str, ValClipsOptions],
    cache: CacheOptions,
    *,
    quiet: bool = False,
) -> list[str]:
    """Open all sets of clips of a run, as training would, and count the clips that each rule of references serves.

    Frames and references are decoded into the shard cache (where it is in use), so damaged ones are found.

    Returns:
        Lines to print.

    Raises:
        UserError: anything wrong with a set, all of it in one message.
    """
    source = open_training(train, cache, quiet=quiet)
    lines = [f"train: {len(source)} {train.sample_size}, {train.summary()}"]
    lines += [f"  reference from {rule}: {count}" for rule, count in source.rules().items()]
    either = source.rules().get("either", 0)
    if either:
        share = train.reference.external
        lines.append(
            f"    of these about {share * either:.0f} from the list (external {share:g}), the rest from the film"
        )
    lines += [f"  note: {note}" for note in source.notes]
    source.close()
    for key, options in validation.items():
        films = options.open(cache=cache, quiet=quiet)
        lines.append(f"{key}: {len(films)} films to measure, {options.summary()}")
        lines += [f"  reference from {rule}: {count}" for rule, count in films.source.rules().items()]
        lines += [f"  note: {note}" for note in films.source.notes]
        films.close()
    return lines
