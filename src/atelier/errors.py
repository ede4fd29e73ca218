"""Errors that a user can cause, and how they read.

Every such error is one clear message (what is wrong, where, what was given, what is allowed) and ends the
command with exit code 2. Anything else that escapes is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used; the message says what, where, and what would be allowed."""


class RunStopped(UserError):
    """A run had to stop (non-finite loss, full disk, a dead rank); what was saved before stays valid."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like ``word``, or None when nothing is close.

    Comparison ignores case, and a beginning counts: ``swinir`` finds ``SwinIR``, ``L1`` finds ``L1Loss``.
    """
    by_lower = {name.lower(): name for name in known}
    if word and (longer := [name for lower, name in by_lower.items() if lower.startswith(word.lower())]):
        return min(longer, key=len)
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A half-sentence to append to an error: ``; did you mean 'SwinIR'?`` or nothing."""
    name = nearest(word, known)
    return f"; did you mean '{name}'?" if name else ""
