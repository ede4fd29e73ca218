"""Looked at before the first step: is the teacher still, does every term teach, and how loud is each?

Nothing is left behind: statistics, random numbers and gradients are what they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atelier.errors import UserError
from atelier.objectives.base import Findings, TrainingBatch
from atelier.objectives.distill.apprentice import Apprentice
from atelier.objectives.distill.objective import DistillObjective
from atelier.objectives.distill.teacher import Teacher, fingerprint

# A term this much louder than the pixel losses drowns them; this much quieter does nothing.
_LOUD, _SILENT = 5.0, 0.001


@dataclass(frozen=True)
class TermCheck:
    """One term on the first batch.

    Attributes:
        name: of the term.
        raw, weighted: its value; weighted at its full weight, whenever that comes.
        loss_share: weighted over the whole.
        value_ratio: weighted over the pixel losses.
        gradient_ratio: norm of its weighted gradient on the student over the pixel losses'.
        projector: norm of its gradient on its own parameters; None where it has none.
    """

    name: str
    raw: float
    weighted: float
    loss_share: float
    value_ratio: float
    gradient_ratio: float
    projector: float | None


@dataclass(frozen=True)
class _Few:
    """Some samples of a batch."""

    lq: Tensor
    gt: Tensor
    numbers: Sequence[int]


def preflight(objective: DistillObjective, batch: TrainingBatch) -> Findings:
    """Check teachers and terms on ``batch``.

    Raises:
        UserError: a teacher that is not still, not frozen, or gives another shape or non-finite values; a term that is
            not finite or moves neither student nor projector.
    """
    apprentice = objective.apprentice
    if apprentice is None or objective.balance is None:
        return Findings()
    school = apprentice.school
    if school.caches:
        batch = _one_pass(batch, school.setting.together)
    lines = [_look_at(teacher, batch, idle=school.idle(teacher)) for teacher in school.teachers]
    lines += [line for cache in school.caches for line in cache.lines()]
    lines += school.pairs
    # In evaluation mode statistics are not gathered, which would be a meeting of all ranks.
    apprentice.terms.eval()
    try:
        with torch.random.fork_rng(devices=_cuda(batch.lq.device)):
            pixel, checks = _terms(objective, apprentice, batch)
    finally:
        apprentice.terms.train()
    for teacher in apprentice.school.teachers:
        if any(parameter.grad is not None for parameter in teacher.net.parameters()):
            raise UserError(f"{teacher.title}: a term sent a gradient into the teacher")
        teacher.verify()
    lines.append(f"pixel losses {pixel:.3e} on the first batch")
    lines += [_line(check) for check in checks]
    return Findings(tuple(lines), tuple(warnings_of(checks)))


def _one_pass(batch: TrainingBatch, count: int) -> TrainingBatch:
    """The first ``count`` samples: those of step 1 and of one forward pass, which a cache may know."""
    return _Few(batch.lq[:count], batch.gt[:count], batch.numbers[:count])


def _look_at(teacher: Teacher, batch: TrainingBatch, *, idle: bool = False) -> str:
    awake = [name or "the network" for name, module in teacher.net.named_modules() if module.training]
    if awake:
        raise UserError(f"{teacher.title}: {awake[0]} is in training mode")
    if any(parameter.requires_grad for parameter in teacher.net.parameters()):
        raise UserError(f"{teacher.title}: it is not frozen")
    if idle:
        return f"{_named(teacher)}, never called: every answer is stored"
    before = fingerprint(teacher.net)
    first, second = teacher.output(batch.lq), teacher.output(batch.lq)
    if not bool(first.isfinite().all()):
        raise UserError(f"{teacher.title}: its output on the first batch is not finite")
    if not torch.equal(first, second):
        raise UserError(
            f"{teacher.title}: two passes over one batch differ by {float((first - second).abs().max()):.1e}: "
            "something in it draws random numbers"
        )
    if fingerprint(teacher.net) != before:
        raise UserError(f"{teacher.title}: its buffers change while it runs")
    if first.shape != batch.gt.shape:
        raise UserError(
            f"{teacher.title}: its output is {tuple(first.shape)}, the truth {tuple(batch.gt.shape)}"
        )
    low, high, mean = float(first.min()), float(first.max()), float(first.mean())
    if high > 4 or low < -3 or abs(mean - float(batch.gt.mean())) > 0.25:
        raise UserError(
            f"{teacher.title}: its output lies in [{low:.2f}, {high:.2f}] around {mean:.2f}, the truth around "
            f"{float(batch.gt.mean()):.2f}: it does not give pictures in [0, 1] of this task"
        )
    half = f", bf16 is {teacher.half_db:.1f} dB from fp32" if teacher.half_db is not None else ""
    return f"{_named(teacher)}, still and frozen{half}"


def _named(teacher: Teacher) -> str:
    count = sum(parameter.numel() for parameter in teacher.net.parameters())
    facts = f"{teacher.facts.architecture} x{teacher.facts.scale}, {count:,} parameters"
    if not teacher.learned:
        return f"untrained twin of the teacher {teacher.options.weights}: {facts}, drawn from the run's seed"
    return f"teacher: {facts}, {teacher.options.weights} (sha256 {teacher.digest[:12]})"


def _terms(
    objective: DistillObjective, apprentice: Apprentice, batch: TrainingBatch
) -> tuple[float, list[TermCheck]]:
    terms = {name: apprentice.terms[name] for name in apprentice.terms}
    lesson = apprentice.school.lesson(batch, 1, terms, fill=False)  # type: ignore[arg-type]
    attempt = apprentice(batch.lq, lesson)
    pixel = objective.pixel(attempt.out, batch.gt)
    student = [each for each in apprentice.network.parameters() if each.requires_grad]
    norm = _norm(pixel, student)
    measured: list[tuple[str, float, float, float, float | None]] = []
    for name, raw in attempt.raw.items():
        value = float(raw.detach())
        if not math.isfinite(value):
            raise UserError(f"distill.terms.{name}: its value on the first batch is not finite")
        own = [each for each in apprentice.terms[name].parameters() if each.requires_grad]
        moved = _norm(raw, student)
        projector = _norm(raw, own) if own else None
        if not moved > 0:
            raise UserError(f"distill.terms.{name}: it does not move the student (gradient {moved:.1e})")
        if projector is not None and not projector > 0:
            raise UserError(f"distill.terms.{name}: it does not move its projectors")
        weight = _full_weight(objective, name, norm, moved, float(pixel.detach()), value)
        measured.append((name, value, weight, moved, projector))
    base = float(pixel.detach())
    total = base + sum(weight * value for _, value, weight, _, _ in measured)
    checks = [
        TermCheck(
            name=name,
            raw=value,
            weighted=weight * value,
            loss_share=weight * value / total,
            value_ratio=weight * value / base,
            gradient_ratio=weight * moved / norm,
            projector=projector,
        )
        for name, value, weight, moved, projector in measured
    ]
    return base, checks


def _norm(value: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    """The norm on this rank alone: preflight runs on one."""
    gradients = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
    squares = [float(each.double().square().sum()) for each in gradients if each is not None]
    return math.sqrt(sum(squares))


def _full_weight(
    objective: DistillObjective, name: str, pixel_norm: float, norm: float, pixel: float, value: float
) -> float:
    """The factor at its height: the value itself, or what its ratio or share asks for on this batch."""
    assert objective.balance is not None
    schedule = objective.balance.schedules[name]
    if schedule.kind == "value":
        return schedule.number
    if schedule.kind == "grad_ratio":
        return schedule.number * pixel_norm / norm
    return schedule.number / (1 - schedule.number) * pixel / value


def _line(check: TermCheck) -> str:
    own = f", projectors' gradient {check.projector:.1e}" if check.projector is not None else ""
    return (
        f"term {check.name}: raw {check.raw:.3e}, weighted {check.weighted:.3e}, {check.loss_share:.1%} of the loss, "
        f"gradient on the student {check.gradient_ratio:.3g} of the pixel losses'{own}"
    )


def warnings_of(checks: Sequence[TermCheck]) -> list[str]:
    """Terms that drown the pixel losses, in value or in gradient, and those that do next to nothing."""
    found = []
    for check in checks:
        if max(check.gradient_ratio, check.value_ratio) > _LOUD:
            found.append(
                f"distill.terms.{check.name}: its value is {check.value_ratio:.2g} times, its gradient on the student "
                f"{check.gradient_ratio:.2g} times the pixel losses'; lower its weight, or use weight: "
                "{grad_ratio: 0.5}"
            )
        elif check.gradient_ratio < _SILENT:
            found.append(
                f"distill.terms.{check.name}: its gradient is {check.gradient_ratio:.1e} of the pixel losses': it does "
                "next to nothing; raise its weight, or use weight: {grad_ratio: 0.1}"
            )
    return found


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
