"""Meta-info files: text files that name the pictures of a data set.

Formats (BasicSR): a relative path a line, optionally followed by ``(h,w,c)``; pairs as ``gt, lq``; in an LMDB
``name.png (h,w,c) compression``. BasicSR cuts a line at its first blank; names may contain blanks here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from atelier.errors import UserError

_SHAPE = re.compile(r"^(?P<name>.*?)\s+\((?P<shape>\d+\s*,\s*\d+(\s*,\s*\d+)?)\)(\s+\d+)?$")


@dataclass(frozen=True)
class MetaLine:
    """One entry.

    Attributes:
        number: line in the file, from 1.
        name: the text that names the gt picture, blanks kept.
        lq: the text that names the lq picture of a ``gt, lq`` line.
        shape: ``(h, w, c)`` where the line states it (c is 0 where it states only two numbers).
    """

    number: int
    name: str
    lq: str | None = None
    shape: tuple[int, int, int] | None = None

    def candidates(self) -> list[str]:
        """Names to look for, best first: the whole text, then what stands before the first blank."""
        first = self.name.split(maxsplit=1)[0]
        return [self.name] if first == self.name else [self.name, first]


def read_meta_info(path: Path, *, pairs: bool = False) -> list[MetaLine]:
    """Read a meta-info file; blank lines are skipped, CRLF and a byte-order mark are understood.

    Args:
        path: the text file (UTF-8).
        pairs: whether ``gt, lq`` lines are expected; else a comma belongs to the name.

    Raises:
        UserError: no such file, not text, nothing in it, or a name leaves the folder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read meta_info file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"meta_info file {path} is no UTF-8 text (byte {error.start})") from error
    entries = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line:
            continue
        name, comma, lq = line.partition(", ") if pairs else (line, "", "")
        gt_name, shape = _split_shape(name.strip())
        lq_name = _split_shape(lq.strip())[0] if comma else None
        for part in (gt_name, lq_name):
            if part is not None:
                _stay_inside(part, path, number)
        entries.append(MetaLine(number, gt_name, lq_name, shape))
    if not entries:
        raise UserError(f"meta_info file {path} names no pictures")
    return entries


def _split_shape(text: str) -> tuple[str, tuple[int, int, int] | None]:
    found = _SHAPE.match(text)
    if not found:
        return text, None
    sizes = [int(size) for size in found["shape"].split(",")]
    return found["name"], (sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 0)


def _stay_inside(name: str, path: Path, number: int) -> None:
    """A list of pictures must not reach files outside of the folder it belongs to."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if not name or pure.is_absolute() or ".." in pure.parts or re.match(r"^[A-Za-z]:", name):
        raise UserError(
            f"{path}, line {number}: '{name}' leaves the data set's folder; give paths below dataroot_gt"
        )
