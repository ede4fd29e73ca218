"""``atelier data meta-info``: write the text file that names the pictures of a data set.

Lines as ``generate_meta_info.py`` (``sub/0001.png``) and ``generate_meta_info_pairdata.py`` (``gt, lq``) write them.
That our reader understands each line as it was meant is checked before the file appears.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atelier.data.meta_info import read_meta_info
from atelier.data.pairs import match
from atelier.data.sources import FileSource, listed, open_folders
from atelier.data.templates import require_template
from atelier.data.workers import work_through
from atelier.errors import UserError
from atelier.files import atomic_path


@dataclass
class MetaInfoReport:
    """What was (or, in a dry run, would be) written.

    Attributes:
        written: lines.
        roots: the folders that gt's names are relative to.
        roots_lq: the same of lq, where there are pairs.
        bad: pictures left out because they cannot be decoded.
        unmatched: gt or lq pictures left out because they have no partner.
    """

    written: int = 0
    roots: list[Path] = field(default_factory=list)
    roots_lq: list[Path] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing had to be left out."""
        return not self.bad and not self.unmatched

    def lines(self, meta_info: Path, dry_run: bool = False) -> list[str]:
        """The report as text."""
        verb = "would be written" if dry_run else "written"
        out = [f"{self.written} lines {verb}: {meta_info}"]
        for key, roots in (("dataroot_gt", self.roots), ("dataroot_lq", self.roots_lq)):
            if len(roots) == 1:
                out.append(f"to be read with {key}: {roots[0]}")
            elif roots:
                out.append(f"{key} must be one folder that has the contents of {', '.join(map(str, roots))}")
        for title, found in (("cannot be decoded, left out", self.bad), ("unmatched", self.unmatched)):
            if found:
                out += [f"{title}: {len(found)}", *(f"  {entry}" for entry in found)]
        return out


def write_meta_info(
    folders: Sequence[Path],
    meta_info: Path,
    *,
    roots: Sequence[Path] = (),
    lq: Sequence[Path] = (),
    roots_lq: Sequence[Path] = (),
    filename_tmpl: str = "{}",
    check: bool = False,
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> MetaInfoReport:
    """List the pictures below some folders, sorted, a line each.

    Args:
        folders: where the (gt) pictures are, with subfolders.
        meta_info: the file to write.
        roots: what names are relative to: one for all folders, one each, or none for the folder above each.
        lq: folders with the degraded versions, one for each of ``folders``; lines are then ``gt, lq``.
        roots_lq: as ``roots``, for ``lq``; default: ``roots`` where given.
        filename_tmpl: lq name without suffix for the gt name ``{}``.
        check: decode each picture; what fails is left out and reported.
        workers: processes; None: one a core.
        dry_run: write nothing.
        quiet: no progress bar.

    Raises:
        UserError: a folder is missing, empty or not below its root, two pictures get one name, a name cannot stand in
            such a file, or nothing is left to list.
    """
    if lq and len(lq) != len(folders):
        raise UserError(f"--input-lq names {len(lq)} folders, --input {len(folders)}; give one for each")
    require_template(filename_tmpl)
    if filename_tmpl != "{}" and not lq:
        raise UserError(f"the file name template '{filename_tmpl}' is for pairs: give --input-lq")
    gt_roots = _roots(folders, roots, "--root")
    if roots_lq and not lq:
        raise UserError("--root-lq is given, but no --input-lq")
    lq_roots = _roots(lq, roots_lq or roots, "--root-lq") if lq else []
    report = MetaInfoReport(roots=[*dict.fromkeys(gt_roots)], roots_lq=[*dict.fromkeys(lq_roots)])
    found: list[tuple[str, str, str | None, str | None]] = []  # gt's name and place, lq's
    for number, (folder, root) in enumerate(zip(folders, gt_roots, strict=True)):
        gt = _pictures(folder, "--input")
        if not lq:
            found += ((_relative(item.place, root), item.place, None, None) for item in gt.items)
            continue
        other = _pictures(lq[number], "--input-lq")
        partners, unmatched = match(gt.items, other.items, filename_tmpl)
        report.unmatched += unmatched
        for item, partner in zip(gt.items, partners, strict=True):
            if partner is not None:
                place = other.items[partner].place
                found.append(
                    (_relative(item.place, root), item.place, _relative(place, lq_roots[number]), place)
                )
    found.sort()
    twice = [name for name, count in Counter(entry[0] for entry in found).items() if count > 1]
    if twice:
        same = [entry[1] for entry in found if entry[0] == twice[0]]
        raise UserError(
            f"{' and '.join(same)} would both be listed as '{twice[0]}'; give one --root that lies above both"
        )
    if check:
        found = _decodable(found, report, workers, quiet)
    if not found:
        raise UserError("\n".join(["nothing is left to list", *report.bad[:5], *report.unmatched[:5]]))
    report.written = len(found)
    if not dry_run:
        _write(meta_info, [(name, lq_name) for name, _, lq_name, _ in found])
    return report


def _roots(folders: Sequence[Path], roots: Sequence[Path], flag: str) -> list[Path]:
    if not roots:
        return [folder.absolute().parent for folder in folders]
    if len(roots) not in (1, len(folders)):
        raise UserError(f"{flag} names {len(roots)} folders for {len(folders)}; give one for all or one each")
    return list(roots) * (len(folders) if len(roots) == 1 else 1)


def _pictures(folder: Path, flag: str) -> FileSource:
    source = open_folders([folder], flag)
    if not isinstance(source, FileSource):
        raise UserError(f"{flag}: {folder} is an LMDB, which has its own meta_info.txt")
    return source


def _relative(place: str, root: Path) -> str:
    path = Path(place)
    for own, base in ((path.absolute(), root.absolute()), (path.resolve(), root.resolve())):
        if own.is_relative_to(base):
            return own.relative_to(base).as_posix()
    raise UserError(f"{place} does not lie below {root}; give a --root that lies above it")


def _decodable(
    found: list[tuple[str, str, str | None, str | None]],
    report: MetaInfoReport,
    workers: int | None,
    quiet: bool,
) -> list[tuple[str, str, str | None, str | None]]:
    places = [place for entry in found for place in (entry[1], entry[3]) if place is not None]
    problems = dict(
        zip(places, work_through(_problem, places, "decoding", workers=workers, quiet=quiet), strict=True)
    )
    report.bad += [text for text in problems.values() if text is not None]
    return [e for e in found if problems[e[1]] is None and (e[3] is None or problems[e[3]] is None)]


def _problem(place: str) -> str | None:
    from atelier.images import read_image

    try:
        read_image(place)
    except UserError as error:
        return str(error)
    return None


def _write(meta_info: Path, names: list[tuple[str, str | None]]) -> None:
    lines = [name if lq is None else f"{name}, {lq}" for name, lq in names]
    try:
        content = ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError as error:
        raise UserError(f"a file name is no text and cannot be listed: {error.object!r}") from error
    with atomic_path(meta_info) as temporary:
        temporary.write_bytes(content)
        back = read_meta_info(temporary, pairs=names[0][1] is not None)
        got = [(line.name, line.lq) for line in back]
        if got != names:
            odd = sorted({str(a) for a, _ in set(names) - set(got)})
            raise listed("these names cannot stand in a meta_info file (rename the pictures):", odd)
