"""Measuring during training: the sets, their baselines, and which result is the best so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from atelier.data.validation import ValidationSet
from atelier.evaluate.validation import SaveOptions, ValidationResult, baseline, results_table, validate
from atelier.options.schema import RunOptions
from atelier.restore.tiling import restore_tensor
from atelier.train.distributed import Ranks
from atelier.train.folder import RunFolder


class Validator:
    """All validation sets of a run.

    Args:
        options: the run; the first of ``val.metrics`` on the first set decides which checkpoint is best.
        ranks: pictures are shared out over them.
        folder: pictures go to ``visualization/``.
    """

    def __init__(self, options: RunOptions, ranks: Ranks, folder: RunFolder) -> None:
        self._options, self._ranks, self._folder = options, ranks, folder
        network = options.network_g
        self.sets = {
            key: ValidationSet(
                dataset,
                scale=options.scale,
                degradation=options.effective_degradation.build(options.scale),
                seed=options.manual_seed,
                in_channels=network.in_channels,
            )
            for key, dataset in options.datasets.validation.items()
        }
        self._metrics = {name: metric.build(options.scale) for name, metric in options.val.metrics.items()}
        self._baselines: dict[str, ValidationResult] = {}
        self.best: dict[str, Any] | None = None

    def baselines(self) -> dict[str, ValidationResult]:
        """Bicubic (or, at scale 1, the input itself) on every set; measured once."""
        for key, pairs in self.sets.items():
            if key not in self._baselines:
                self._baselines[key] = baseline(
                    pairs, scale=self._options.scale, metrics=self._metrics, name=key, **self._share()
                )
        return self._baselines

    def run(self, net: nn.Module, iteration: int, *, averaged: bool, quiet: bool) -> dict[str, ValidationResult]:
        """Measure ``net`` on every set and save sample pictures."""
        return {
            key: validate(
                self._restorer(net),
                net,
                pairs,
                name=key,
                scale=self._options.scale,
                metrics=self._metrics,
                iteration=iteration,
                averaged=averaged,
                save=SaveOptions(self._folder.visualization, self._options.val.max_images)
                if self._options.val.save_img
                else None,
                quiet=quiet,
                **self._share(),
            )
            for key, pairs in self.sets.items()
        }

    def _share(self) -> dict[str, int]:
        return {"rank": self._ranks.rank, "world": self._ranks.world}

    def _restorer(self, net: nn.Module) -> Callable[..., Any]:
        network = self._options.network_g

        def restore(lq: Any) -> Any:
            return restore_tensor(
                net,
                lq.to(self._ranks.device),
                scale=network.scale,
                tile=self._options.val.tile,
                size_multiple=network.size_multiple,
                receptive_radius=network.receptive_radius,
            )

        return restore

    def note_best(self, results: Mapping[str, ValidationResult], iteration: int) -> bool:
        """Remember the results if they are the best so far; True when they are."""
        first_set = next(iter(results))
        first_metric = next(iter(self._metrics))
        value = results[first_set].means[first_metric]
        higher = self._metrics[first_metric].higher_is_better
        if self.best is not None and not (value > self.best["value"] if higher else value < self.best["value"]):
            return False
        self.best = {"set": first_set, "metric": first_metric, "value": value, "iter": iteration}
        return True

    def table(self, results: Mapping[str, ValidationResult]) -> str:
        """Model and baseline side by side, one block per set."""
        blocks = []
        for key, result in results.items():
            blocks.append(results_table({self._baselines[key].method: self._baselines[key], result.method: result}))
        return "\n".join(blocks)
