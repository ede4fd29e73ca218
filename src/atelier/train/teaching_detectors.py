"""Detectors of a distilled run: features that shrink instead of growing alike, and terms that stopped mattering."""

from __future__ import annotations

import bisect
import math

from atelier.train.detector_options import TeachingOptions
from atelier.train.detectors import Alarm
from atelier.train.run_history import History, after, number

_STD, _SHARE, _GRADIENT = "tap_std_student_", "share_", "grad_share_"


def feature_collapse(history: History, options: TeachingOptions) -> Alarm | None:
    """A student tap's std fell far below where it began.

    With a projector on the teacher's side and a raw target the shortest way to a small feature loss is small features:
    the curve falls and nothing is learned, with a random teacher just as well.
    """
    lines = history.taught
    if len(lines) < 2:
        return None
    first, last = lines[0]["details"], lines[-1]["details"]
    for name in [each for each in first if each.startswith(_STD)]:
        before, now = number(first, name), number(last, name)
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


def dead_term(history: History, options: TeachingOptions, total_iter: int) -> Alarm | None:
    """A term's share of the gradient stayed below ``least_share`` for ``dead_for`` of the run.

    What holds over that stretch counts: its measurements and the one before it. Where there is none (short runs,
    ``gradients_every: 0``) the share of the loss is looked at, of which every log line tells.
    """
    lines = history.taught
    if not lines:
        return None
    last = int(lines[-1]["iter"])
    window = max(1, math.ceil(options.dead_for * total_iter))
    recent = after(lines, last - window)
    if last < window or len(recent) < options.least_lines:
        return None
    for name in [each for each in recent[-1]["details"] if each.startswith(_SHARE)]:
        term = name.removeprefix(_SHARE)
        measured = _held(history.details.get(_GRADIENT + term, []), last - window)
        shares = measured or [number(line["details"], name) for line in recent]
        if all(share < options.least_share for share in shares):
            what = "the student's gradient" if measured else "the loss"
            seen = f"{term} was below {options.least_share:.1%} of {what} over the last {window:,} steps"
            remedy = f"Raise distill.terms.{term}.weight, give it a grad_ratio, or leave the term out and save its cost"
            return Alarm("dead term", last, seen, remedy)
    return None


def _held(points: list[tuple[int, float]], start: int) -> list[float]:
    """The values that hold after step ``start``; none where there was a measurement at the beginning alone."""
    if len(points) < 2:
        return []
    first = bisect.bisect_right(points, start, key=lambda point: point[0])
    return [value for _, value in points[max(0, first - 1) :]]
