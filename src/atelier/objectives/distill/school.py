"""The teachers' side of a step: which teacher answers what, and only what an active term asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from atelier.objectives.distill.apprentice import Answers, Lesson
from atelier.objectives.distill.clock import Clock
from atelier.objectives.distill.options import DistillOptions
from atelier.objectives.distill.plan_cache import Moment

if TYPE_CHECKING:
    from atelier.objectives.base import Setting, TrainingBatch
    from atelier.objectives.distill.plan_cache import Kind, PlanCache
    from atelier.objectives.distill.taps import Taps
    from atelier.objectives.distill.teacher import Teacher
    from atelier.objectives.distill.terms import Term

Side = Literal["real", "random"]


class Faculty:
    """Teachers that answer together, and the taps of the first.

    Args:
        teachers: at least one; the first gives features.
        caches: of each teacher, or None where it answers anew every time.
        taps: on the first one's network; None where no term compares features.
        order: its taps in the order of the pairs, from 0.
        options: how outputs are combined.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        taps: Taps | None,
        order: Sequence[int],
        options: DistillOptions,
        caches: Sequence[PlanCache | None] = (),
    ) -> None:
        self.teachers, self.taps, self.order, self.options = list(teachers), taps, list(order), options
        self.caches = list(caches) or [None] * len(self.teachers)

    def answer(
        self, lq: Tensor, gt: Tensor, *, output: bool, features: bool, at: Moment | None = None
    ) -> Answers:
        """Outputs and features for ``lq``, float32; what is not asked for is not computed."""
        seen: tuple[Tensor, ...] = ()
        live: Tensor | None = None
        if features:
            assert self.taps is not None
            self.taps.enabled = True
            live, taken = self.teachers[0].output_and_taps(lq, self.taps.collect)
            self.taps.enabled = False
            seen = tuple(taken[place] for place in self.order)
        if not output:
            return Answers(features=seen)
        outs = self._outputs("lq", lq, at, live)
        return Answers(combined=self.combine(outs, gt), each=tuple(outs), features=seen)

    def _outputs(self, kind: Kind, lq: Tensor, at: Moment | None, live: Tensor | None = None) -> list[Tensor]:
        """Each teacher's output, stored or computed; ``live`` is the first one's where it is known already."""
        outs = []
        for teacher, cache in zip(self.teachers, self.caches, strict=True):
            known = live if teacher is self.teachers[0] else None

            def compute(teacher: Teacher = teacher, known: Tensor | None = known) -> Tensor:
                return teacher.output(lq) if known is None else known

            cached = cache is not None and at is not None
            outs.append(cache.answer(kind, lq, at, compute) if cached else compute())  # type: ignore[union-attr,arg-type]
        return outs

    def combine(self, outs: Sequence[Tensor], gt: Tensor | None) -> Tensor:
        """One target out of several: by ``distill.combine``; where there is no truth, best_pixel is the mean."""
        if len(outs) == 1:
            return outs[0]
        stacked = torch.stack(tuple(outs))
        if self.options.combine == "best_pixel" and gt is not None:
            error = (stacked - gt).abs().mean(2, keepdim=True)
            best = error.argmin(0, keepdim=True).expand(1, *stacked.shape[1:])
            return stacked.gather(0, best)[0]
        if self.options.combine == "weighted":
            shares = torch.tensor([each.options.share for each in self.teachers], device=stacked.device)
            mixed: Tensor = torch.tensordot(shares / shares.sum(), stacked, 1)
            return mixed
        return stacked.mean(0)

    def output(self, lq: Tensor, kind: Kind, at: Moment | None) -> Tensor:
        """The combined output on inputs without a truth."""
        return self.combine(self._outputs(kind, lq, at), None)


def kinds_of(options: DistillOptions, terms: Mapping[str, Term]) -> list[Kind]:
    """The kinds of input on which ``terms`` ask a teacher for its output."""
    kinds: list[Kind] = ["lq"] if any(term.needs_output for term in terms.values()) else []
    upcycle = options.terms.upcycle if "upcycle" in terms else None
    if upcycle is not None:
        kinds += ["tiles", "zoom"] if upcycle.zoom_out else ["tiles"]
    return kinds


class School:
    """Builds each step's lesson.

    Args:
        options: the objective's.
        setting: seed and scale of the run.
        faculties: the real teachers and, where a term asks for it, the random twin.
        pairs: a line for each pair of taps, for the start of the log.
    """

    def __init__(
        self,
        options: DistillOptions,
        setting: Setting,
        faculties: Mapping[Side, Faculty],
        pairs: Sequence[str] = (),
    ) -> None:
        self.pairs = list(pairs)
        self.options, self.setting, self.faculties = options, setting, dict(faculties)
        #: Time that answers take, read or computed; what is only looked at (``fill=False``) does not count.
        self.clock = Clock(setting.device)

    def lesson(
        self, batch: TrainingBatch, step: int, terms: Mapping[str, Term], *, fill: bool = True
    ) -> Lesson:
        """Everything that ``terms`` (those active at ``step``) need of ``batch``; ``fill``: caches keep what is new."""
        at = Moment(step, list(batch.numbers), fill)
        lesson = Lesson(batch.gt, self.setting.scale)
        extra = self.options.terms.upcycle if "upcycle" in terms else None
        if extra is not None:
            from atelier.objectives.distill.upcycle import upcycle, zoom_out

            lesson.upcycled = upcycle(
                batch.gt,
                batch.lq,
                extra,
                scale=self.setting.scale,
                seed=self.setting.seed,
                step=step,
                numbers=batch.numbers,
            )
            lesson.zoomed = zoom_out(batch.lq, self.setting.scale) if extra.zoom_out else None
        by_side: dict[Side, Answers] = {}
        for side, faculty in self.faculties.items():
            mine = {name: term for name, term in terms.items() if self.side_of(name) == side}
            if mine:
                with self.clock.running() if fill else nullcontext():
                    by_side[side] = self._answers(faculty, mine, batch, lesson, at)
        lesson.answers = {name: by_side[self.side_of(name)] for name in terms}
        return lesson

    def _answers(
        self, faculty: Faculty, terms: Mapping[str, Term], batch: TrainingBatch, lesson: Lesson, at: Moment
    ) -> Answers:
        answers = faculty.answer(
            batch.lq,
            batch.gt,
            output=any(term.needs_output for term in terms.values()),
            features=any(term.needs_taps for term in terms.values()),
            at=at,
        )
        if "upcycle" in terms and lesson.upcycled is not None:
            answers.tiles = faculty.output(lesson.upcycled.tiles, "tiles", at)
            if lesson.zoomed is not None:
                answers.zoom = faculty.output(lesson.zoomed, "zoom", at)
        return answers

    def side_of(self, term: str) -> Side:
        """Whether a term learns from the real teachers or from the random twin."""
        random: Collection[str] = self.options.random_teacher
        return "random" if term in random or term.rsplit("_", 1)[0] in random else "real"

    def stored(self, step: int, numbers: Sequence[int], terms: Mapping[str, Term]) -> bool:
        """Whether the caches hold everything that ``terms`` ask of their teachers for these samples of ``step``."""
        for side, faculty in self.faculties.items():
            mine = {name: term for name, term in terms.items() if self.side_of(name) == side}
            kinds = kinds_of(self.options, mine)
            if any(not cache.holds(kinds, step, numbers) for cache in faculty.caches if cache is not None):
                return False
        return True

    @property
    def caches(self) -> list[PlanCache]:
        """Those of all teachers."""
        return [cache for faculty in self.faculties.values() for cache in faculty.caches if cache is not None]

    def idle(self, teacher: Teacher) -> bool:
        """Whether every answer that the run needs of ``teacher`` is stored: then it is never called."""
        for faculty in self.faculties.values():
            for own, cache in zip(faculty.teachers, faculty.caches, strict=True):
                if own is teacher:
                    tapped = faculty.taps is not None and own is faculty.teachers[0]
                    return not tapped and cache is not None and cache.coverage(self.setting.total_iter) == 1
        return False

    @property
    def teachers(self) -> list[Teacher]:
        """All of them, real ones first."""
        return [teacher for faculty in self.faculties.values() for teacher in faculty.teachers]
