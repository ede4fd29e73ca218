"""File name templates: how the name of an LQ picture follows from that of its gt (``{}x4``)."""

from __future__ import annotations

import re
from typing import Final

from atelier.errors import UserError

TEMPLATE_RULE: Final = "must contain {} exactly once and no '/', for example '{}x4'"


def is_template(text: str) -> bool:
    """Whether ``text`` obeys :data:`TEMPLATE_RULE`."""
    return text.count("{}") == 1 and not set(text.replace("{}", "")) & set("{}/")


def require_template(text: str) -> None:
    """Raises :class:`UserError` where ``text`` is no template."""
    if not is_template(text):
        raise UserError(f"the file name template '{text}' {TEMPLATE_RULE}")


def plain_stem(stem: str, filename_tmpl: str = "{}") -> str:
    """The name without the mark that LQ files carry (``0001x4`` -> ``0001``), so that sub-images pair by name.

    With a template of its own (``{}x2``) exactly that is taken off. Without one, an x with 2, 3, 4 or 8 goes when it
    ends the stem and follows a digit, as in DIV2K: ``0001x4``, but not ``fox2`` (BasicSR's script makes it ``fo``).

    Raises:
        UserError: the template is none, or the name does not fit it.
    """
    require_template(filename_tmpl)
    if filename_tmpl == "{}":
        return re.sub(r"(?<=\d)x[2348]$", "", stem)
    before, _, after = filename_tmpl.partition("{}")
    if len(stem) <= len(before + after) or not (stem.startswith(before) and stem.endswith(after)):
        raise UserError(f"the name '{stem}' does not fit the file name template '{filename_tmpl}'")
    return stem[len(before) : len(stem) - len(after)]
