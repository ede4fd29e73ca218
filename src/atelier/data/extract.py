"""``atelier data extract``: the pictures of archives into a folder, none overwritten, none outside."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from atelier.data.archives import (
    SUFFIXES,
    Limits,
    Member,
    copy_member,
    is_archive,
    list_members,
    read_members,
)
from atelier.data.manifest import flat_names, read_manifest, size_and_hash, write_manifest
from atelier.data.workers import usable_cores, work_through
from atelier.errors import UserError
from atelier.files import atomic_write

MANIFEST = "extract.json"
_DEPTH = 2  # archives in an archive: the categories of OST; deeper ones are a trick
_CHUNK = 64


@dataclass
class ExtractReport:
    """What was (or, in a dry run, would be) done.

    Attributes:
        written: pictures written now.
        present: pictures that were there already, with the same content.
        same: pictures left out because an equal one has the same name.
        renamed: ``member -> file`` of those that could not have their own name.
        left_out: suffix -> how many files are no pictures, or not of the kinds asked for.
        failed: members that could not be read, with the reason.
    """

    written: int = 0
    present: int = 0
    same: int = 0
    renamed: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def lines(self, dry_run: bool = False) -> list[str]:
        """The report as text."""
        verb = "would be written" if dry_run else "written"
        out = [f"{self.written} pictures {verb}, {self.present} there already"]
        if self.same:
            out.append(f"{self.same} with the name and content of another, kept once")
        if self.renamed:
            out.append(f"{len(self.renamed)} share a name with another picture and got their folder in front")
            out += [f"  {entry}" for entry in self.renamed[:5]] + ["  ..."] * (len(self.renamed) > 5)
        if self.left_out:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.left_out.items()))
            out.append(f"left out: {kinds}")
        if self.failed:
            out += [f"cannot be read: {len(self.failed)}", *(f"  {entry}" for entry in self.failed)]
        return out


@dataclass(frozen=True)
class _Found:
    """A picture in an archive: where to read it, and which archive and member the manifest names."""

    disk: str
    member: Member
    archive: str
    stamp: str
    parts: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.archive}: {'/'.join(self.parts)}"


def extract_archives(
    archives: Sequence[Path],
    target: Path,
    *,
    flatten: bool = False,
    suffixes: Iterable[str] | None = None,
    limits: Limits | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> ExtractReport:
    """Unpack the pictures of zip and tar archives, and of archives in them, into ``target``.

    Every archive is looked through before the first file is written. Files appear whole or not at all; what is there
    with the same content is kept, so a stopped run continues; what is there with other content is never touched.
    ``target/extract.json`` then lists each file with size, SHA-256, archive and member.

    Args:
        archives: the files; a name that two of them share is no problem.
        target: the folder; nothing is written outside of it.
        flatten: no subfolders; pictures that share a name get their folder in front (``animal_001.png``).
        suffixes: kinds to take (``["png"]``); default: every picture that can be read.
        limits: how much an archive may unpack to.
        workers: processes; None: one a core.
        dry_run: only look.
        quiet: no progress bar.

    Raises:
        UserError: an archive is missing, damaged, encrypted or not acceptable, holds no picture of these kinds, or
            ``target`` cannot be written.
    """
    from atelier.images import IMAGE_SUFFIXES

    known = set(IMAGE_SUFFIXES)
    wanted = {f".{suffix.strip().lstrip('.').lower()}" for suffix in suffixes} if suffixes else known
    if not wanted <= known:
        odd = ", ".join(sorted(wanted - known))
        raise UserError(f"--ext {odd}: no picture that can be read; known: {', '.join(sorted(known))}")
    for path in archives:
        if not path.is_file():
            raise UserError(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    limits = limits or Limits()
    report = ExtractReport()
    with ExitStack() as stack:
        scratch = _scratch(None if dry_run else target, stack)
        found: list[_Found] = []
        for path in archives:
            facts = path.stat()
            stamp = f"{facts.st_size}/{facts.st_mtime_ns}"
            found += _look_through(path, path.name, stamp, (), limits, wanted, report, scratch, 0)
        if not found:
            raise UserError(f"no pictures ({', '.join(sorted(wanted))}) in {', '.join(map(str, archives))}")
        _stay_below(sum(item.member.size for item in found), limits)
        _unpack(found, target, flatten, report, workers, dry_run, quiet)
    return report


def _scratch(target: Path | None, stack: ExitStack) -> Path:
    """A folder for archives that lie in archives; what a killed run left of it goes."""
    if target is not None:
        try:
            target.mkdir(parents=True, exist_ok=True)
            for old in target.glob(".unpacking-*"):
                shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise UserError(f"cannot write into {target}: {error.strerror}") from error
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target)))


def _stay_below(total: int, limits: Limits) -> None:
    if total > limits.total:
        raise UserError(
            f"the archives unpack to more than {limits.total / 1e9:g} GB together; raise --max-gb"
        )


def _look_through(
    disk: Path,
    archive: str,
    stamp: str,
    above: tuple[str, ...],
    limits: Limits,
    wanted: set[str],
    report: ExtractReport,
    scratch: Path,
    depth: int,
) -> list[_Found]:
    """The pictures of one archive and of those in it. Hidden files (``__MACOSX/._a.png``) are none."""
    members = list_members(disk, limits)
    shown = [m for m in members if not any(p.startswith(".") or p == "__MACOSX" for p in m.name.split("/"))]
    if depth and all(member.name.startswith(f"{above[-1]}/") for member in shown):
        above = above[:-1]  # animal.zip with everything in animal/: one folder of that name is enough
    found: list[_Found] = []
    for member in shown:
        parts = (*above, *member.name.split("/"))
        suffix = PurePosixPath(member.name).suffix.lower()
        if is_archive(member.name):
            if depth >= _DEPTH:
                raise UserError(f"{archive}: archives lie in archives more than {_DEPTH} deep")
            inner = scratch / f"{len(list(scratch.iterdir()))}{suffix}"
            copy_member(disk, member, inner)
            folder = next(
                parts[-1][: -len(end)]
                for end in sorted(SUFFIXES, key=len, reverse=True)
                if parts[-1].lower().endswith(end)
            )
            label = f"{archive}/{member.name}"
            found += _look_through(
                inner, label, stamp, (*parts[:-1], folder), limits, wanted, report, scratch, depth + 1
            )
        elif suffix in wanted:
            found.append(_Found(str(disk), member, archive, stamp, parts))
        else:
            report.left_out[suffix or "without suffix"] += 1
    return found


def _unpack(
    found: list[_Found],
    target: Path,
    flatten: bool,
    report: ExtractReport,
    workers: int | None,
    dry_run: bool,
    quiet: bool,
) -> None:
    found = sorted(found, key=lambda item: (item.archive, item.parts))
    # The stamp (size and time) tells an archive from another one of its name.
    before = {
        (entry["archive"], entry["stamp"], entry["member"]): entry
        for entry in (read_manifest(target / MANIFEST) or {}).get("pictures", [])
    }
    paths = [_path(item, flatten) for item in found]
    hashes: dict[int, str] = {}
    kept: dict[int, str] = {}
    for number, item in enumerate(found):
        entry = before.get((item.archive, item.stamp, item.member.name))
        if entry and entry["size"] == item.member.size and _size(target / entry["file"]) == entry["size"]:
            kept[number], hashes[number] = entry["file"], entry["sha256"]

    def learn(numbers: Iterable[int]) -> None:
        missing = [number for number in numbers if number not in hashes]
        for number, result in _read(found, missing, {}, "comparing", workers, quiet):
            if result.startswith("!"):
                report.failed.append(f"{found[number].archive}: {result[1:]}")
                hashes[number] = ""
            else:
                hashes[number] = result

    groups: dict[str, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        groups[path[-1].casefold()].append(number)
    learn(number for group in groups.values() if len(group) > 1 for number in group)
    dropped = set()
    for group in groups.values():
        seen: set[str] = set()
        for number in group:
            if len(group) > 1 and hashes[number] and hashes[number] in seen and number not in kept:
                dropped.add(number)
            seen.add(hashes.get(number, ""))
    report.same += len(dropped)
    alive = [number for number in range(len(found)) if number not in dropped and hashes.get(number) != ""]
    names = _free_names(alive, paths, target, kept, hashes, learn)
    alive = [number for number in alive if hashes.get(number) != ""]
    for number in alive:
        if names[number] != paths[number][-1]:
            report.renamed.append(f"{found[number].title} -> {names[number]}")
    todo = [number for number in alive if _size(target / names[number]) is None]
    report.present = len(alive) - len(todo)
    report.written = len(todo)
    if dry_run:
        return
    try:
        files = {number: str(target / names[number]) for number in todo}
        for number, result in _read(found, todo, files, "extracting", workers, quiet, root=target):
            if result.startswith("!"):
                report.failed.append(f"{found[number].archive}: {result[1:]}")
                report.written -= 1
                hashes[number] = ""
            else:
                hashes[number] = result
    finally:
        # Also after Ctrl-C: the next run then knows these without reading them again.
        for number in alive:
            if hashes.get(number) and _size(target / names[number]) == found[number].member.size:
                item = found[number]
                before[item.archive, item.stamp, item.member.name] = {
                    "file": names[number],
                    "size": item.member.size,
                    "sha256": hashes[number],
                    "archive": item.archive,
                    "stamp": item.stamp,
                    "member": item.member.name,
                }
        entries = sorted(before.values(), key=lambda entry: str(entry["file"]))
        write_manifest(target / MANIFEST, {"tool": "atelier data extract", "pictures": entries})


def _path(item: _Found, flatten: bool) -> tuple[str, ...]:
    """The name a picture would like, last, and before it what may be put in front."""
    stem = PurePosixPath(item.archive).name.split(".")[0]
    return (stem, *item.parts) if flatten else (stem, "/".join(item.parts))


def _free_names(
    alive: list[int],
    paths: list[tuple[str, ...]],
    target: Path,
    kept: dict[int, str],
    hashes: dict[int, str],
    learn: Any,
) -> dict[int, str]:
    """A name for each: one that nobody has, or a file on disk with the very same content."""
    taken: set[str] = set()
    while True:
        chosen = flat_names(
            [paths[n] for n in alive], taken, kept={k: kept[n] for k, n in enumerate(alive) if n in kept}
        )
        names = dict(zip(alive, chosen, strict=True))
        there = [n for n in alive if n not in kept and (target / names[n]).exists()]
        learn(there)
        clash = set()
        for number in there:
            known = size_and_hash(str(target / names[number]))
            if not isinstance(known, tuple) or known[1] != hashes[number]:
                clash.add(names[number])
        if not clash:
            return names
        taken |= clash


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@dataclass(frozen=True)
class _Job:
    disk: str
    members: tuple[tuple[int, Member], ...]
    files: dict[int, str]
    root: str


def _read(
    found: list[_Found],
    numbers: Sequence[int],
    files: dict[int, str],
    title: str,
    workers: int | None,
    quiet: bool,
    root: Path | None = None,
) -> Iterable[tuple[int, str]]:
    """SHA-256 of pictures (``!reason`` where one fails), which are written to ``files`` on the way."""
    by_disk: dict[str, list[int]] = defaultdict(list)
    for number in sorted(numbers, key=lambda n: (found[n].disk, found[n].member.content)):
        by_disk[found[number].disk].append(number)
    jobs = []
    for disk, own in by_disk.items():
        # Zip files are read at any place; a tar is read from front to end, so it is one job.
        chunk = _CHUNK if disk.lower().endswith(".zip") else len(own)
        for first in range(0, len(own), chunk):
            part = own[first : first + chunk]
            members = tuple((n, replace(found[n].member, index=n)) for n in part)
            jobs.append(_Job(disk, members, {n: files[n] for n in part if n in files}, str(root or "")))
    many = workers if workers is not None else usable_cores() if len(numbers) > _CHUNK else 1
    for part_done in work_through(
        _read_job, jobs, title, workers=many, quiet=quiet, weight=lambda job: len(job.members)
    ):
        yield from part_done


def _read_job(job: _Job) -> list[tuple[int, str]]:
    out = []
    for member, data in read_members(Path(job.disk), [member for _, member in job.members]):
        number = member.index
        if isinstance(data, str):
            out.append((number, f"!{data}"))
            continue
        if number in job.files:
            file = Path(job.files[number])
            # A link that lies in the folder already could lead out of it.
            if not file.parent.resolve().is_relative_to(Path(job.root).resolve()):
                raise UserError(f"{file.parent} leads out of {job.root}; nothing is written there")
            atomic_write(file, data)
        out.append((number, hashlib.sha256(data).hexdigest()))
    return out
