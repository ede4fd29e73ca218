"""The terms of distillation: each turns what a step knows into one raw, unweighted number.

All compute in float32 whatever autocast says, and all treat the teacher's side as a constant: a gradient can only
reach the student and the term's own projectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.losses.affinity import Affinity, affinity_loss
from atelier.losses.attention import attention_loss
from atelier.losses.distances import mean_distance
from atelier.losses.feature import feature_loss, same_places
from atelier.losses.frequency import haar_loss, spectrum_loss
from atelier.losses.response import response_loss
from atelier.objectives.distill.normalise import Normaliser, build_normaliser
from atelier.objectives.distill.projectors import PairShape, build_projectors

if TYPE_CHECKING:
    from atelier.objectives.distill.term_options import (
        AffinityOptions,
        FeatureOptions,
        FrequencyOptions,
        ResponseOptions,
        TermsOptions,
        UpcycleOptions,
    )

T = TypeVar("T")
Pairs = tuple[tuple[Tensor, Tensor], ...]


@dataclass
class View:
    """What a step knows. Pictures are N×C×H×W in [0, 1], features B×C×H×W.

    Attributes:
        student: the student's output, graph attached.
        gt: the truth.
        lq: the input.
        scale: gt side over lq side.
        teacher: the teachers' combined output; None where no active term needs it.
        teachers: each teacher's output (``combine: separate``).
        pairs: (student feature, teacher feature) by the mapping; empty where no active term needs them.
        upcycle: (student's output with the operation undone, teacher's output) on the tiles.
        zoom: (student's output, teacher's output) on the reduced lq (``zoom_out``); both of lq's size.
    """

    student: Tensor
    gt: Tensor
    lq: Tensor
    scale: int
    teacher: Tensor | None = None
    teachers: tuple[Tensor, ...] = ()
    pairs: Pairs = ()
    upcycle: tuple[Tensor, Tensor] | None = None
    zoom: tuple[Tensor, Tensor] | None = None


class Term(nn.Module, ABC):
    """One distiller.

    Attributes:
        name: its name in ``distill.terms`` and in the log.
        needs_output: whether it reads ``view.teacher`` or ``view.teachers``.
        needs_taps: whether it reads ``view.pairs``.
    """

    name: str
    needs_output: bool = False
    needs_taps: ClassVar[bool] = False

    def forward(self, view: View) -> Tensor:
        """The raw value, 0-d, graph attached. Raises RuntimeError where the view lacks what the term needs."""
        with torch.autocast(view.student.device.type, enabled=False):
            return self.value(view)

    @abstractmethod
    def value(self, view: View) -> Tensor:
        """The raw value, with autocast off."""


class ResponseTerm(Term):
    """The student's output against the teacher's: the combined one, or one of several (``combine: separate``)."""

    def __init__(self, options: ResponseOptions, name: str = "response", teacher: int | None = None) -> None:
        super().__init__()
        self.name, self.needs_output = name, True
        self._loss, self._mask, self._teacher = options.loss, options.mask, teacher

    def value(self, view: View) -> Tensor:
        """Mean of m·ρ(S, T)."""
        teacher = view.teacher if self._teacher is None else view.teachers[self._teacher]
        return response_loss(view.student, _there(teacher, self), view.gt, self._loss, self._mask)


class FeatureTerm(Term):
    """ρ(P(F_s), N(F_t)) or, with the projector on the teacher's side, ρ(F_s, P(F_t)), pair by pair.

    ``projectors.state_dict()`` is what ``net_p_N.pth`` holds. In training mode every call shows the teacher's features
    to the normalisers, which matters during the first batches of ``calibrated`` alone.

    Attributes:
        projectors: one for each pair.
        normalisers: one for each pair.
        statistics: of the last call, for each pair: std of the student's tap, std of the teacher's tap, and the
            relative error ‖difference‖ / ‖the side without the projector‖; pairs×3 on the device, None before.
    """

    needs_taps = True
    statistics: Tensor | None

    def __init__(self, options: FeatureOptions, pairs: Sequence[PairShape]) -> None:
        super().__init__()
        self.name, self.statistics = "feature", None
        self._loss, self._sum, self._side = options.loss, options.pairs == "sum", options.projector.side
        self.projectors = build_projectors(
            pairs, options.projector.type, side=self._side, bias=options.projector.bias
        )
        self.normalisers = nn.ModuleList(
            build_normaliser(options.target_norm, pair.teacher) for pair in pairs
        )

    def value(self, view: View) -> Tensor:
        """Mean (or sum) over pairs."""
        pairs = _pairs(view, self)
        if self.training:
            for (_, teacher), normaliser in zip(pairs, self.normalisers, strict=True):
                cast(Normaliser, normaliser).observe(teacher)
        compared = self._compared(pairs)
        self.statistics = self._measured(pairs, compared)
        values = torch.stack([feature_loss(*each, self._loss) for each in compared])
        return values.sum() if self._sum else values.mean()

    @torch.no_grad()
    def _measured(self, pairs: Pairs, compared: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        rows = []
        for (student, teacher), (first, second) in zip(pairs, compared, strict=True):
            fixed = second if self._side == "student" else first
            rows.append(torch.stack([student.std(), teacher.std(), (first - second).norm() / fixed.norm()]))
        return torch.stack(rows)

    def _compared(self, pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
        """What stands on both sides of ρ, equal shapes."""
        sides = []
        for (student, teacher), projector, normaliser in zip(
            pairs, self.projectors, self.normalisers, strict=True
        ):
            student, teacher = same_places(student, normaliser(teacher))
            on_student = self._side == "student"
            sides.append((projector(student), teacher) if on_student else (student, projector(teacher)))
        return sides


class AffinityTerm(Term):
    """Likeness of places, channels or samples, mean over pairs; no projector."""

    needs_taps = True

    def __init__(self, options: AffinityOptions, pairs: Sequence[PairShape]) -> None:
        super().__init__()
        self.name = "affinity"
        self.affinity = Affinity(options.mode, options.window, options.pooled, options.max_elements)
        for place, (student, teacher, names) in enumerate(pairs, start=1):
            if options.mode == "channel" and student != teacher:
                raise UserError(
                    f"distill.terms.affinity: mode channel needs equal channels, but pair {place} has {student} "
                    f"(student '{names[0]}') and {teacher} (teacher '{names[1]}'); "
                    "use window, pooled, full or batch"
                )

    def value(self, view: View) -> Tensor:
        """Mean over pairs of mean |A_s - A_t|."""
        pairs = [same_places(*pair) for pair in _pairs(view, self)]
        return torch.stack([affinity_loss(*pair, self.affinity) for pair in pairs]).mean()


class AttentionTerm(Term):
    """Where the energy of the features lies, mean over pairs."""

    needs_taps = True

    def __init__(self) -> None:
        super().__init__()
        self.name = "attention"

    def value(self, view: View) -> Tensor:
        """Mean over pairs of Σ(Q_s - Q_t)²."""
        return torch.stack([attention_loss(*same_places(*pair)) for pair in _pairs(view, self)]).mean()


class FrequencyTerm(Term):
    """Spectra or Haar bands of the student's output against the teacher's or the truth."""

    def __init__(self, options: FrequencyOptions) -> None:
        super().__init__()
        self.name, self.needs_output = "frequency", options.target == "teacher"
        self._options = options

    def value(self, view: View) -> Tensor:
        """l1 of moduli (fft) or of weighted bands (haar)."""
        target = _there(view.teacher, self).detach() if self.needs_output else view.gt
        if self._options.kind == "haar":
            return haar_loss(view.student, target, self._options.bands)
        return spectrum_loss(view.student, target, highpass=self._options.highpass)


class UpcycleTerm(Term):
    """Inputs that only the teacher can label: tiles of the truth and, with ``zoom_out``, the reduced lq."""

    def __init__(self, options: UpcycleOptions) -> None:
        super().__init__()
        self.name = "upcycle"
        self._loss, self._zoom_out = options.loss, options.zoom_out

    def value(self, view: View) -> Tensor:
        """ρ(op⁻¹(S(op(U))), T(U)), and with ``zoom_out`` + ρ(S(x), LR) + ρ(S(x), T(x))."""
        student, teacher = _there(view.upcycle, self)
        total = mean_distance(student, teacher.detach(), self._loss)
        if self._zoom_out:
            student, teacher = _there(view.zoom, self)
            total = total + mean_distance(student, view.lq, self._loss)
            total = total + mean_distance(student, teacher.detach(), self._loss)
        return total


def build_terms(options: TermsOptions, pairs: Sequence[PairShape], separate: int = 0) -> dict[str, Term]:
    """The terms of a run by log name, in the options' order, on the CPU.

    Args:
        options: ``distill.terms``.
        pairs: shapes of the tap pairs; unused where no term needs taps.
        separate: number of teachers with a response term each (``response_1``, ``response_2`` ...); 0: the combined
            output has the one response term.

    Raises:
        UserError: channels that do not fit a term, or a term on features where there is no pair.
    """
    terms: dict[str, Term] = {}
    if options.response is not None:
        if separate:
            for place in range(separate):
                name = f"response_{place + 1}"
                terms[name] = ResponseTerm(options.response, name, place)
        else:
            terms["response"] = ResponseTerm(options.response)
    if options.feature is not None:
        terms["feature"] = FeatureTerm(options.feature, pairs)
    if options.affinity is not None:
        terms["affinity"] = AffinityTerm(options.affinity, pairs)
    if options.attention is not None:
        terms["attention"] = AttentionTerm()
    if options.frequency is not None:
        terms["frequency"] = FrequencyTerm(options.frequency)
    if options.upcycle is not None:
        terms["upcycle"] = UpcycleTerm(options.upcycle)
    lonely = [name for name, term in terms.items() if term.needs_taps and not pairs]
    if lonely:
        raise UserError(
            f"distill.terms: {', '.join(lonely)} compares features, but there is no pair of taps; "
            "name modules under distill.taps"
        )
    return terms


def _pairs(view: View, term: Term) -> Pairs:
    """The view's pairs in at least float32, the teacher's side a constant."""
    pairs = _there(view.pairs or None, term)
    return tuple((_wide(student), _wide(teacher.detach())) for student, teacher in pairs)


def _there(value: T | None, term: Term) -> T:
    if value is None:
        raise RuntimeError(f"the view of this step lacks what the term '{term.name}' needs")
    return value


def _wide(feature: Tensor) -> Tensor:
    return feature if feature.dtype == torch.float64 else feature.float()
