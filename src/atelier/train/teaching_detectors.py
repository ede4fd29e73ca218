"""Detectors of a distilled run: features that shrink instead of growing alike, and terms that stopped mattering."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atelier.train.detector_options import TeachingOptions
from atelier.train.detectors import Alarm, train_records

Record = Mapping[str, Any]
_STD, _SHARE, _GRADIENT = "tap_std_student_", "share_", "grad_share_"


def feature_collapse(records: Sequence[Record], options: TeachingOptions) -> Alarm | None:
    """A student tap's std fell far below where it began.

    With a projector on the teacher's side and a raw target the shortest way to a small feature loss is small features:
    the curve falls and nothing is learned, with a random teacher just as well.
    """
    lines = [line for line in train_records(records) if line.get("details")]
    if len(lines) < 2:
        return None
    first, last = lines[0]["details"], lines[-1]["details"]
    for name in [each for each in first if each.startswith(_STD)]:
        before, now = _number(first, name), _number(last, name)
        if before > 0 and now < options.least_std * before:
            seen = (
                f"the student's features of pair {name.removeprefix(_STD)} have {now / before:.0%} of the spread they "
                "had at the first log line"
            )
            remedy = (
                "Put the projector on the student's side with a normalised target (recipe feature@1), or lower the "
                "term's weight"
            )
            return Alarm("feature collapse", int(lines[-1]["iter"]), seen, remedy)
    return None


def dead_term(records: Sequence[Record], options: TeachingOptions, total_iter: int) -> Alarm | None:
    """A term's share of the gradient stayed below ``least_share`` for ``dead_for`` of the run.

    What holds over that stretch counts: its measurements and the one before it. Where there is none (short runs,
    ``gradients_every: 0``) the share of the loss is looked at, of which every log line tells.
    """
    lines = [line for line in train_records(records) if line.get("details")]
    if not lines:
        return None
    last = int(lines[-1]["iter"])
    window = max(1, math.ceil(options.dead_for * total_iter))
    recent = [line for line in lines if int(line["iter"]) > last - window]
    if last < window or len(recent) < options.least_lines:
        return None
    for name in [each for each in recent[-1]["details"] if each.startswith(_SHARE)]:
        term = name.removeprefix(_SHARE)
        measured = _held(lines, _GRADIENT + term, last - window)
        shares = measured or [_number(line["details"], name) for line in recent]
        if all(share < options.least_share for share in shares):
            what = "the student's gradient" if measured else "the loss"
            seen = f"{term} was below {options.least_share:.1%} of {what} over the last {window:,} steps"
            remedy = f"Raise distill.terms.{term}.weight, give it a grad_ratio, or leave the term out and save its cost"
            return Alarm("dead term", last, seen, remedy)
    return None


def _held(lines: Sequence[Record], name: str, start: int) -> list[float]:
    """The values under ``name`` that hold after step ``start``; none where it was measured at the beginning alone."""
    points = [
        (int(line["iter"]), _number(line["details"], name)) for line in lines if name in line["details"]
    ]
    if len(points) < 2:
        return []
    before = [value for step, value in points if step <= start]
    return [*before[-1:], *(value for step, value in points if step > start)]


def _number(details: Mapping[str, Any], name: str) -> float:
    try:
        return float(details[name])
    except (KeyError, TypeError, ValueError):
        return math.nan
