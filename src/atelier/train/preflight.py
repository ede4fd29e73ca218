"""What an objective and its guides must show before a new run's first step."""

from __future__ import annotations

from torch import nn

from atelier.data.batch import Batch
from atelier.errors import UserError
from atelier.objectives.base import Guide
from atelier.train.distributed import Ranks
from atelier.train.trainer import Trainer
from atelier.train.validating_clips import AnyValidator

#: Validation pictures on which a guide is compared.
PICTURES = 5


def look_ahead(
    trainer: Trainer, samples: Batch, validator: AnyValidator, ranks: Ranks, *, quiet: bool
) -> tuple[list[str], list[str]]:
    """(lines for the log, warnings) of the objective's preflight and of its guides' quality.

    Every rank must call it. Raises :class:`~atelier.errors.UserError` on all of them where training would not do what
    the options ask for.
    """
    lines: list[str] = []
    warnings: list[str] = []
    message = None
    if ranks.first:
        try:
            found = trainer.objective.preflight(samples)
            lines, warnings = list(found.lines), list(found.warnings)
        except UserError as error:
            message = str(error)
    ranks.agree_on_error(message)
    for guide in trainer.objective.guides():
        if guide.quality == "off":
            continue
        if not validator.can_compare:
            warnings.append(
                f"{guide.title}: without datasets.val and val.metrics nobody knows whether it is better than bicubic"
            )
            continue
        line, failure = _quality(guide, trainer.evaluation_net()[0], validator, quiet=quiet)
        lines.append(line)
        if failure is not None and guide.quality == "error":
            raise UserError(f"{failure}; quality_check: warn beside its weights goes on all the same")
        warnings += [failure] if failure is not None else []
    return lines, warnings


def _quality(
    guide: Guide, student: nn.Module, validator: AnyValidator, *, quiet: bool
) -> tuple[str, str | None]:
    """(what was measured, what is wrong with it)."""
    metric, values = validator.compare({"guide": guide.net, "student": student}, PICTURES, quiet=quiet)
    plain = next(name for name in values if name not in {"guide", "student"})
    line = (
        f"{guide.title}: {metric.protocol} {values['guide']:.2f} on {PICTURES} or fewer validation pictures; "
        f"{plain} {values[plain]:.2f}, the student as it starts {values['student']:.2f}"
    )
    for rival in (plain, "student") if guide.above_student else (plain,):
        better = (
            values["guide"] > values[rival] if metric.higher_is_better else values["guide"] < values[rival]
        )
        if not better:
            return line, (
                f"{guide.title}: with {metric.protocol} {values['guide']:.2f} it is no better than "
                f"{'the student as it starts' if rival == 'student' else rival} ({values[rival]:.2f}): such a teacher "
                "pulls the student down"
            )
    return line, None
