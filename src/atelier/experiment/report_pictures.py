"""What a study's page shows of single pictures: crops where the arms disagree most, their errors, and sliders."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atelier.errors import UserError, did_you_mean
from atelier.evaluate.crops import CROP_SIDE, Crop, Window, largest_disagreement
from atelier.evaluate.embedding import Layer, Version, cut_layers, embed_versions
from atelier.evaluate.error_maps import Scale, Values, common_scale, signed_error
from atelier.evaluate.results import Pixels, ValidationResult, format_value
from atelier.evaluate.sections import MAX_BYTES, PictureCard
from atelier.experiment.measure import Judged, judged_network, pictures_of_test, weights_of
from atelier.experiment.options import PictureOptions
from atelier.experiment.plan import Plan
from atelier.experiment.results import Results

#: Pictures shown with a slider and a crop.
MAX_PICTURES = 6
#: Below and above zero: too dark and too bright; the arm farther from and nearer to the truth than the reference.
ERROR_COLOURS = ((33, 102, 172), (178, 24, 43))
GAIN_COLOURS = ((179, 88, 6), (27, 120, 55))


@dataclass(frozen=True)
class Place:
    """One crop: the versions, and below them their maps (kind of a version -> map); ``named``: the study file did."""

    crop: Crop
    errors: dict[str, Layer]
    gains: dict[str, Layer]
    named: bool = False


@dataclass(frozen=True)
class PictureParts:
    """Everything the page shows of pictures.

    Attributes:
        cards: sliders.
        places: crops, in the order of their disagreement.
        error: what the colours of the error maps mean.
        gain: what those of |error of the reference| - |error of an arm| mean.
        seeds: arm -> the seed whose network is shown.
        notes: what is not shown, and why.
        anchors: (test set, picture) -> where its slider stands.
    """

    cards: list[PictureCard] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    error: Scale | None = None
    gain: Scale | None = None
    seeds: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    anchors: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Shown:
    """A network whose outputs are shown: kind (as the template knows it), label, network, values per picture."""

    kind: str
    label: str
    network: Judged
    tests: Mapping[str, ValidationResult]


@dataclass(frozen=True)
class _Seen:
    """One picture in every version, before the scales of the maps are known."""

    test: str
    image: str
    versions: list[Version]
    crop: Crop
    errors: dict[str, Values]


def picture_parts(results: Results, teachers: Mapping[str, Mapping[str, ValidationResult]]) -> PictureParts:
    """Restore the chosen pictures with one network an arm (and the teachers) and cut what is shown.

    Args:
        results: the finished runs.
        teachers: file of each teacher that was measured -> test set -> its result.
    """
    seeds = shown_seeds(results)
    notes: list[str] = []
    arms = []
    for place, (name, seed) in enumerate(seeds.items()):
        run = results.runs[name, seed]
        path, key, _ = weights_of(results.plan.study, run.run)
        network = _network(results, path, key, f"{name}/seed_{seed}", notes)
        arms += [_Shown(f"a{place}", name, network, run.tests)] if network is not None else []
    if len(arms) < 2:
        return PictureParts(
            seeds=seeds, notes=[*notes, "Pictures are shown once two arms have a finished run."]
        )
    guides = []
    for place, (file, tests) in enumerate(teachers.items()):
        network = _network(results, Path(file), None, f"teacher {file}", notes)
        label = "teacher" if len(teachers) == 1 else f"teacher {Path(file).name}"
        guides += [_Shown(f"t{place}", label, network, tests)] if network is not None else []
    named = [PictureOptions(image=f"{test}/{image}") for test, image in most_disputed(results)]
    by_rule = len(named)
    named += [each for each in results.plan.study.pictures if each not in named]
    seen = [_look(results, each, arms, guides) for each in named]
    kind = next((each.kind for each in arms if each.label == results.plan.reference.name), None)
    gains = [_gains(each.errors, kind) for each in seen]
    error = common_scale((each for one in seen for each in one.errors.values()), *ERROR_COLOURS)
    every = [each for found in gains for each in found.values()]
    gain = common_scale(every, *GAIN_COLOURS) if every else None
    places = [
        Place(
            one.crop,
            {kind: _layer(kind, error, values) for kind, values in one.errors.items()},
            {kind: _layer(kind, gain, values) for kind, values in found.items()} if gain is not None else {},
            number >= by_rule,
        )
        for number, (one, found) in enumerate(zip(seen, gains, strict=True))
    ]
    once = list({(one.test, one.image): one for one in reversed(seen)}.values())[::-1]
    share = MAX_BYTES // len(once)
    cards = [_card(results, one, arms, guides, place, share) for place, one in enumerate(once)]
    anchors = {(one.test, one.image): card.anchor for one, card in zip(once, cards, strict=True)}
    return PictureParts(cards, places, error, gain, seeds, notes, anchors)


def shown_seeds(results: Results) -> dict[str, int]:
    """Arm -> seed: the first one that all paired arms finished, else (and for seeds of its own) an arm's first."""
    paired = [name for name, arm in results.plan.arms.items() if arm.paired and results.of(name)]
    shared = [
        seed for seed in results.plan.study.seeds if all((name, seed) in results.runs for name in paired)
    ]
    found = {}
    for name, arm in results.plan.arms.items():
        finished = list(results.of(name))
        if finished:
            found[name] = shared[0] if arm.paired and shared and shared[0] in finished else finished[0]
    return found


def most_disputed(results: Results, most: int = MAX_PICTURES) -> list[tuple[str, str]]:
    """(test set, picture): where the arms' primary metric (mean over seeds) spreads most, widest first."""
    metric = results.plan.study.primary.metric
    spreads: dict[tuple[str, str], float] = {}
    for test in results.plan.study.test:
        arms = [list(found.values()) for name in results.plan.arms if (found := results.of(name))]
        for image in arms[0][0].tests[test].images:
            values = [
                statistics.fmean(run.tests[test].images[image][metric] for run in runs) for runs in arms
            ]
            finite = [value for value in values if math.isfinite(value)]
            spreads[test, image] = max(finite) - min(finite) if finite else 0.0
    return sorted(spreads, key=lambda place: -spreads[place])[:most]


def _network(results: Results, path: Path, key: str | None, what: str, notes: list[str]) -> Judged | None:
    try:
        return judged_network(results.plan.reference.options, path, key)
    except UserError as error:
        notes.append(f"{what} is not shown: {error}")
        return None


def check_named(plan: Plan) -> None:
    """Raise :class:`~atelier.errors.UserError` where the study names a picture that its test sets do not hold."""
    for each in plan.study.pictures:
        test, _, image = each.image.partition("/")
        names = pictures_of_test(plan.study, plan.reference.options, test).names
        if image not in names:
            raise UserError(
                f"pictures: '{each.image}': the test set '{test}' has no picture '{image}'"
                f"{did_you_mean(image, names)} pictures: {', '.join(names)}"
            )


def window_at(at: tuple[int, int], pixels: Pixels, scale: int) -> Window:
    """The crop whose left and top are ``at``, moved to whole lq pixels and into the picture."""
    height, width = (max(scale, min(length, CROP_SIDE) // scale * scale) for length in pixels.shape[:2])
    left, top = (
        min(place, length - side) // scale * scale
        for place, length, side in zip(at, (pixels.shape[1], pixels.shape[0]), (width, height), strict=True)
    )
    return top, left, height, width


def _look(results: Results, picture: PictureOptions, arms: list[_Shown], guides: list[_Shown]) -> _Seen:
    options, study = results.plan.reference.options, results.plan.study
    test, _, image = picture.image.partition("/")
    pictures = pictures_of_test(study, options, test)
    pair = pictures[pictures.names.index(image)]
    outputs = {each.kind: each.network.output(pair.lq, pair.gt.dtype) for each in (*arms, *guides)}
    labels = {each.kind: each.label for each in (*arms, *guides)}
    enlarged = f" (pixels enlarged ×{options.scale})" if options.scale > 1 else " (input)"
    versions = [
        Version("lq", f"lq{enlarged}", pair.lq, options.scale),
        *(Version(kind, labels[kind], pixels) for kind, pixels in outputs.items()),
        Version("gt", "gt (original)", pair.gt),
    ]
    if picture.at is not None:
        window = window_at(picture.at, pair.gt, options.scale)
    else:
        window = largest_disagreement([outputs[each.kind] for each in arms], CROP_SIDE, options.scale)
    top, left, height, width = window
    metric = study.metrics[study.primary.metric].build(options.scale, options.network_g.out_channels)
    values = {
        each.label: format_value(each.tests[test].images[image][study.primary.metric], metric.protocol)
        for each in (*arms, *guides)
    }
    crop = Crop(f"{test}/{image}", cut_layers(versions, window), width, height, left, top, values)
    errors = {kind: _cut(signed_error(pixels, pair.gt), window) for kind, pixels in outputs.items()}
    return _Seen(test, image, versions, crop, errors)


def _cut(values: Values, window: Window) -> Values:
    top, left, height, width = window
    return values[top : top + height, left : left + width]


def _gains(errors: Mapping[str, Values], reference: str | None) -> dict[str, Values]:
    """|error of the reference| - |error of another|: above zero where the other is nearer to the truth."""
    if reference is None:
        return {}
    base = np.abs(errors[reference])
    return {kind: base - np.abs(values) for kind, values in errors.items() if kind != reference}


def _layer(kind: str, scale: Scale, values: Values) -> Layer:
    painted: Pixels = scale.paint(values)
    window = (0, 0, *values.shape)
    return cut_layers([Version(kind, kind, painted)], (window[0], window[1], window[2], window[3]))[0]


def _card(
    results: Results, one: _Seen, arms: list[_Shown], guides: list[_Shown], place: int, share: int
) -> PictureCard:
    """The slider: the reference on the left, on the right the best of the arms that do not equal it."""
    primary = results.plan.study.primary.metric
    reference = next((each for each in arms if each.label == results.plan.reference.name), arms[0])
    known = list(results.scores(reference.label, results.main_set, primary).values())
    means = {
        each.kind: statistics.fmean(values)
        for each in arms
        if each is not reference
        and (values := list(results.scores(each.label, results.main_set, primary).values()))
        and values != known
    }
    higher = arms[0].tests[one.test].metrics[primary].higher_is_better
    best = (max if higher else min)(means, key=lambda kind: means[kind]) if means else arms[-1].kind
    protocol = arms[0].tests[one.test].metrics[primary].protocol
    shown = " · ".join(f"{each.label} {one.crop.values[each.label]}" for each in (*arms, *guides))
    picture = embed_versions(one.versions, share)
    return PictureCard(
        f"picture-{place}", one.crop.image, picture, [f"{protocol}: {shown}"], "", reference.kind, best
    )
