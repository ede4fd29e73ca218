"""Measuring during training: the sets, their baselines, and which result is the best so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from atelier.data.options import ValSetOptions
from atelier.data.sources import listed
from atelier.data.validation import ValidationSet
from atelier.evaluate.best import Best, best_so_far
from atelier.evaluate.results import ValidationResult
from atelier.evaluate.tables import comparison_text
from atelier.evaluate.validation import SaveOptions, baseline, restorer, validate
from atelier.metrics.colour_shift import chroma_ratio, colour_shift
from atelier.metrics.options import Metric
from atelier.metrics.sharpness import sharpness_ratio
from atelier.options.schema import RunOptions
from atelier.train.distributed import Ranks
from atelier.train.folder import RunFolder

#: What the health detectors look at beside the metrics; no reader of results sees these names.
_SIGNS = {
    "sign:colour_shift": Metric("largest channel mean difference", False, colour_shift),
    "sign:chroma": Metric("fine chroma energy over gt's", False, chroma_ratio, 2),
    "sign:sharpness": Metric("gradient energy over gt's", True, sharpness_ratio, 2),
}


class Validator:
    """All validation sets of a run.

    Args:
        options: the run; the first of ``val.metrics`` on the first set decides which checkpoint is best.
        ranks: pictures are shared out over them.
        folder: pictures go to ``visualization/``.

    Raises:
        UserError: anything wrong with the pictures, such as one that is too small for a metric.
    """

    def __init__(self, options: RunOptions, ranks: Ranks, folder: RunFolder) -> None:
        self._options, self._ranks, self._folder = options, ranks, folder
        network = options.network_g
        named = options.datasets.validation_images
        self.sets = {
            label_of(key, named): ValidationSet(
                dataset,
                scale=options.scale,
                degradation=options.effective_degradation.build(options.scale),
                seed=options.manual_seed,
                in_channels=network.in_channels,
            )
            for key, dataset in named.items()
        }
        self._folders = dict(zip(self.sets, named, strict=True))
        self._metrics = {
            name: metric.build(options.scale, network.out_channels)
            for name, metric in options.val.metrics.items()
        }
        signs = _SIGNS if options.health.detectors.enabled else {}
        check_sizes(self.sets, {**self._metrics, **signs})
        self._restore = restorer(
            options.scale,
            tile=options.val.tile,
            padding=options.val.padding,
            size_multiple=network.size_multiple,
            receptive_radius=network.receptive_radius,
            device=ranks.device,
        )
        self._baselines: dict[str, ValidationResult] = {}
        self.best: Best | None = None
        #: Set -> sign -> mean over its pictures, of the last :meth:`run`; empty where detectors are off.
        self.signs: dict[str, dict[str, float]] = {}

    def baselines(self, *, quiet: bool) -> Mapping[str, ValidationResult]:
        """Bicubic (or, at scale 1, the input itself) on every set; measured once."""
        for key, pairs in self.sets.items():
            if key not in self._baselines:
                self._baselines[key] = baseline(
                    pairs, self._options.scale, self._metrics, name=key, quiet=quiet, **self._share()
                )
        return self._baselines

    def run(
        self, net: nn.Module, iteration: int, *, quiet: bool, beside: bool = False
    ) -> dict[str, ValidationResult]:
        """Measure ``net`` on every set and save sample pictures; with ``beside`` only measure, for another network."""
        val, shown = self._options.val, self._folder.visualization
        signs = _SIGNS if self._options.health.detectors.enabled and not beside else {}
        results = {
            key: validate(
                net,
                pairs,
                name=key,
                metrics={**self._metrics, **signs},
                restore=self._restore,
                iteration=iteration,
                # Pictures of one name may stand in several sets.
                save=SaveOptions(shown / self._folders[key] if len(self.sets) > 1 else shown, val.max_images)
                if val.save_img and not beside
                else None,
                quiet=quiet,
                **self._share(),
            )
            for key, pairs in self.sets.items()
        }
        if not beside:
            self.signs = {
                key: {name.removeprefix("sign:"): result.metrics[name].value for name in signs}
                for key, result in results.items()
            }
        return {key: _without(result, signs) for key, result in results.items()}

    def records(self) -> list[dict[str, Any]]:
        """What ``metrics.jsonl`` shall hold beside the results of the last :meth:`run`: nothing."""
        return []

    @property
    def can_compare(self) -> bool:
        """Whether there is a set and a metric."""
        return bool(self.sets) and bool(self._metrics)

    def compare(
        self, nets: Mapping[str, nn.Module], count: int, *, quiet: bool
    ) -> tuple[Metric, dict[str, float]]:
        """The first metric of networks and of bicubic (or the input), on the first set's first ``count`` pictures."""
        name, metric = next(iter(self._metrics.items()))
        key, whole = next(iter(self.sets.items()))
        pairs = [whole[place] for place in range(min(count, len(whole)))]
        own = {name: metric}
        plain = baseline(pairs, self._options.scale, own, name=key, quiet=quiet, **self._share())
        values = {str(plain.method): plain.metrics[name].value}
        for title, net in nets.items():
            found = validate(
                net, pairs, name=key, metrics=own, restore=self._restore, quiet=quiet, **self._share()
            )
            values[title] = found.metrics[name].value
        return metric, values

    def _share(self) -> dict[str, Any]:
        return {"rank": self._ranks.rank, "world": self._ranks.world}

    def note_best(self, results: Mapping[str, ValidationResult]) -> bool:
        """Remember the results if they are the best so far; True when they are."""
        self.best, is_best = best_so_far(next(iter(results.values())), self.best)
        return is_best

    def table(self, results: Mapping[str, ValidationResult]) -> str:
        """Model and baseline side by side, one block per set."""
        blocks = []
        for key, result in results.items():
            reference = self._baselines[key]
            blocks.append(f"{key}:\n" + comparison_text({str(reference.method): reference, "model": result}))
        return "\n".join(blocks)


def check_sizes(sets: Mapping[str, ValidationSet], metrics: Mapping[str, Metric]) -> None:
    """Raise one :class:`UserError` that names every validation picture which is too small for a metric."""
    if not metrics:
        return
    name, strictest = max(metrics.items(), key=lambda each: each[1].least)
    problems = [
        f"{key}: {place}: {height}x{width} pixels"
        for key, pairs in sets.items()
        for place, height, width in pairs.sizes()
        if min(height, width) < strictest.least
    ]
    if problems:
        raise listed(
            f"validation pictures must have {strictest.least}x{strictest.least} pixels, so that "
            f"{name.removeprefix('sign:')} ({strictest.protocol}) can be measured; leave the smaller ones out, or "
            "change val.metrics:",
            problems,
        )


def _without(result: ValidationResult, names: Mapping[str, Any]) -> ValidationResult:
    images = {
        image: {key: value for key, value in values.items() if key not in names}
        for image, values in result.images.items()
    }
    metrics = {key: mean for key, mean in result.metrics.items() if key not in names}
    return replace(result, images=images, metrics=metrics)


def label_of(key: str, sets: Mapping[str, ValSetOptions]) -> str:
    """What a set is called in logs and the report: its ``name`` where the file gives one of its own, else its key."""
    name = sets[key].name
    alone = sum(dataset.name == name for dataset in sets.values()) == 1
    return name if "name" in sets[key].model_fields_set and alone and name not in set(sets) - {key} else key
