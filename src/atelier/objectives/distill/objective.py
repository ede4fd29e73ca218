"""The distill objective: the run's losses, as the pixel objective has them, plus the teacher's terms.

Without terms this is the pixel objective under the names of the original study's log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.objectives.base import Findings, Guide, Objective, Part, TrainingBatch
from atelier.objectives.distill.apprentice import Apprentice, Attempt
from atelier.objectives.distill.options import DistillOptions
from atelier.objectives.distill.projectors import load_projectors
from atelier.objectives.distill.taking_up import Pairs, in_words, take
from atelier.objectives.distill.term_options import TermOptions
from atelier.objectives.distill.weights import Balance, gradient_norm
from atelier.objectives.terms import named_terms

if TYPE_CHECKING:
    from atelier.losses.module import Loss
    from atelier.objectives.distill.plan_cache import PlanCache
    from atelier.objectives.distill.terms import Term

# The names of the original's log; every other loss and term keeps its own.
LOG_NAMES = {"response": "distill"}
CONTENT_NAMES = {"L1Loss": "L1", "MSELoss": "L2", "L2Loss": "L2", "CharbonnierLoss": "charbonnier"}
TOTAL = "G_loss"


class DistillObjective(Objective):
    """One part a step: content losses of the student's output and the weighted terms.

    Args:
        options: recipe, teachers, terms.
        net: the :class:`Apprentice`, wrapped or not; or the plain network, which is then judged by the content losses
            alone (no terms, or a start that is being compared).
        losses: the run's content losses, each with its ``type``.
    """

    def __init__(self, options: DistillOptions, net: nn.Module, losses: Sequence[tuple[str, Loss]]) -> None:
        self.options = options
        self._net, self._losses = net, list(losses)
        inner = getattr(net, "module", net)
        self.apprentice = inner if isinstance(inner, Apprentice) else None
        self.balance: Balance | None = None
        self._carried: dict[str, str] | None = None
        self._told: list[str] = []
        if self.apprentice is not None:
            setting = self.apprentice.school.setting
            weights = {name: self._options_of(name).weight for name in self.apprentice.terms}
            self.balance = Balance(weights, setting.total_iter, setting.device)

    def _options_of(self, name: str) -> TermOptions:
        active = self.options.terms.active
        return active[name] if name in active else active[name.rsplit("_", 1)[0]]

    @property
    def roles(self) -> tuple[str, ...]:
        """The student."""
        return DistillOptions.roles

    def parts(self, batch: TrainingBatch, step: int) -> Iterator[Part]:
        """The step's one part."""
        if self.apprentice is None or self.balance is None:
            content = self._content(self._net(batch.lq), batch.gt)
            total = _sum(content)
            yield Part("g", total, self._logged(content, {}, total))
            return
        terms = self.terms_at(step)
        lesson = self.apprentice.school.lesson(batch, step, terms)
        attempt: Attempt = self._net(batch.lq, lesson)
        content = self._content(attempt.out, batch.gt)
        pixel = _sum(content)
        student = list(self.apprentice.network.parameters())
        weights = self.balance.weights(step, pixel, attempt.raw, student)
        weighted = {name: weights[name] * value for name, value in attempt.raw.items()}
        total = _sum({"pixel": pixel, **weighted})
        details = _details(attempt, weighted, total.detach())
        every = self.options.gradients_every
        if weighted and every and (step == 1 or step % every == 0):
            details |= _gradient_shares(pixel, weighted, student)
        yield Part("g", total, self._logged(content, weighted, total), details)

    def terms_at(self, step: int) -> dict[str, Term]:
        """The terms that count at ``step``."""
        assert self.apprentice is not None and self.balance is not None
        active = self.balance.active(step)
        return {name: self.apprentice.terms[name] for name in active}  # type: ignore[misc]

    def stored(self, step: int, numbers: Sequence[int]) -> bool:
        """Whether no teacher has to be asked for an output that step ``step`` needs, all of them cached."""
        assert self.apprentice is not None
        return self.apprentice.school.stored(step, numbers, self._answering(step))

    def store(self, batch: TrainingBatch, step: int) -> None:
        """Ask the teachers what :meth:`parts` would ask of their outputs, for the caches to keep; nothing learns."""
        assert self.apprentice is not None
        self.apprentice.school.lesson(batch, step, self._answering(step))

    def _answering(self, step: int) -> dict[str, Term]:
        """The terms of ``step`` that need outputs; features are never stored."""
        found = self.terms_at(step)
        return {name: term for name, term in found.items() if term.needs_output or name == "upcycle"}

    def pixel(self, out: Tensor, gt: Tensor) -> Tensor:
        """The sum of the run's own losses, 0-d."""
        return _sum(self._content(out, gt))

    def _content(self, out: Tensor, gt: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for kind, loss in self._losses:
            before = set(terms)
            terms = named_terms([loss], out, gt, terms)
            new = [name for name in terms if name not in before]
            own = CONTENT_NAMES.get(kind)
            if own is not None and len(new) == 1 and own not in terms:
                terms[own] = terms.pop(new[0])
        return terms

    def _logged(
        self,
        content: Mapping[str, Tensor],
        weighted: Mapping[str, Tensor],
        total: Tensor,
    ) -> dict[str, Tensor]:
        """Weighted values under the field's names, and their sum."""
        values = {f"l_g_{name}": value.detach() for name, value in content.items()}
        values |= {f"l_g_{LOG_NAMES.get(name, name)}": value.detach() for name, value in weighted.items()}
        values[TOTAL] = total.detach()
        return values

    def preflight(self, batch: TrainingBatch) -> Findings:
        """See :mod:`atelier.objectives.distill.preflight`."""
        from atelier.objectives.distill.preflight import preflight

        return preflight(self, batch)

    def guides(self) -> Sequence[Guide]:
        """The real teachers; a random twin is meant to be bad."""
        if self.apprentice is None:
            return ()
        real = self.apprentice.school.faculties.get("real")
        copied = self.options.start == "teacher" and "start" not in self.options.random_teacher
        return [
            Guide(teacher.title, teacher.net, teacher.options.quality_check, above_student=not copied)
            for teacher in (real.teachers if real is not None else [])
        ]

    def files(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The projectors as ``net_p``, with the keys of the original's ``N_P.pth``."""
        projectors = self.apprentice.projectors if self.apprentice is not None else None
        state = projectors.state_dict() if projectors is not None else {}
        return {"p": state} if state else {}

    def load_files(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The projectors of the original's ``N_P.pth``.

        Raises:
            UserError: there are no projectors here, or others.
        """
        projectors = self.apprentice.projectors if self.apprentice is not None else None
        if projectors is None:
            super().load_files(files)
        elif "p" in files:
            load_projectors(projectors, files["p"], "the checkpoint's N_P.pth")

    def modules(self) -> Mapping[str, nn.Module]:
        """The loss modules by their place, and the projectors."""
        found: dict[str, nn.Module] = {f"loss_{place}": loss for place, (_, loss) in enumerate(self._losses)}
        if self.apprentice is not None and self.apprentice.projectors is not None:
            found["projectors"] = self.apprentice.projectors
        return found

    def state_dict(self) -> dict[str, Any]:
        """Projectors, statistics, balance, and who taught: a resume with another teacher is refused."""
        if self.apprentice is None or self.balance is None:
            return {}
        return {
            "terms": self.apprentice.terms.state_dict(),
            "balance": self.balance.state_dict(),
            "teachers": [teacher.digest for teacher in self.apprentice.school.teachers],
            "taught": self._taught(),
            "features": self._features(),
            "caches": [store.folder.name for cache in self._caches() for store in cache.stores.values()],
        }

    def _taught(self) -> dict[str, Any]:
        assert self.apprentice is not None
        return {"terms": list(self.apprentice.terms), "pairs": [list(pair) for pair in self.apprentice.pairs]}

    def _features(self) -> dict[str, Any]:
        assert self.apprentice is not None
        feature = self.options.terms.feature
        return {
            "taps": [list(names) for names in self.apprentice.tapped],
            "side": feature.projector.side if feature is not None else None,
            "own_rate": self.options.projector_lr != 1.0 and bool(self.files()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back :meth:`state_dict`; of other terms, pairs or projectors what is still there.

        What begins afresh or is left out is said by :meth:`remarks`, and :meth:`carried` knows it.

        Raises:
            UserError: the teacher, the terms or the mapping are others, and ``allow_change`` does not allow it.
        """
        if self.apprentice is None or self.balance is None:
            if state and not self.options.allow_change:
                raise UserError(
                    "the checkpoint was distilled and this run has no terms; distill.allow_change=true goes on so"
                )
            if state:
                self._carried = {}
                self._told.append("this run has no terms: what the checkpoint holds of them is left out")
            return
        own = self.state_dict()
        changed = [key for key in ("teachers", "taught") if state.get(key) != own[key]]
        if changed and not self.options.allow_change:
            what = {"teachers": "other teacher weights", "taught": "other terms or another mapping"}
            raise UserError(
                f"the checkpoint was trained with {' and '.join(what[key] for key in changed)} "
                f"(then {[state.get(key) for key in changed]}, now {[own[key] for key in changed]}); "
                "distill.allow_change=true goes on all the same"
            )
        taken = take(
            own["terms"],
            state.get("terms", {}),
            _pairs_in(own),
            _pairs_in(state),
            same_teachers="teachers" not in changed,
        )
        self.apprentice.terms.load_state_dict({**own["terms"], **taken.tensors})
        late = self.balance.load_state_dict(state.get("balance", {}))
        regrouped = own["features"]["own_rate"] != state.get("features", {}).get("own_rate", False)
        if regrouped or not taken.whole:
            self._carried = {f"terms.{now}": f"terms.{then}" for now, then in taken.keys.items()}
        afresh = [*in_words(taken.afresh), *(f"the weight of {name}" for name in late)]
        left = in_words(taken.left)
        self._told += [f"begins afresh: {', '.join(afresh)}"] if afresh else []
        self._told += [f"left out of the checkpoint: {', '.join(left)}"] if left else []

    def carried(self) -> Mapping[str, str] | None:
        """The projectors that go on, where any of either side does not, or where they got a rate of their own."""
        return self._carried

    def remarks(self) -> Sequence[str]:
        """What a resume could not keep, once, and what the teachers' caches mended."""
        told = [f"distill: {each}" for each in self._told]
        self._told.clear()
        return told + [remark for cache in self._caches() for remark in cache.remarks()]

    def close(self) -> Sequence[str]:
        """Write what the caches have only in memory; what they read and made."""
        return [line for cache in self._caches() for line in cache.close()]

    @torch.no_grad()
    def feature_maps(self, lq: Tensor) -> Sequence[tuple[str, Tensor, Tensor]]:
        """Of each pair of taps the mean of |F| over channels; none where no term compares features."""
        apprentice = self.apprentice
        if apprentice is None or apprentice.taps is None:
            return ()
        name = next(name for name, term in apprentice.terms.items() if term.needs_taps)
        faculty = apprentice.school.faculties[apprentice.school.side_of(name)]
        network, taps = apprentice.network, apprentice.taps
        training = network.training
        network.eval()
        taps.enabled = True
        try:
            network(lq)
            own = taps.collect()
        finally:
            taps.enabled = False
            network.train(training)
        theirs = faculty.answer(lq, lq, output=False, features=True).features
        # Behind the pairs' lines may stand one more, of taps without a pair.
        pairs = zip(apprentice.school.pairs, apprentice.order, theirs, strict=False)
        return [
            (line, own[place][0].abs().mean(0).float(), other[0].abs().mean(0))
            for line, place, other in pairs
        ]

    def guided_seconds(self) -> float | None:
        """Time that the teachers' answers took since the last call; None without teachers."""
        return self.apprentice.school.clock.take() if self.apprentice is not None else None

    def on_disk(self) -> Mapping[str, int]:
        """The folders of the teachers' caches, in bytes."""
        return {folder: size for cache in self._caches() for folder, size in cache.sizes().items()}

    def _caches(self) -> list[PlanCache]:
        return self.apprentice.school.caches if self.apprentice is not None else []

    def verify(self) -> None:
        """Raises :class:`~atelier.errors.RunStopped` where a teacher is not bit for bit what it was."""
        if self.apprentice is not None:
            for teacher in self.apprentice.school.teachers:
                teacher.verify()


def _pairs_in(state: Mapping[str, Any]) -> Pairs:
    """The pairs of a :meth:`DistillObjective.state_dict`; older ones know only their numbers."""
    features = state.get("features", {})
    return Pairs(state.get("taught", {}).get("pairs", []), features.get("taps"), features.get("side"))


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    """In order, as the pixel objective adds up: the same numbers bit for bit."""
    first, *others = terms.values()
    total = first
    for value in others:
        total = total + value
    return total


def _gradient_shares(
    pixel: Tensor, weighted: Mapping[str, Tensor], student: Sequence[nn.Parameter]
) -> dict[str, Tensor]:
    """Of each term the norm of its weighted gradient on the student over the sum of all norms, the pixel losses' too.

    Norms, because gradients that point apart cancel: a term may be most of what moves the student and nothing of the
    sum's length. Gradients are averaged over ranks first. 0 where nothing moves.
    """
    norms = {name: gradient_norm(value, student) for name, value in {"pixel": pixel, **weighted}.items()}
    whole = torch.stack(list(norms.values())).sum()
    return {f"grad_share_{name}": torch.where(whole > 0, norms[name] / whole, 0.0) for name in weighted}


def _details(attempt: Attempt, weighted: Mapping[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    """Of each term its raw value and its share of the total; of each pair std of both taps and relative error."""
    values: dict[str, Tensor] = {}
    for name, value in attempt.raw.items():
        values[f"raw_{name}"] = value.detach()
        values[f"share_{name}"] = weighted[name].detach() / total
    if attempt.statistics is not None:
        names = ("tap_std_student", "tap_std_teacher", "tap_error")
        for place, row in enumerate(attempt.statistics.unbind(), 1):
            values |= {f"{name}_{place}": value for name, value in zip(names, row.unbind(), strict=True)}
    return values
