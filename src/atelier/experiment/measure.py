"""One finished run on the test sets: the only time that these are touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.errors import UserError
from atelier.experiment.options import StudyOptions
from atelier.experiment.plan import Run
from atelier.files import atomic_write, sha256_of
from atelier.options.schema import RunOptions

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from atelier.archs.facts import NetworkFacts
    from atelier.data.validation import ValidationSet
    from atelier.evaluate.results import Pixels, ValidationResult
    from atelier.evaluate.validation import Restore

#: The seed of whatever a degradation draws for test pictures: the same for every arm and seed.
TEST_SEED = 0


def result_path(run: Run) -> Path:
    """The file whose presence makes a run done."""
    return run.folder / "result.json"


def read_result(run: Run) -> dict[str, Any] | None:
    """The result of a run, None while it is not done (or was measured for other options).

    Raises:
        UserError: the file is there and cannot be read.
    """
    path = result_path(run)
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result if result["digest"] == run.digest else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete it, and the run is measured again"
        ) from None


def weights_of(study: StudyOptions, run: Run) -> tuple[Path, str | None, str]:
    """(file, its entry, what the protocol calls it) of the network that a run is judged by."""
    options = run.options
    suffix = ".safetensors" if options.checkpoint_format == "safetensors" else ".pth"
    step = "best" if study.primary.checkpoint == "best" else str(options.train.total_iter)
    averaged = study.primary.weights == "ema" and options.train.ema_decay > 0
    key = None if suffix == ".safetensors" else "params_ema" if averaged else "params"
    return options.run_dir / "models" / f"net_g_{step}{suffix}", key, "ema" if averaged else "raw"


def measure_run(study: StudyOptions, run: Run) -> dict[str, Any]:
    """Measure a trained run on every test set and put its ``result.json`` into place.

    Raises:
        UserError: no such checkpoint, or pictures that cannot be measured.
    """
    path, key, weights = weights_of(study, run)
    if not path.exists():
        raise UserError(f"{run.key}: {path} does not exist, although the run ended without an error")
    results = measure_file(study, run.options, path, key)
    record = {
        "digest": run.digest,
        "arm": run.arm,
        "seed": run.seed,
        "step": run.options.train.total_iter,
        "weights": weights,
        "checkpoint": study.primary.checkpoint,
        "model": {"file": path.name, "sha256": sha256_of(path)},
        "sets": {name: result.to_json() for name, result in results.items()},
    }
    atomic_write(result_path(run), json.dumps(record, indent=1) + "\n")
    return record


def measured_by(study: StudyOptions) -> str:
    """A digest of all that decides how a network is judged."""
    told = {
        "test": {name: each.model_dump(mode="json") for name, each in study.test.items()},
        "metrics": {name: each.model_dump(mode="json") for name, each in study.metrics.items()},
        "weights": study.primary.weights,
        "checkpoint": study.primary.checkpoint,
    }
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def measure_teacher(study: StudyOptions, options: RunOptions, path: Path, folder: Path) -> dict[str, Any]:
    """A teacher (or any network of the same scale) in the protocol of the runs; kept in ``folder`` by its hash.

    Raises:
        UserError: no such file, a network that does not fit, or pictures that cannot be measured.
    """
    if not path.exists():
        raise UserError(f"the teacher {path} does not exist, so the gap to it is not known")
    digest = sha256_of(path)
    kept = folder / f"{digest[:16]}-{measured_by(study)[:8]}.json"
    if kept.exists():
        record: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return record
    results = measure_file(study, options, path, None)
    record = {
        "file": str(path),
        "sha256": digest,
        "sets": {name: result.to_json() for name, result in results.items()},
    }
    atomic_write(kept, json.dumps(record, indent=1) + "\n")
    return record


@dataclass(frozen=True)
class Judged:
    """A network as it is judged: restoring as the run's validation restores.

    Attributes:
        net: on its device.
        facts: what its weights tell.
        restore: how one picture is restored.
    """

    net: nn.Module
    facts: NetworkFacts
    restore: Restore

    def output(self, lq: Pixels, dtype: np.dtype[Any]) -> Pixels:
        """The restored picture in the type of its gt, which is what the metrics see."""
        import torch

        from atelier.evaluate.results import as_dtype

        self.net.eval()
        with torch.no_grad():
            return as_dtype(self.restore(self.net, lq), dtype)


def judged_network(options: RunOptions, path: Path, param_key: str | None) -> Judged:
    """The network in a weight file, ready to restore as the run's validation does.

    Raises:
        UserError: a file that cannot be loaded, or a network of another scale or other channels.
    """
    from atelier.archs.load import load_network
    from atelier.evaluate.validation import restorer
    from atelier.train.distributed import choose_device

    loaded = load_network(path, param_key=param_key)
    facts = loaded.facts
    if facts.scale != options.scale or facts.in_channels != options.network_g.in_channels:
        raise UserError(
            f"{path} is a x{facts.scale} network of {facts.in_channels} channels; the study's are "
            f"x{options.scale} of {options.network_g.in_channels}"
        )
    device = choose_device(options.num_gpu)
    restore = restorer(
        options.scale,
        tile=options.val.tile,
        padding=options.val.padding,
        size_multiple=facts.size_multiple,
        receptive_radius=facts.receptive_radius,
        device=device,
    )
    return Judged(loaded.net.to(device), facts, restore)


def pictures_of_test(study: StudyOptions, options: RunOptions, name: str) -> ValidationSet:
    """A test set as every network of the study gets it."""
    from atelier.data.validation import ValidationSet

    return ValidationSet(
        study.test[name],
        scale=options.scale,
        degradation=options.effective_degradation.build(options.scale),
        seed=TEST_SEED,
        in_channels=options.network_g.in_channels,
    )


def measure_file(
    study: StudyOptions, options: RunOptions, path: Path, param_key: str | None
) -> Mapping[str, ValidationResult]:
    """Test set -> result of the network in a weight file, restored as the run's validation restores."""
    from atelier.evaluate.validation import validate

    judged = judged_network(options, path, param_key)
    metrics = {
        name: metric.build(options.scale, judged.facts.out_channels) for name, metric in study.metrics.items()
    }
    return {
        name: validate(
            judged.net,
            pictures_of_test(study, options, name),
            name=name,
            metrics=metrics,
            restore=judged.restore,
            iteration=options.train.total_iter,
            quiet=True,
        )
        for name in study.test
    }
