"""One conversion of a BasicSR file."""

from __future__ import annotations

import copy
from typing import Any

from atelier.options import foreign
from atelier.options.basicsr_table import TABLE
from atelier.options.messages import show


class Conversion(foreign.Conversion):
    """Keys that BasicSR does not know are mistakes: it ignores them silently."""

    table = TABLE
    sections_read = ("path", "train", "val", "logger", "dist_params")
    data_sets = ("train", "val")
    strict = True

    def component(self, *path: str) -> dict[str, Any] | None:
        """A section that has its own keys (a network, a loss), for changing; None where it is left out or null."""
        found = copy.deepcopy(self.sections(path))
        return found or None

    def flag(self, *path: str, default: bool) -> bool:
        """A key that is true or false; anything else is a mistake."""
        value = self.get(*path, default=default)
        if not isinstance(value, bool):
            self.problem(f"given {show(value)}, allowed: true or false", path)
            return default
        return value

    def pass_over(self, *path: str) -> None:
        """Count every key of a section that takes no part as read."""
        for name in self.sections(path):
            self.get(*path, name)
