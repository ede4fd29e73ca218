"""``atelier data cache-verify``: stored answers of teachers against the teachers themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atelier.data.batch import Batch
from atelier.data.loader import TrainingData
from atelier.errors import UserError
from atelier.objectives.base import Setting
from atelier.objectives.distill.options import DistillOptions
from atelier.objectives.distill.plan_cache import TOLERANCE, Kind, Moment, PlanCache
from atelier.objectives.distill.teacher import Teacher, random_twin, read_teacher
from atelier.objectives.distill.upcycle import upcycle, zoom_out
from atelier.options.schema import RunOptions
from atelier.progress import progress
from atelier.randomness import Streams
from atelier.train.distributed import choose_device
from atelier.train.setting import setting_of


@dataclass
class CacheReport:
    """What was found: lines for people, and whether all is well."""

    lines: list[str] = field(default_factory=list)
    ok: bool = True

    def wrong(self, line: str) -> None:
        """Add a line about something that must be mended."""
        self.lines.append(line)
        self.ok = False


def verify_caches(
    options: RunOptions, entries: int = 8, *, world: int = 1, quiet: bool = False
) -> CacheReport:
    """Check the hash of every file of the run's caches, and compute a sample of the answers again.

    Args:
        options: the run whose caches are meant.
        entries: forward passes of each cache that are computed again, drawn by the run's seed.
        world: processes of the runs that use the cache.
        quiet: no progress bars.

    Raises:
        UserError: the run has no teacher with ``source: plan_cache``; a teacher or the data cannot be read.
    """
    objective = options.objective
    if not isinstance(objective, DistillOptions) or not any(
        each.source == "plan_cache" for each in objective.teacher
    ):
        raise UserError("the run has no teacher with source: plan_cache, so there is nothing to verify")
    device = choose_device(options.num_gpu)
    data = _data(options, world, device, quiet)
    try:
        setting = setting_of(options, device, world=world, data=data.fingerprint)
        report = CacheReport()
        for cache in _caches(objective, setting):
            for kind in cache.stores:
                _verify(cache, kind, entries, _inputs(options, objective, setting, data, kind), report, quiet)
        if not report.lines:
            report.wrong("nothing is stored for this run yet")
        return report
    finally:
        data.close()


def _verify(
    cache: PlanCache,
    kind: Kind,
    entries: int,
    inputs: Callable[[int, list[int]], Tensor],
    report: CacheReport,
    quiet: bool,
) -> None:
    store = cache.stores[kind]
    title = f"{cache.teacher.title}, {kind}: {store.folder}"
    passes = list(store.passes())
    for note in cache.remarks():
        report.wrong(note)
    if not passes:
        return
    random = Streams(cache.setting.seed, 0, 0)("cache-verify")
    chosen = sorted(random.choice(len(passes), min(entries, len(passes)), replace=False).tolist())
    worst, where = 0.0, passes[chosen[0]][0] if chosen else 0
    try:
        with progress(f"verifying {kind}", len(chosen), "passes", quiet=quiet) as bar:
            for step, slot in (passes[index] for index in chosen):
                together = store.layout.together
                numbers = list(range(slot * together, (slot + 1) * together))
                found = cache.difference(kind, inputs(step, numbers), Moment(step, numbers, fill=False))
                if found is not None and found >= worst:
                    worst, where = found, step
                bar.advance()
    except UserError as error:
        report.wrong(str(error))
        return
    allowed = TOLERANCE + cache.codec.error
    line = (
        f"{title}: {len(passes):,} passes of {store.layout.together} samples, {len(chosen)} computed again, largest "
        f"difference {worst:.1e} (step {where}; allowed {allowed:.1e})"
    )
    if worst > allowed:
        report.wrong(f"{line}: not this teacher's answers; delete the folder")
    else:
        report.lines.append(line)


def _inputs(
    options: RunOptions, objective: DistillOptions, setting: Setting, data: TrainingData, kind: Kind
) -> Callable[[int, list[int]], Tensor]:
    """A function from (step, numbers) to what the teacher would see."""

    def lq(batch: Batch) -> Tensor:
        return batch.lq.to(memory_format=torch.channels_last) if options.train.channels_last else batch.lq

    def inputs(step: int, numbers: list[int]) -> Tensor:
        whole = next(data.batches(step, step))
        own = slice(numbers[0], numbers[-1] + 1)
        batch = Batch(whole.lq[own], whole.gt[own], whole.samples[own], numbers)
        if kind == "zoom":
            return zoom_out(lq(batch), setting.scale)
        if kind == "lq":
            return lq(batch)
        assert objective.terms.upcycle is not None
        new = upcycle(
            batch.gt,
            lq(batch),
            objective.terms.upcycle,
            scale=setting.scale,
            seed=setting.seed,
            step=step,
            numbers=numbers,
        )
        return new.tiles

    return inputs


def _caches(objective: DistillOptions, setting: Setting) -> list[PlanCache]:
    teachers: list[Teacher] = []
    for place, each in enumerate(objective.teacher):
        if each.source == "plan_cache":
            teachers.append(read_teacher(each, setting, place))
            if objective.random_terms and place == 0:
                teachers.append(random_twin(teachers[0], each, setting, 0))
    kinds: list[Kind] = ["lq"]
    terms = objective.terms.upcycle
    if terms is not None:
        kinds += ["tiles", "zoom"] if terms.zoom_out else ["tiles"]
    tiles = terms.tiles if terms is not None else 0
    return [PlanCache(teacher, objective.cache, setting, kinds, tiles) for teacher in teachers]


def _data(options: RunOptions, world: int, device: torch.device, quiet: bool) -> TrainingData:
    train = options.datasets.images
    return TrainingData(
        train.model_copy(update={"num_worker_per_gpu": 0}),
        scale=options.scale,
        degradation=options.effective_degradation.build(options.scale),
        seed=options.manual_seed,
        global_batch=train.batch_size_per_gpu * world,
        in_channels=options.network_g.in_channels,
        device=device,
        cache=options.cache,
        quiet=quiet,
    )
