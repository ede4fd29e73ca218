"""Pictures for ``evaluate`` and ``compare``: gt and lq folders paired by name; what cannot pair is named."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.errors import UserError

if TYPE_CHECKING:
    from atelier.evaluate.pictures import PairSource


def open_pairs(
    gt: Path, lq: Path | None, *, scale: int, template: str | None = None
) -> tuple[list[PairSource], list[tuple[str, str]]]:
    """Pictures below ``gt`` with their partners below ``lq``, and (picture, reason) of those without one.

    Args:
        gt: a folder (read with its subfolders), an .lmdb folder or one picture.
        lq: likewise; None: lq is made when a picture is read.
        scale: for the usual name ``NAMExSCALE``.
        template: lq name for the gt name ``{}``; None tries ``{}``, then ``{}x2`` at scale 2.

    Raises:
        UserError: a folder does not exist or holds no pictures, or nothing pairs.
    """
    from atelier.data.pairs import match
    from atelier.data.sources import open_folders
    from atelier.data.templates import require_template
    from atelier.data.validation import unique_names
    from atelier.evaluate.pictures import PairSource

    if template is not None:
        require_template(template)
    clean = open_folders([gt], "--gt")
    names = unique_names(clean.items)
    if lq is None:
        sources: list[PairSource] = [
            PairSource(name, partial(clean.read, index)) for index, name in enumerate(names)
        ]
        return sources, []
    degraded = open_folders([lq], "--lq")
    templates = [template] if template is not None else ["{}", f"{{}}x{scale}"]
    found = [match(clean.items, degraded.items, each) for each in templates]
    partners, problems = max(found, key=lambda each: sum(partner is not None for partner in each[0]))
    if all(partner is None for partner in partners):
        raise UserError(
            f"no picture of --lq {lq} belongs to one of --gt {gt}; tried the names {' and '.join(templates)} for "
            "the gt name {}; give --filename-tmpl"
        )
    paired: list[PairSource] = [
        PairSource(names[index], partial(clean.read, index), partial(degraded.read, partner))
        for index, partner in enumerate(partners)
        if partner is not None
    ]
    lonely = []
    for problem in problems:
        place, _, reason = problem.partition(": ")
        lonely.append((place, reason))
    return paired, lonely
