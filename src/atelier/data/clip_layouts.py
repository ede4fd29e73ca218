"""Opens the clips that an option file describes, and tells of everything that is wrong with them in one message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atelier.data.clip_films import ClipPlace, Film, FilmClips, FilmsToMeasure, Rules, short_list, windows
from atelier.data.clip_folders import folder_films
from atelier.data.clip_frames import Between, Cover, Fit, FrameSource, Size, remembered
from atelier.data.clip_names import Wanted, film_names, numbered
from atelier.data.clip_pairs import PairClips
from atelier.data.clip_samples import unit_lab
from atelier.data.clip_sources import ClipSource
from atelier.data.clip_synthetic import SyntheticClips, SyntheticFilms
from atelier.data.clip_tables import PAIRS, TableRoots, find_table, read_table, table_films
from atelier.data.clip_validation import ClipValidation
from atelier.data.shards import Reader, ShardCache
from atelier.data.sources import Shape, digest, listed, parallel
from atelier.data.synthetic_clips import HELD_OUT, TRAINING
from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.data.clip_options import ClipsOptions, TrainClipsOptions, ValClipsOptions
    from atelier.data.options import CacheOptions

#: Pictures whose colours deviate less than this (in Lab units) from their mean are grey.
GREY = 1.0
#: Synthetic motion needs a picture of 1.25 sides of the clip; what is above two sides is never seen sharply.
_LEAST, _MOST = 1.25, 2.0


@dataclass(frozen=True)
class _Opened:
    films: list[Film]
    places: list[ClipPlace]
    reader: Reader
    notes: list[str]


def open_training(options: TrainClipsOptions, cache: CacheOptions, *, quiet: bool = False) -> ClipSource:
    """The clips to train on, checked.

    Raises:
        UserError: anything wrong with the material, all of it in one message.
    """
    reference, side = options.reference, options.crop_size[0]
    if options.layout == "synthetic":
        return SyntheticClips(
            options.pictures or TRAINING,
            frames=options.clip_length,
            size=side,
            gap=reference.min_gap,
            anchor=reference.anchor,
            exemplars=reference.count,
        )
    key = f"data set '{options.name}'"
    if options.layout == "pairs":
        return _open_pairs(options, cache, key, quiet=quiet)
    opened = _open_films(
        options,
        cache,
        key,
        crop=options.crop_size,
        length=options.clip_length,
        references=reference.external > 0 and reference.count > 0,
        motion=True,
        quiet=quiet,
    )
    rules = Rules(reference.external, reference.min_gap, reference.count, reference.anchor)
    try:
        return FilmClips(
            opened.films,
            opened.places,
            opened.reader,
            crop=options.crop_size,
            rules=rules,
            key=key,
            notes=opened.notes,
        )
    except UserError:
        opened.reader.close()
        raise


def open_validation(options: ValClipsOptions, cache: CacheOptions, *, quiet: bool = False) -> ClipValidation:
    """The films to measure on, checked.

    Raises:
        UserError: anything wrong with the material, all of it in one message.
    """
    reference = options.reference
    if options.layout == "synthetic":
        assert options.clip_length is not None
        clips = SyntheticFilms(
            options.pictures or HELD_OUT,
            clips=options.clips,
            frames=options.clip_length,
            size=options.crop[0] if options.crop else options.short_side,
            seed=options.seed,
            anchor=reference.role == "anchor",
        )
        return ClipValidation(options, clips, [f"synthetic_{number}" for number in range(len(clips))])
    key = f"data set '{options.name}'"
    chosen = reference.source == "listed"
    opened = _open_films(
        options, cache, key, crop=options.crop, length=2, references=chosen, motion=False, quiet=quiet
    )
    without = [film.name for film in opened.films if chosen and len(film.references_of(0)) < reference.count]
    if without:
        opened.reader.close()
        raise UserError(
            f"{key}: reference.source: listed needs {reference.count} listed reference"
            f"{'s' * (reference.count > 1)} of each film; too few: {short_list(without)}"
        )
    films = FilmsToMeasure(
        opened.films,
        opened.reader,
        length=options.clip_length,
        crop=options.crop,
        listed=reference.count if chosen else 0,
        anchor=reference.role == "anchor",
        notes=opened.notes,
    )
    return ClipValidation(options, films, numbered([film.name.replace("/", "_") for film in opened.films]))


def _open_films(
    options: ClipsOptions,
    cache: CacheOptions,
    key: str,
    *,
    crop: Size | None,
    length: int,
    references: bool,
    motion: bool,
    quiet: bool,
) -> _Opened:
    """Films of the layouts ``folders`` and ``csv``.

    Args:
        length: how many frames one needs at least.
        references: whether lists of references are read.
        motion: whether the motion that tables name is used.
    """
    roots = options.roots
    fit = Cover(options.short_side, crop)
    title = ", ".join(map(str, roots))
    named = [*roots, *options.csv, *options.reference_roots]
    identity = digest(
        ["clips", options.layout, repr(fit), str(references), *(str(p.absolute()) for p in named)]
    )
    source = FrameSource(title, identity)
    films: list[Film] = []
    owners: list[Path] = []
    places: list[ClipPlace] = []
    if options.layout == "folders":
        problems: list[str] = []
        for root in roots:
            made, wrong = folder_films(root, source, fit, cache, references=references)
            films, problems, owners = films + made, problems + wrong, owners + [root] * len(made)
        if problems:
            raise listed(f"{key}: films that cannot be used:", problems)
        places = windows(films, length)
    else:
        moving: dict[bool, Path] = {}
        for number, root in enumerate(roots):
            table = find_table(root, options.table(number), key)
            made, more = table_films(
                table,
                TableRoots(
                    root,
                    options.flow_roots[number] if options.flow_roots else root,
                    options.mask_roots[number] if options.mask_roots else root,
                    options.reference_roots or [root],
                ),
                source,
                fit,
                length=length,
                first_film=len(films),
                references=references,
                key=key,
            )
            moving.setdefault(any(place.motion is not None for place in more), table)
            films, places, owners = films + made, places + more, owners + [root] * len(made)
        if motion and len(moving) > 1:
            raise UserError(
                f"{key}: {moving[True]} names motion and {moving[False]} names none; the clips of a step need the "
                "same: take tables of one kind"
            )
    if len(roots) > 1:
        names = film_names([(root, film.name) for root, film in zip(owners, films, strict=True)])
        films = [replace(film, name=name) for film, name in zip(films, names, strict=True)]
    short = [f"{film.name} ({len(film.frames)})" for film in films if len(film.frames) < length]
    if short:
        raise UserError(
            f"{key}: {len(short)} film{'s' * (len(short) > 1)} with fewer frames than the {length} that a clip needs: "
            f"{short_list(short)}"
        )
    reader = _open_reader(source, cache, key, quiet=quiet)
    try:
        films, notes = _without_grey(films, source, reader, cache, key)
        _check_colours(films, source, reader, cache, key)
    except UserError:
        reader.close()
        raise
    return _Opened(films, places, reader, notes)


def _open_pairs(options: TrainClipsOptions, cache: CacheOptions, key: str, *, quiet: bool) -> PairClips:
    side = options.crop_size[0]
    source = FrameSource(
        ", ".join(map(str, options.roots)),
        digest(
            [
                "pairs",
                str(side),
                *(str(path.absolute()) for path in (*options.roots, *options.reference_roots)),
            ]
        ),
    )
    picture_fit, reference_fit = Between(int(np.ceil(_LEAST * side)), int(_MOST * side)), Cover(side)
    wanted = Wanted()
    named = []
    for number, root in enumerate(options.roots):
        _, rows = read_table(find_table(root, options.table(number), key), (PAIRS,), references=False)
        for row in rows:
            picture = wanted(root / row.values["image"], row.place)
            reference = wanted.among(options.reference_roots or [root], row.values["reference"], row.place)
            if os.path.realpath(picture) == os.path.realpath(reference):
                raise UserError(f"{row.place}: a picture is its own reference: {picture}")
            named.append((picture, reference))
    wanted.check(key)
    places: dict[tuple[Path, bool], int] = {}
    for pair in named:
        for path, is_reference in zip(pair, (False, True), strict=True):
            if (path, is_reference) not in places:
                fit: Fit = reference_fit if is_reference else picture_fit
                places[path, is_reference] = source.add_picture(path, fit)
    reader = _open_reader(source, cache, key, quiet=quiet)
    numbers = [(places[picture, False], places[reference, True]) for picture, reference in named]
    grey = _grey_ones(sorted({reference for _, reference in numbers}), source, reader, cache)
    kept = [pair for pair in numbers if pair[1] not in grey]
    if not kept:
        reader.close()
        raise UserError(
            f"{key}: every reference is grey: {short_list([reader.places[each] for each in grey])}"
        )
    return PairClips(
        kept,
        reader,
        frames=options.clip_length,
        size=side,
        anchor=options.reference.anchor,
        exemplars=options.reference.count,
        notes=_grey_note(grey, reader),
    )


def _open_reader(source: FrameSource, cache: CacheOptions, key: str, *, quiet: bool) -> Reader:
    shards = ShardCache(cache, quiet=quiet)
    known = shards.lookup(source) if cache.enabled else None
    shapes: Sequence[Shape | UserError] = known.shapes if known else parallel(source.shape, len(source))
    problems = [str(shape) for shape in shapes if isinstance(shape, UserError)]
    if problems:
        raise listed(f"{key}: pictures that cannot be read:", problems)
    return shards.open(source, [shape for shape in shapes if not isinstance(shape, UserError)])


def _without_grey(
    films: Sequence[Film], source: FrameSource, reader: Reader, cache: CacheOptions, key: str
) -> tuple[list[Film], list[str]]:
    """Films without the grey pictures in their lists, and a note that names them."""
    named = sorted({item for film in films for each in film.external for item in each})
    grey = _grey_ones(named, source, reader, cache)
    if not grey:
        return list(films), []
    kept = [
        replace(film, external=[tuple(item for item in each if item not in grey) for each in film.external])
        for film in films
    ]
    emptied = [
        before.name
        for before, after in zip(films, kept, strict=True)
        if any(old and not new for old, new in zip(before.external, after.external, strict=True))
    ]
    if emptied:
        raise UserError(
            f"{key}: all listed references of {short_list(emptied)} are grey (a reference gives the colours): "
            f"{short_list([reader.places[item] for item in sorted(grey)])}"
        )
    return kept, _grey_note(grey, reader)


def _check_colours(
    films: Sequence[Film], source: FrameSource, reader: Reader, cache: CacheOptions, key: str
) -> None:
    """Raise :class:`UserError` for films whose first, middle and last frame are grey: they have no colours to learn."""
    looked = [{film.frames[0], film.frames[len(film.frames) // 2], film.frames[-1]} for film in films]
    grey = _grey_ones(sorted(set().union(*looked)), source, reader, cache)
    dull = [film.name for film, items in zip(films, looked, strict=True) if items <= grey]
    if dull:
        raise UserError(
            f"{key}: {len(dull)} film{'s' * (len(dull) > 1)} without colours (first, middle and last frame are grey); "
            f"colours are learned from colour films: {short_list(dull)}"
        )


def _grey_note(grey: set[int], reader: Reader) -> list[str]:
    if not grey:
        return []
    names = short_list([reader.places[item] for item in sorted(grey)])
    return [f"{len(grey)} grey reference{'s' * (len(grey) > 1)} left out: {names}"]


def _grey_ones(items: Sequence[int], source: FrameSource, reader: Reader, cache: CacheOptions) -> set[int]:
    """Which of these pictures are grey; remembered, because it takes a look at each of them."""
    if not items:
        return set()
    key = digest(["grey", source.identity, source.content, *map(str, items)])
    return set(remembered(cache, key, lambda: [item for item in items if is_grey(reader, item)]))


def is_grey(reader: Reader, item: int) -> bool:
    """Whether a and b of a picture deviate from their means by less than 1 in Lab units (root of both variances)."""
    picture = reader.picture(item)
    every = max(1, min(picture.shape[:2]) // 64)
    ab = unit_lab([picture[::every, ::every]])[0, 1:] * 127
    return float(ab.var(dim=(1, 2), correction=0).sum().sqrt()) < GREY
