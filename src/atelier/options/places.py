"""Places in an option file: key paths, and how a place that cannot be read is shown."""

from __future__ import annotations

from atelier.errors import UserError

#: One place in the options: ``('train', 'optim_g', 'lr')``; list positions are ints.
KeyPath = tuple[str | int, ...]

#: Keys and values once aliases are expanded, and nesting: far above any option file, far below trouble.
MOST_VALUES = 100_000
MOST_DEPTH = 60


def dotted(path: KeyPath) -> str:
    """``train.losses.0.loss_weight``, as it is typed on the command line."""
    return ".".join(str(part) for part in path)


def syntax_error(name: str, text: str, line: int, column: int, problem: str) -> UserError:
    """``FILE:LINE:COLUMN: problem``, the line itself and a mark below the column (both counted from 1)."""
    lines = text.split("\n")
    shown = lines[min(line, len(lines)) - 1].rstrip("\r")
    # A tab moves the mark by an unknown width, so it is shown as one visible arrow.
    shown = "".join(c if c.isprintable() else "→" if c == "\t" else "�" for c in shown)
    start = max(0, column - 60)
    shown = shown[start : start + 100]
    return UserError(f"{name}:{line}:{column}: {problem}\n    {shown}\n    {' ' * (column - 1 - start)}^")
