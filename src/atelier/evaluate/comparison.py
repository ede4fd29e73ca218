"""Several models on the same pictures, beside nearest and bicubic enlargement: quality, differences, cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from atelier.errors import RunStopped, UserError
from atelier.evaluate.bootstrap import mean_interval
from atelier.evaluate.latency import (
    Cost,
    common_size,
    measure_cost,
    measure_times,
    timing_protocol,
    why_it_stopped,
)
from atelier.evaluate.pictures import PairSource
from atelier.evaluate.results import MetricLike, Pixels, ValidationResult, as_dtype
from atelier.evaluate.validation import Restore, validate
from atelier.images import imresize
from atelier.metrics.colour_shift import ColourShiftOptions
from atelier.metrics.lpips import LPIPSOptions, WeightsMissing
from atelier.metrics.psnr import PSNROptions
from atelier.metrics.ssim import SSIMOptions
from atelier.progress import progress
from atelier.ranks import Crew
from atelier.restore import RestorationModel
from atelier.restore.exported import ExportedFacts

#: Restored pictures kept in memory for the report; others are restored again when they are shown.
_KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Candidate:
    """One model with its weight file and the name it has in the tables."""

    label: str
    path: Path
    model: RestorationModel


@dataclass(frozen=True)
class Change:
    """Mean of the paired differences against the first model, its 95 % interval, and on how many pictures better."""

    mean: float
    interval: tuple[float, float] | None
    better: int
    count: int


@dataclass(frozen=True)
class Column:
    """One model, or plain enlargement, with everything measured of it.

    Attributes:
        label: its name in the tables.
        is_model: False for nearest, bicubic, or the input itself (scale 1).
        result: per picture and mean.
        intervals: metric -> 95 % interval of the mean, None for fewer than two pictures.
        changes: metric -> against the first model; empty for the first.
        cost: of models, where asked for.
    """

    label: str
    is_model: bool
    result: ValidationResult
    intervals: Mapping[str, tuple[float, float] | None]
    changes: Mapping[str, Change]
    cost: Cost | None = None


@dataclass
class Comparison:
    """Everything measured.

    Attributes:
        where: the gt folder, as given.
        scale: of all models.
        columns: the models in the order given, then nearest and bicubic (the input at scale 1).
        judged, original: labels of the model the criteria judge, and of the one it is compared with.
        size: input (height, width) of times, multiply-adds and memory: what was asked for, rounded up to what all
            models take.
        protocol: how the numbers came about, one sentence each.
        not_computed: metric or measure -> why, where no model has it; for single models see :meth:`missing`.
        failed: (picture, reason) of pictures that could not be measured with every model.
        pictures: the sources of those that could.
        restored: picture -> label -> pixels, as far as they were kept.
    """

    where: str
    scale: int
    columns: list[Column]
    judged: str
    original: str | None
    size: tuple[int, int]
    protocol: list[str]
    not_computed: dict[str, str]
    failed: list[tuple[str, str]]
    pictures: dict[str, PairSource] = field(repr=False, default_factory=dict)
    methods: dict[str, tuple[nn.Module, Restore]] = field(repr=False, default_factory=dict)
    restored: dict[str, dict[str, Pixels]] = field(repr=False, default_factory=dict)

    @property
    def models(self) -> list[Column]:
        """The columns of models."""
        return [column for column in self.columns if column.is_model]

    @property
    def first(self) -> Column:
        """The model that others are compared with."""
        return self.columns[0]

    def values(self) -> dict[str, dict[str, float]]:
        """Label -> measure -> value, as success criteria name them."""
        found = {}
        for column in self.columns:
            values = {key: mean.value for key, mean in column.result.metrics.items()}
            if column.cost is not None:
                cost, ratio = column.cost, self.time_ratio(column)
                values["file_mb"] = cost.file_bytes / 1e6
                if cost.parameters is not None:
                    values["parameters"] = float(cost.parameters)
                if cost.memory_bytes is not None:
                    values["memory_mb"] = cost.memory_bytes / 1e6
                if cost.macs is not None:
                    values["macs"] = float(cost.macs)
                if cost.timing is not None:
                    values["latency_ms"] = 1e3 * cost.timing.median
                if ratio is not None:
                    values["latency_ratio"] = ratio
            found[column.label] = values
        return found

    def why_not(self, label: str) -> dict[str, str]:
        """Measure -> why the column ``label`` has no value for it, as far as there is more to say than that."""
        cost = next(column.cost for column in self.columns if column.label == label)
        return {**(cost.not_known if cost is not None else {}), **self.not_computed}

    def missing(self) -> list[tuple[str, str]]:
        """(what, why) of all that was not computed, for all models and then for single ones."""
        lacking: dict[tuple[str, str], list[str]] = {}
        for column in self.models:
            measures: dict[str, list[str]] = {}
            for measure, why in (column.cost.not_known if column.cost is not None else {}).items():
                if measure not in self.not_computed:
                    measures.setdefault(why, []).append(measure)
            for why, names in measures.items():
                lacking.setdefault((", ".join(names), why), []).append(column.label)
        single = [(f"{names} of {', '.join(labels)}", why) for (names, why), labels in lacking.items()]
        return [*self.not_computed.items(), *single]

    def time_ratio(self, column: Column) -> float | None:
        """Median time over the first model's."""
        first = self.first.cost
        if column.cost is None or first is None or column.cost.timing is None or first.timing is None:
            return None
        return column.cost.timing.median / first.timing.median

    def restore(self, picture: str, label: str) -> Pixels:
        """What ``label`` made of ``picture``, in the gt's type."""
        kept = self.restored.get(picture, {}).get(label)
        if kept is not None:
            return kept
        pair = self.pictures[picture].read(self.scale)
        net, method = self.methods[label]
        return as_dtype(method(net, pair.lq), pair.gt.dtype)


def labels_of(paths: Sequence[Path]) -> list[str]:
    """A short, unique name for each weight file: its stem, with as many folders before it as it takes.

    Raises:
        UserError: a file is given twice.
    """
    parts = [[*path.resolve().parent.parts[1:], path.stem] for path in paths]
    for many in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(each[-many:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    names = [path.name for path in paths]
    labels = ["/".join([*each[-2:-1], name]) for each, name in zip(parts, names, strict=True)]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"model {twice} is given twice")
    return labels


def common_scale(candidates: Sequence[Candidate]) -> int:
    """The scale of all models; a :class:`UserError` lists them where they differ."""
    scales = {candidate.model.scale for candidate in candidates}
    if len(scales) > 1:
        listed = ", ".join(f"{each.label} ×{each.model.scale}" for each in candidates)
        raise UserError(f"models of different scales cannot be compared on the same pictures: {listed}")
    return scales.pop()


def compare(
    candidates: Sequence[Candidate],
    pictures: Sequence[PairSource],
    *,
    where: str,
    crop_border: int | None = None,
    size: tuple[int, int] = (128, 128),
    timed: bool = True,
    tile: int | None = None,
    failed: Sequence[tuple[str, str]] = (),
    judged: str | None = None,
    original: str | None = None,
    quiet: bool = False,
    crew: Crew | None = None,
) -> Comparison | None:
    """Measure every model on every picture, beside nearest and bicubic enlargement.

    Args:
        candidates: the models, of one scale; differences are against the first.
        pictures: what to measure on.
        where: the gt folder, for the report.
        crop_border: pixels of gt cut off every side; None: the scale.
        size: input (height, width) of times, multiply-adds and memory, rounded up to what all models take. A model
            that does not run at this size goes without them.
        timed: measure latency.
        tile: side of tiles in lq pixels; None: automatic.
        failed: (picture, reason) of pictures already known to be unusable.
        judged: label of the model the criteria judge; None: the last but one (the only one).
        original: label of the one it is compared with; None: the last one of several.
        quiet: no progress bar.
        crew: processes that share the pictures, each called with the same arguments; None: this one does all.

    Returns:
        Everything measured, as one process would give it; None on all processes of a crew but the first.

    Raises:
        UserError: scales differ, a label is unknown, or not a single picture could be measured.
        RunStopped: a process of the crew is gone.
    """
    scale = common_scale(candidates)
    judged, original = _roles([each.label for each in candidates], judged, original)
    crop = scale if crop_border is None else crop_border
    methods = _methods(candidates, scale, tile)
    asked, size = size, common_size([each.model for each in candidates], size)
    costs = []
    if crew is None or crew.first:
        # First of all: whoever waits for thousands of pictures should not learn in the end what does not run.
        costs = [measure_cost(each.model, each.path, size) for each in candidates]
    images: dict[str, dict[str, Mapping[str, float]]] = {label: {} for label in methods}
    wrong = list(failed)
    kept: dict[str, dict[str, Pixels]] = {}
    good: dict[str, PairSource] = {}
    metrics_of: dict[int, tuple[dict[str, MetricLike], dict[str, str]]] = {}
    room, made = _KEPT_BYTES, 0
    mine: list[_Measured] = []
    share = range(len(pictures)) if crew is None else crew.claims(len(pictures))
    with progress("Measuring", len(pictures), quiet=quiet or not (crew is None or crew.first)) as bar:
        begun = 0
        for index in share:
            source = pictures[index]
            channels = None
            try:
                pair = source.read(scale)
                channels = pair.gt.shape[2]
                if channels not in metrics_of:
                    metrics_of[channels] = _metrics(scale, crop, channels)
                outputs: dict[str, Pixels] = {}
                values: dict[str, Mapping[str, float]] = {}
                for label, (net, restore) in methods.items():
                    keeping = _keeping(restore, outputs, label)
                    one = validate(
                        net,
                        [pair],
                        name=label,
                        metrics=metrics_of[channels][0],
                        restore=keeping,
                        quiet=True,
                    )
                    values[label] = one.images[pair.name]
            except UserError as error:
                mine.append((index, channels, None, str(error)))
            else:
                mine.append((index, channels, values, ""))
                as_gt = {label: as_dtype(pixels, pair.gt.dtype) for label, pixels in outputs.items()}
                room -= sum(pixels.nbytes for pixels in as_gt.values())
                if room > 0:
                    kept[source.name] = as_gt
            # What other processes have begun in the meantime counts too.
            bar.advance(index + 1 - begun, note=source.name)
            begun = index + 1
    measured = _everything(mine, crew)
    if measured is None:
        return None
    # The first picture that can be read decides what all must be, whichever process read it.
    colours = next((channels for _, channels, _, _ in measured if channels is not None), 1)
    metrics, not_computed = metrics_of.get(colours) or _metrics(scale, crop, colours)
    for index, channels, found, reason in measured:
        source = pictures[index]
        if channels is not None and channels != colours:
            reason = f"{channels} channels; the pictures before have {colours}"
        if found is None or reason:
            wrong.append((source.name, reason))
            continue
        for label, numbers in found.items():
            images[label][source.name] = numbers
        good[source.name] = source
        made += source.read_lq is None
    kept = {name: kept[name] for name in good if name in kept}
    if not good:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in wrong[:20])
        raise UserError(
            f"{where}: no picture could be measured\n{reasons}" if wrong else f"{where}: no pictures"
        )
    results = {
        label: ValidationResult.of(
            where, images[label], metrics, method=None if index < len(candidates) else label
        )
        for index, label in enumerate(methods)
    }
    columns = [_column(label, result, results[candidates[0].label]) for label, result in results.items()]
    if timed:
        costs = _with_times(costs, candidates, size)
    models = [replace(column, cost=cost) for column, cost in zip(columns, costs, strict=False)]
    columns = [*models, *columns[len(costs) :]]
    if not timed:
        not_computed["latency_ms"] = not_computed["latency_ratio"] = "--no-latency was given"
    protocol = _protocol(candidates, columns, scale, crop, size, asked, made, timed=timed)
    return Comparison(
        where, scale, columns, judged, original, size, protocol, not_computed, wrong, good, methods, kept
    )


#: Index of a picture, its channels where it could be read, values by label and metric, or why there are none.
_Measured = tuple[int, int | None, dict[str, Mapping[str, float]] | None, str]


def _everything(mine: list[_Measured], crew: Crew | None) -> list[_Measured] | None:
    """What all processes have measured, in the order of the pictures; None where that is not this one's to know."""
    if crew is None:
        return mine
    shares = crew.gather(mine)
    if shares is None:
        return None
    lost = [f"process {share.rank} {share.lost}" for share in shares if share.lost is not None]
    if lost:
        raise RunStopped(f"{'; '.join(lost)}; nothing is written, since its pictures would be missing")
    everything: list[_Measured] = [tuple(each) for share in shares for each in share.value]
    return sorted(everything, key=lambda each: each[0])


def _roles(labels: list[str], judged: str | None, original: str | None) -> tuple[str, str | None]:
    for given in (judged, original):
        if given is not None and given not in labels:
            raise UserError(f"no model is called '{given}'; they are called {', '.join(labels)}")
    if original is None and len(labels) > 1:
        original = next(label for label in reversed(labels) if label != judged)
    if judged is None:
        judged = next((label for label in reversed(labels) if label != original), labels[-1])
    return judged, original if original != judged else None


def _methods(
    candidates: Sequence[Candidate], scale: int, tile: int | None
) -> dict[str, tuple[nn.Module, Restore]]:
    """Label -> network and how it restores; plain enlargement has a network that does nothing."""
    methods: dict[str, tuple[nn.Module, Restore]] = {}
    for candidate in candidates:
        model = candidate.model

        def restore(net: nn.Module, lq: Pixels, model: RestorationModel = model) -> Pixels:
            # As float32, so that rounding happens once, to the gt's type.
            return model.restore(as_dtype(lq, np.float32), tile="auto" if tile is None else tile)

        methods[candidate.label] = model.net, restore
    nothing = nn.Identity()
    plain: dict[str, Callable[[Pixels], Pixels]] = {"input": lambda lq: lq}
    if scale > 1:
        plain = {
            "nearest": lambda lq: lq.repeat(scale, axis=0).repeat(scale, axis=1),
            "bicubic": lambda lq: imresize(lq, scale=scale),
        }
    for label, enlarge in plain.items():
        if label in methods:
            raise UserError(
                f"a model file must not be called '{label}': a column has that name; rename the file"
            )
        methods[label] = nothing, _plain(enlarge)
    return methods


def _plain(enlarge: Callable[[Pixels], Pixels]) -> Restore:
    return lambda _, lq: enlarge(lq)


def _keeping(restore: Restore, kept: dict[str, Pixels], label: str) -> Restore:
    def keep(net: nn.Module, lq: Pixels) -> Pixels:
        kept[label] = restore(net, lq)
        return kept[label]

    return keep


def _metrics(scale: int, crop: int, channels: int) -> tuple[dict[str, MetricLike], dict[str, str]]:
    """The metrics for pictures of so many channels, and why others are not computed."""
    metrics: dict[str, MetricLike] = {}
    not_computed: dict[str, str] = {}
    for key, options in (
        ("psnr", PSNROptions(crop_border=crop)),
        ("ssim", SSIMOptions(crop_border=crop)),
        ("psnr_y", PSNROptions(crop_border=crop, test_y_channel=True)),
        ("ssim_y", SSIMOptions(crop_border=crop, test_y_channel=True)),
        ("lpips", LPIPSOptions(crop_border=crop)),
        ("colour_shift", ColourShiftOptions(crop_border=crop)),
    ):
        if channels == 1 and key.endswith("_y"):
            not_computed[key] = "grey pictures are their own Y"
            continue
        try:
            metrics[key] = options.build(scale, channels)
        except WeightsMissing as error:
            not_computed[key] = str(error)
    return metrics, not_computed


def _column(label: str, result: ValidationResult, first: ValidationResult) -> Column:
    intervals, changes = {}, {}
    for key, mean in result.metrics.items():
        intervals[key] = mean_interval([values[key] for values in result.images.values()])
        if result is first:
            continue
        differences = [
            values[key] - first.images[image][key]
            for image, values in result.images.items()
            if math.isfinite(values[key]) and math.isfinite(first.images[image][key])
        ]
        if differences:
            better = sum((each > 0) == mean.higher_is_better and each != 0 for each in differences)
            changes[key] = Change(
                math.fsum(differences) / len(differences),
                mean_interval(differences),
                better,
                len(differences),
            )
    return Column(label, result.method is None, result, intervals, changes)


def _with_times(costs: Sequence[Cost], candidates: Sequence[Candidate], size: tuple[int, int]) -> list[Cost]:
    """``costs`` with the times of those that run."""
    able = [place for place, cost in enumerate(costs) if cost.can_be_timed]
    result = list(costs)
    try:
        times = measure_times([candidates[place].model for place in able], size) if able else []
    except (
        Exception
    ) as error:  # each has run before, but not after the others; what was measured must not be lost
        why = f"the models stopped while they took turns: {why_it_stopped(error)}"
        times = []
        for place in able:
            lacking = dict.fromkeys(("latency_ms", "latency_ratio"), why)
            result[place] = replace(costs[place], not_known={**costs[place].not_known, **lacking})
    for place, timing in zip(able, times, strict=False):
        result[place] = replace(costs[place], timing=timing)
    if times and result[0].timing is None:
        why = f"it is the ratio to {candidates[0].label}, which does not run"
        for place in able:
            result[place] = replace(
                result[place], not_known={**result[place].not_known, "latency_ratio": why}
            )
    return result


def _protocol(
    candidates: Sequence[Candidate],
    columns: list[Column],
    scale: int,
    crop: int,
    size: tuple[int, int],
    asked: tuple[int, int],
    made: int,
    *,
    timed: bool,
) -> list[str]:
    first = columns[0].result
    precisions = sorted({each.model.precision for each in candidates})
    sentences = [
        f"Whole pictures, averaged weights where a file has them (params_ema), in {' and '.join(precisions)}; outputs "
        f"clamped and rounded to the gt's type, {crop} pixels cut off every side.",
        "; ".join(mean.protocol for mean in first.metrics.values()) + ".",
    ]
    if made == len(first.images):
        sentences.append(f"lq is made from gt by MATLAB's bicubic at 1/{scale}, rounded to whole levels.")
    else:
        sentences.append("lq is the pictures given with --lq.")
    sentences.append(
        "Intervals: 95 %, percentile bootstrap over pictures (10,000 resamples, fixed seed); they say how far the mean "
        "carries to other pictures of this kind. Changes are paired: mean over pictures of model minus first model."
    )
    sentences.append(
        f"Multiply-adds and memory: input {size[0]}×{size[1]}; memory is float32 weights and the tensors alive at "
        "once, at most, without what operators need inside themselves."
    )
    exported = {
        each.label: each.model.facts for each in candidates if isinstance(each.model.facts, ExportedFacts)
    }
    if exported:
        sentences.append(
            "Memory of exported models: float32 weights and what the file states of the tensors."
        )
    sentences += [
        f"{label} takes one size and runs in windows of {facts.size[0]}×{facts.size[1]}."
        for label, facts in exported.items()
        if facts.size is not None
    ]
    if size != asked:
        sentences.append(
            f"The input {asked[0]}×{asked[1]} that was asked for is rounded up to {size[0]}×{size[1]}: whole multiples "
            "of the windows of all models."
        )
    if timed:
        sentences.append(timing_protocol(candidates[0].model.device, size))
    return sentences
