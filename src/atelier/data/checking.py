"""``atelier data check``: decode every picture of a folder and list what would spoil a training run."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from atelier.data.pairs import match
from atelier.data.sources import Shape, Source, open_folders
from atelier.data.templates import require_template
from atelier.errors import UserError
from atelier.progress import progress

_CHANNELS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}


@dataclass
class CheckReport:
    """What was found. Every entry names a file; an empty report means the data set can be used.

    Attributes:
        pictures: how many were looked at (gt and lq).
        unreadable: no picture, or of a kind that cannot be read.
        truncated: the file starts as a picture, but its end or its pixels are damaged.
        tiny: a side below the limit.
        mixed: pictures whose channel count differs from that of most others.
        duplicates: groups of files with identical pixels (a warning: a set may hold them on purpose).
        unmatched: without partner in the other folder.
        wrong_scale: lq sizes that do not fit their gt.
    """

    pictures: int = 0
    unreadable: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    tiny: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    wrong_scale: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing but duplicates was found."""
        return not any(
            (self.unreadable, self.truncated, self.tiny, self.mixed, self.unmatched, self.wrong_scale)
        )

    def lines(self) -> list[str]:
        """The report as text, one finding a line."""
        out = [f"{self.pictures} pictures checked"]
        for title in ("unreadable", "truncated", "tiny", "mixed", "unmatched", "wrong_scale"):
            found: list[str] = getattr(self, title)
            if found:
                out += [f"{title.replace('_', ' ')}: {len(found)}", *(f"  {entry}" for entry in found)]
        if self.duplicates:
            out.append(f"duplicates: {len(self.duplicates)} groups with identical pixels")
            out += [f"  {' = '.join(group)}" for group in self.duplicates]
        if self.ok:
            out.append("all good" if not self.duplicates else "usable; look at the duplicates")
        return out


@dataclass(frozen=True)
class _Seen:
    shape: Shape | None
    pixels: str = ""
    error: str = ""
    truncated: bool = False


def check_folder(
    gt: Path,
    *,
    lq: Path | None = None,
    scale: int | None = None,
    filename_tmpl: str = "{}",
    smallest: int = 32,
    quiet: bool = False,
) -> CheckReport:
    """Look at every picture below ``gt`` (and ``lq``).

    Args:
        gt: a folder with pictures, or an ``.lmdb``.
        lq: degraded versions, matched by name with ``filename_tmpl``.
        scale: gt side / lq side; needed with ``lq``.
        filename_tmpl: lq name without suffix for the gt name ``{}``.
        smallest: gt pictures with a side below this are reported as tiny (lq ones: below ``smallest / scale``).
        quiet: no progress bar.

    Raises:
        UserError: a folder is missing or holds no pictures; ``lq`` without ``scale``, or what belongs to ``lq`` without
            it.
    """
    require_template(filename_tmpl)
    if lq is None and (scale is not None or filename_tmpl != "{}"):
        flag = "--scale" if scale is not None else "--filename-tmpl"
        raise UserError(f"{flag} is for pairs: name their folder with --lq")
    if lq is not None and (scale is None or scale < 1):
        raise UserError(
            "checking pairs needs the scale: --scale 4 means that gt is four times as large as lq"
        )
    report = CheckReport()
    gt_source = open_folders([gt], "the folder to check")
    gt_seen = _look(gt_source, smallest, report, quiet)
    if lq is not None and scale is not None:
        lq_source = open_folders([lq], "--lq")
        lq_seen = _look(lq_source, -(-smallest // scale), report, quiet)
        partners, report.unmatched = match(gt_source.items, lq_source.items, filename_tmpl)
        for number, partner in enumerate(partners):
            large = gt_seen[number].shape
            small = lq_seen[partner].shape if partner is not None else None
            if partner is None or large is None or small is None:
                continue
            if (large[0] // scale, large[1] // scale) != small[:2]:
                report.wrong_scale.append(
                    f"{lq_source.items[partner].place}: {small[0]}x{small[1]}, its gt is {large[0]}x{large[1]}: "
                    f"at scale {scale} it must be {large[0] // scale}x{large[1] // scale}"
                )
    return report


def _look(source: Source, smallest: int, report: CheckReport, quiet: bool) -> list[_Seen]:
    """Decode all pictures of a source by threads and sort the findings into the report."""
    seen: list[_Seen] = []
    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        progress(f"checking {source.title}", len(source), quiet=quiet) as bar,
    ):
        for result in pool.map(lambda number: _one(source, number), range(len(source))):
            seen.append(result)
            bar.advance()
    report.pictures += len(seen)
    same: dict[str, list[str]] = defaultdict(list)
    usual = Counter(one.shape[2] for one in seen if one.shape).most_common(1)
    for item, one in zip(source.items, seen, strict=True):
        if one.shape is None:
            (report.truncated if one.truncated else report.unreadable).append(_once(item.place, one.error))
            continue
        same[one.pixels].append(item.place)
        if min(one.shape[:2]) < smallest:
            report.tiny.append(f"{item.place}: {one.shape[0]}x{one.shape[1]}, a side below {smallest}")
        if one.shape[2] != usual[0][0]:
            kind = _CHANNELS.get(one.shape[2], f"{one.shape[2]} channels")
            report.mixed.append(f"{item.place}: {kind}, most are {_CHANNELS.get(usual[0][0], usual[0][0])}")
    report.duplicates += [places for places in same.values() if len(places) > 1]
    return seen


def _one(source: Source, number: int) -> _Seen:
    try:
        source.shape(number)
    except UserError as error:
        return _Seen(None, error=str(error), truncated="truncated" in str(error))
    try:
        pixels = source.read(number)
    except UserError as error:
        return _Seen(None, error=str(error), truncated=True)
    digest = hashlib.blake2b(f"{pixels.shape}{pixels.dtype}".encode(), digest_size=16)
    digest.update(pixels.data)
    return _Seen((pixels.shape[0], pixels.shape[1], pixels.shape[2]), digest.hexdigest())


def _once(place: str, error: str) -> str:
    """The file's name and the error, which usually names the file itself."""
    return error if place in error else f"{place}: {error}"
