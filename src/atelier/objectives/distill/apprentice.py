"""The student together with what learns beside it, as one module: its forward gives the output and every raw term.

One module, because ranks wrap a module: gradients of student and projectors are then shared in one pass, and all
inputs of a step (its own, upcycled tiles, the reduced picture) go through a single wrapped forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atelier.objectives.distill.terms import FeatureTerm, Term, View

if TYPE_CHECKING:
    from atelier.objectives.distill.school import School
    from atelier.objectives.distill.taps import Taps
    from atelier.objectives.distill.upcycle import Upcycled


PROJECTORS = "terms.feature.projectors"
"""Where the projectors are in an :class:`Apprentice`: the beginning of their parameters' names."""


@dataclass
class Answers:
    """What one teacher side (the real one, or the random twin) gave for a batch; None and empty where not needed.

    Attributes:
        combined: the teachers' combined output.
        each: each teacher's output.
        features: of the first teacher, one for each pair.
        tiles: on the upcycled tiles.
        zoom: on the reduced picture.
    """

    combined: Tensor | None = None
    each: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    tiles: Tensor | None = None
    zoom: Tensor | None = None


@dataclass
class Lesson:
    """One batch with everything that the terms active at its step need.

    Attributes:
        gt: the truth.
        scale: gt side over lq side.
        answers: term -> what its teacher gave; the terms active at this step, in order.
        upcycled: tiles of the truth as inputs, with the way back; None where no term asks for them.
        zoomed: the reduced lq; None where no term asks for it.
    """

    gt: Tensor
    scale: int
    answers: Mapping[str, Answers] = field(default_factory=dict)
    upcycled: Upcycled | None = None
    zoomed: Tensor | None = None


@dataclass
class Attempt:
    """What the student made of a lesson.

    Attributes:
        out: its output.
        raw: each active term's unweighted value, 0-d, graph attached.
        statistics: of the feature term (:attr:`FeatureTerm.statistics`), or None.
    """

    out: Tensor
    raw: dict[str, Tensor]
    statistics: Tensor | None = None


class Apprentice(nn.Module):
    """The student (``network``) and the terms with their projectors (``terms``).

    Args:
        network: the student; weight files, averages and validation know it alone.
        terms: by log name.
        taps: where its features are taken; None where no term compares features.
        order: for each pair, the place in ``taps`` (from 0) of its student tap.
        pairs: (teacher tap, student tap), from 1, as the log and the checkpoint tell them.
        school: teachers and plans; no part of the module.
        tapped: for each pair the names of its modules, student first.
    """

    def __init__(
        self,
        network: nn.Module,
        terms: Mapping[str, Term],
        taps: Taps | None,
        order: Sequence[int],
        pairs: Sequence[tuple[int, int]],
        school: School,
        tapped: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.terms = nn.ModuleDict(terms)
        self.taps, self.order, self.pairs = taps, list(order), list(pairs)
        self.school, self.tapped = school, list(tapped)

    def forward(self, lq: Tensor, lesson: Lesson) -> Attempt:
        """``lq`` [N, C, H, W] and its lesson to the output and the raw terms."""
        wanted = {name: self._term(name) for name in lesson.answers}
        looks = self.taps is not None and any(term.needs_taps for term in wanted.values())
        inputs = [lq] if lesson.upcycled is None else [lq, lesson.upcycled.inputs]
        count = lq.shape[0]
        if self.taps is not None:
            self.taps.enabled = looks
        outs = self.network(torch.cat(inputs) if len(inputs) > 1 else lq)
        features: list[Tensor] = []
        if self.taps is not None and looks:
            features = [feature[:count] for feature in self.taps.collect()]
            self.taps.enabled = False
        out = outs[:count]
        tiles = lesson.upcycled.undo(outs[count:]) if lesson.upcycled is not None else None
        zoom = self.network(lesson.zoomed) if lesson.zoomed is not None else None
        attempt = Attempt(out, {})
        for name, term in wanted.items():
            view = self._view(lq, lesson, lesson.answers[name], (out, features, tiles, zoom))
            attempt.raw[name] = term(view)
            if isinstance(term, FeatureTerm):
                attempt.statistics = term.statistics
        return attempt

    def _view(
        self,
        lq: Tensor,
        lesson: Lesson,
        answers: Answers,
        student: tuple[Tensor, list[Tensor], Tensor | None, Tensor | None],
    ) -> View:
        out, features, tiles, zoom = student
        pairs = zip(self.order, answers.features, strict=False)
        return View(
            student=out,
            gt=lesson.gt,
            lq=lq,
            scale=lesson.scale,
            teacher=answers.combined,
            teachers=answers.each,
            pairs=tuple((features[place], theirs) for place, theirs in pairs),
            upcycle=(tiles, answers.tiles) if tiles is not None and answers.tiles is not None else None,
            zoom=(zoom, answers.zoom) if zoom is not None and answers.zoom is not None else None,
        )

    def _term(self, name: str) -> Term:
        term = self.terms[name]
        assert isinstance(term, Term)
        return term

    @property
    def projectors(self) -> nn.ModuleList | None:
        """The feature term's projectors, one for each pair; None where there is no such term."""
        terms = dict(self.terms.named_children())
        term = terms.get("feature")
        return term.projectors if isinstance(term, FeatureTerm) else None
