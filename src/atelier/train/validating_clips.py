"""Measuring a colorizer during training: always all five modes and the true films in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atelier.colorize.state import ClipFlow, SequenceState
from atelier.colorize.system import FusionSystem
from atelier.data.clip_batch import ClipBatch
from atelier.data.clip_options import ValClipsOptions
from atelier.errors import UserError
from atelier.evaluate.best import Best, best_so_far
from atelier.evaluate.films import ROWS, TRUTH, FilmMeter, beside_truth, film_result, films_text
from atelier.evaluate.results import MetricLike, Pixels, ValidationResult
from atelier.evaluate.validation import Measured, Work, evaluating, exchange, sample_path
from atelier.images.files import write_image
from atelier.images.lab import LabScale, lab_to_rgb
from atelier.metrics.options import Metric
from atelier.metrics.warp_error import consistent
from atelier.objectives.colorize import references_of
from atelier.options.schema import RunOptions
from atelier.progress import progress
from atelier.train.distributed import Ranks
from atelier.train.folder import RunFolder
from atelier.train.validating import Validator, label_of

#: What judges the run, and what it is compared with in its report: the same colours joined without a network.
JUDGED, BASELINE = "fused", "average"
_SEPARATOR = "\n"

Motion = tuple[Tensor, Tensor]


class ClipValidator:
    """All validation sets of a colouring run; the public face is :class:`~atelier.train.validating.Validator`'s.

    Args:
        options: the run; the first of ``val.metrics``, of the fused colours on the first set, decides which checkpoint
            is best.
        ranks: clips are shared out over them.
        folder: pictures go to ``visualization/``.
    """

    def __init__(self, options: RunOptions, ranks: Ranks, folder: RunFolder) -> None:
        self._options, self._ranks, self._folder = options, ranks, folder
        named = options.datasets.validation
        self.sets = {
            label_of(key, named): each.open(cache=options.cache)
            for key, each in named.items()
            if isinstance(each, ValClipsOptions)
        }
        self._folders = dict(zip(self.sets, named, strict=True))
        # Films are measured whole: no border is cut off.
        self._metrics = {name: metric.build(0, 3) for name, metric in options.val.metrics.items()}
        self._rows: dict[str, dict[str, ValidationResult]] = {}
        self.best: Best | None = None
        self.signs: dict[str, dict[str, float]] = {key: {} for key in self.sets}

    def baselines(self, *, quiet: bool) -> Mapping[str, ValidationResult]:
        """None beforehand: what a colorizer has to beat changes with its matcher and is measured with it."""
        return {}

    def run(
        self, net: nn.Module, iteration: int, *, quiet: bool, beside: bool = False
    ) -> dict[str, ValidationResult]:
        """The fused colours' numbers on every set; the other rows are kept for :meth:`table`.

        With ``beside`` only the fused colours are measured, for another network.
        """
        results = {}
        for key in self.sets:
            rows = self._measure(net, key, iteration, quiet=quiet, modes=(JUDGED,) if beside else ROWS)
            results[key] = rows[JUDGED]
            if not beside:
                self._rows[key] = rows
        return results

    def records(self) -> list[dict[str, Any]]:
        """For ``metrics.jsonl``: the row that the report compares with, and the whole table of each set."""
        found: list[dict[str, Any]] = []
        for key, rows in self._rows.items():
            found.append(rows[BASELINE].to_json())
            table = {title: row.to_json()["metrics"] for title, row in rows.items()}
            found.append({"kind": "rows", "iter": rows[JUDGED].iteration, "set": key, "rows": table})
        return found

    @property
    def can_compare(self) -> bool:
        """No guide is compared on films."""
        return False

    def compare(
        self, nets: Mapping[str, nn.Module], count: int, *, quiet: bool
    ) -> tuple[Metric, dict[str, float]]:
        """Never to be called, as :attr:`can_compare` says."""
        raise UserError("networks are compared on pictures, and this run measures films")

    def note_best(self, results: Mapping[str, ValidationResult]) -> bool:
        """Remember the results if they are the best so far; True when they are."""
        self.best, is_best = best_so_far(next(iter(results.values())), self.best)
        return is_best

    def table(self, results: Mapping[str, ValidationResult]) -> str:
        """All rows, one block per set."""
        return "\n".join(f"{key}:\n{films_text(self._rows[key])}" for key in results)

    def _measure(
        self, net: nn.Module, key: str, iteration: int, *, quiet: bool, modes: tuple[str, ...]
    ) -> dict[str, ValidationResult]:
        clips, ranks = self.sets[key], self._ranks
        work = Work(key, f"Validation {key}", ranks.rank, ranks.world, quiet)
        share: list[Measured] = []
        failure: Exception | None = None
        try:
            mine = range(ranks.rank, len(clips), ranks.world)
            with (
                progress(work.title, len(mine), "clips", quiet=quiet or not ranks.first) as bar,
                evaluating(net),
            ):
                for index in mine:
                    name = clips.names[index]
                    shown = self._shown(key, name) if index < self._options.val.max_images else None
                    values = self._clip(
                        net, clips[index], modes, shown if len(modes) > 1 else None, iteration
                    )
                    flat = {
                        f"{row}{_SEPARATOR}{metric}": value
                        for row, each in values.items()
                        for metric, value in each.items()
                    }
                    share.append((index, name, flat))
                    bar.advance(note=name)
        except Exception as error:
            # The other ranks are on their way to the exchange below and would wait there for ever.
            failure = error
        films: dict[str, dict[str, dict[str, float]]] = {row: {} for row in (*modes, TRUTH)}
        for _, name, flat in sorted(exchange(share, failure, work), key=lambda entry: entry[0]):
            for path, value in flat.items():
                row, metric = path.split(_SEPARATOR)
                films[row].setdefault(name, {})[metric] = value
        return {
            row: film_result(
                key, each, self._metrics, iteration=iteration, method=None if row == JUDGED else row
            )
            for row, each in films.items()
        }

    def _shown(self, key: str, name: str) -> Path | None:
        if not self._options.val.save_img:
            return None
        shown = self._folder.visualization
        return shown / self._folders[key] if len(self.sets) > 1 else shown

    def _clip(
        self,
        net: nn.Module,
        batch: ClipBatch,
        modes: tuple[str, ...],
        shown: Path | None,
        iteration: int,
    ) -> dict[str, dict[str, float]]:
        """Row -> measure -> value of one clip, the true film's row among them."""
        system: nn.Module = getattr(net, "module", net)
        assert isinstance(system, FusionSystem)
        rows, pictures = measure_clip(system, batch, modes, self._metrics, self._ranks.device)
        if shown is not None:
            name = batch.samples[0]
            for row, picture in pictures.items():
                kind = {JUDGED: str(iteration), "grey": "lq", TRUTH: "gt"}.get(row, row)
                write_image(sample_path(shown, name, kind), picture)
        return rows


def measure_clip(
    system: FusionSystem,
    batch: ClipBatch,
    modes: tuple[str, ...],
    metrics: Mapping[str, MetricLike],
    device: torch.device | str = "cpu",
) -> tuple[dict[str, dict[str, float]], dict[str, Pixels]]:
    """row -> measure -> value, :data:`~atelier.evaluate.films.TRUTH` last; and each row's last frame, uint8.

    Arguments as of :func:`film_meters`.
    """
    meters, last = film_meters(system, batch, modes, metrics, device)
    rows = {row: meter.values() for row, meter in meters.items()}
    truth = rows[TRUTH]
    return {
        row: values if row == TRUTH else beside_truth(values, truth) for row, values in rows.items()
    }, last


def film_meters(
    system: FusionSystem,
    batch: ClipBatch,
    modes: tuple[str, ...],
    metrics: Mapping[str, MetricLike],
    device: torch.device | str = "cpu",
) -> tuple[dict[str, FilmMeter], dict[str, Pixels]]:
    """Colour a clip in every mode and measure it; frames are coloured one by one, as in a film.

    Args:
        system: in evaluation mode.
        batch: one clip with its true colours. A first frame whose own picture is the reference is not counted.
        modes: rows to measure.
        metrics: of single pictures.
        device: where the system is.

    Returns:
        By row, :data:`~atelier.evaluate.films.TRUTH` last, the meter that saw it; and its last frame, uint8.
    """
    motion = list(_motion(batch))
    given = torch.equal(batch.reference[:, 0], batch.lab[:, 0])
    true_frames = [_picture(frame) for frame in batch.lab[0].unsqueeze(1)]
    moved = _with_flow(system, batch.to(device))
    films = {mode: _coloured(system, moved, mode) for mode in modes}
    meters: dict[str, FilmMeter] = {}
    last: dict[str, Pixels] = {}
    for row, frames in {**films, TRUTH: iter(batch.ab[0].unsqueeze(1))}.items():
        meter = meters[row] = FilmMeter(metrics, truth=row == TRUTH)
        for t, ab in enumerate(frames):
            picture = true_frames[t] if row == TRUTH else _picture(torch.cat([batch.L[:, t], ab], dim=1))
            meter.add(
                picture,
                true_frames[t],
                ab * LabScale.UNIT.chroma_scale,
                motion[t],
                counts=t > 0 or not given,
            )
            last[row] = picture
    return meters, last


@torch.no_grad()
def _with_flow(system: FusionSystem, batch: ClipBatch) -> ClipBatch:
    """The clip with the motion that the system finds, once for all modes; as it is where the flow looks at colours."""
    if system.flow.needs_colour:
        return batch
    none = torch.zeros_like(batch.L[:, 0])
    flow, confidence = [none.expand(-1, 2, -1, -1)], [none]
    memory = system.flow.initial_state()
    for t in range(1, batch.L.shape[1]):
        found = system.flow.estimate(batch.L[:, t], batch.L[:, t - 1], memory)
        flow.append(found.flow)
        confidence.append(found.confidence)
        memory = found.state
    return replace(batch, flow=torch.stack(flow, dim=1), confidence=torch.stack(confidence, dim=1))


@torch.no_grad()
def _coloured(system: FusionSystem, batch: ClipBatch, mode: Any) -> Iterator[Tensor]:
    """ab ``[1, 2, h, w]`` of every frame, on the CPU."""
    references = references_of(batch.reference, batch.roles)
    prepared = system.prepare(references) if mode != "grey" else references
    state: SequenceState | None = None
    for t in range(batch.L.shape[1]):
        flows = None
        if batch.flow is not None and batch.confidence is not None:
            flows = ClipFlow(batch.flow[:, t : t + 1], batch.confidence[:, t : t + 1])
        output = system(batch.L[:, t : t + 1], prepared, flows=flows, state=state, mode=mode)
        state = output.state
        yield output.ab[:, 0].float().cpu()


def _picture(lab: Tensor) -> Pixels:
    """Unit LAB ``[1, 3, h, w]`` as it would be written: ``h×w×3`` uint8."""
    rgb = lab_to_rgb(LabScale.UNIT.restore(lab))[0]
    picture: Pixels = (rgb * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return picture


def _motion(batch: ClipBatch) -> Iterator[Motion | None]:
    """The motion along which colours should stay: known, else DIS's in the true lightness where both ways agree."""
    from atelier.colorize.flow_options import DisFlowOptions

    known = batch.true_flow is not None and batch.valid is not None and batch.direction == "backward"
    search = DisFlowOptions(confidence="photometric").build()
    yield None
    for t in range(1, batch.L.shape[1]):
        if known and batch.true_flow is not None and batch.valid is not None:
            yield batch.true_flow[:, t], batch.valid[:, t]
            continue
        here, before = batch.L[:, t], batch.L[:, t - 1]
        flow = search.estimate(here, before).flow
        yield flow, consistent(flow, search.estimate(before, here).flow).float()


AnyValidator = Validator | ClipValidator


def validator_of(options: RunOptions, ranks: Ranks, folder: RunFolder) -> AnyValidator:
    """The validator that the run's material needs."""
    kind = ClipValidator if options.network_g.works_on == "clips" else Validator
    return kind(options, ranks, folder)
