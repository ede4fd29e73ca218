"""``atelier data subset``: a seeded choice of pictures from several folders in one, with a manifest."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atelier.data.manifest import flat_names, read_manifest, size_and_hash, write_manifest
from atelier.data.sources import FileSource, open_folders
from atelier.data.workers import work_through
from atelier.errors import UserError
from atelier.files import atomic_path, describe_os_error, sha256_of
from atelier.randomness import Streams

MANIFEST = "subset.json"
Link = Literal["hard", "sym", "copy"]
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EACCES)


@dataclass
class SubsetReport:
    """What was (or, in a dry run, would be) done.

    Attributes:
        shares: ``folder: chosen of all``, a line a source.
        written: files made now.
        present: files that were there already.
        copied: of ``written``, those that were copied although links were asked for (another file system).
        renamed: how many got their folder in front, because two chosen pictures share a name.
        failed: pictures that could not be read, with the reason.
    """

    shares: list[str] = field(default_factory=list)
    written: int = 0
    present: int = 0
    copied: int = 0
    renamed: int = 0
    failed: list[str] = field(default_factory=list)

    def lines(self, dry_run: bool = False) -> list[str]:
        """The report as text."""
        verb = "would be made" if dry_run else "made"
        out = [*self.shares, f"{self.written} files {verb}, {self.present} there already"]
        if self.copied:
            out.append(f"{self.copied} copied: links do not work between these folders")
        if self.renamed:
            out.append(f"{self.renamed} share a name with another picture and got their folder in front")
        if self.failed:
            out += [f"cannot be read: {len(self.failed)}", *(f"  {entry}" for entry in self.failed)]
        return out


def parse_share(text: str) -> tuple[Path, int | None]:
    """``FOLDER=N`` or ``FOLDER=all`` (N is then None).

    Raises:
        UserError: another form.
    """
    folder, equals, count = text.rpartition("=")
    if not equals or not folder or not (count == "all" or (count.isdecimal() and int(count) > 0)):
        raise UserError(f"'{text}': give FOLDER=NUMBER or FOLDER=all, as datasets/Flickr2K=1500")
    return Path(folder), None if count == "all" else int(count)


def choose(count: int, total: int, seed: int) -> list[int]:
    """``count`` of ``total`` indices, sorted: those with the smallest keys of a stream that depends on the seed only.

    A larger choice with the same seed contains the smaller one. Raw words of the generator are used, whose values
    never change between releases of NumPy.
    """
    keys = Streams(seed, 0, 0)("subset").bit_generator.random_raw(total)
    return sorted(int(index) for index in np.argsort(keys, kind="stable")[:count])


def make_subset(
    shares: Sequence[tuple[Path, int | None]],
    target: Path,
    *,
    seed: int = 0,
    link: Link = "hard",
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> SubsetReport:
    """Put a seeded choice of every folder's pictures into ``target``, flat, and list it in ``target/subset.json``.

    Pictures are sorted by their path below the folder before the choice, so the same folders and seed give the same
    set everywhere. A file that is there is kept when it has the right content; any other picture in ``target`` stops
    the command, because it would be trained on too.

    Args:
        shares: folder and how many of its pictures (None: all).
        target: where to; must not lie in a source.
        seed: of the choice.
        link: hard links (copies where the file system has none), symbolic links, or copies.
        workers: processes for hashing; None: one a core.
        dry_run: only say what would be chosen.
        quiet: no progress bar.

    Raises:
        UserError: a folder has fewer pictures than asked, stands twice, or ``target`` holds something else.
    """
    report = SubsetReport()
    places = [folder.resolve() for folder, _ in shares]
    if len(set(places)) != len(places):
        raise UserError("a folder is named twice; give each once")
    if any(target.resolve().is_relative_to(place) for place in places):
        raise UserError(f"{target} lies in one of the folders; its files would be chosen from next time")
    chosen: list[tuple[Path, str, Path]] = []
    for folder, count in shares:
        pictures = open_folders([folder], "subset")
        if not isinstance(pictures, FileSource):
            raise UserError(f"{folder} is an LMDB; choose from the pictures it was made of")
        total = len(pictures)
        if count is not None and count > total:
            raise UserError(f"{folder} has {total} pictures, {count} are asked for")
        items = [pictures.items[index] for index in choose(total if count is None else count, total, seed)]
        chosen += ((folder, item.name, Path(item.place)) for item in items)
        report.shares.append(f"{folder}: {total if count is None else count} of {total}")
    names = flat_names([(folder.resolve().name, *name.split("/")) for folder, name, _ in chosen])
    report.renamed = sum(name != place.name for name, (_, _, place) in zip(names, chosen, strict=True))
    settings: dict[str, Any] = {
        "tool": "atelier data subset",
        "seed": seed,
        "sources": [
            {"folder": str(folder), "asked": "all" if count is None else count} for folder, count in shares
        ],
    }
    _nothing_else(target, names, settings)
    if dry_run:
        report.present = sum((target / name).exists() for name in names)
        report.written = len(names) - report.present
        return report
    facts = list(
        work_through(
            size_and_hash, [str(place) for *_, place in chosen], "hashing", workers=workers, quiet=quiet
        )
    )
    report.failed = [fact for fact in facts if isinstance(fact, str)]
    entries = []
    how: Counter[str] = Counter()
    for name, (folder, inner, place), fact in zip(names, chosen, facts, strict=True):
        if isinstance(fact, str):
            continue
        how[_put(place, target / name, link, fact)] += 1
        entries.append(
            {"name": name, "size": fact[0], "sha256": fact[1], "source": str(folder), "path": inner}
        )
    report.present = how["present"]
    report.written = sum(how.values()) - report.present
    report.copied = how["copied"]
    # The manifest says that the set is complete, so it comes last and only then.
    if not report.failed:
        write_manifest(target / MANIFEST, {**settings, "pictures": entries})
    return report


def _nothing_else(target: Path, names: list[str], settings: dict[str, Any]) -> None:
    from atelier.images import list_images

    before = read_manifest(target / MANIFEST)
    if before is not None and {key: before.get(key) for key in settings} != settings:
        raise UserError(
            f"{target} holds the subset of seed {before.get('seed')} and {before.get('sources')}; choose another folder"
        )
    if target.is_dir():
        there = {path.relative_to(target).as_posix() for path in list_images(target)}
        strange = sorted(there - set(names))
        if strange:
            raise UserError(
                f"{target} holds {len(strange)} pictures that do not belong to this subset ({strange[0]} ...); "
                "choose another folder"
            )


def _put(place: Path, file: Path, link: Link, fact: tuple[int, str]) -> str:
    """One file into the subset, whole or not at all; says how."""
    if file.exists():
        if file.samefile(place) or (file.stat().st_size == fact[0] and sha256_of(file) == fact[1]):
            return "present"
        raise UserError(f"{file} is there with other content than {place}; move it away")
    file.parent.mkdir(parents=True, exist_ok=True)
    if link != "copy":
        # A link appears in one step and only where nothing is, so it needs no temporary name.
        try:
            if link == "sym":
                file.symlink_to(place.resolve())
            else:
                os.link(place.resolve(), file)
            return "linked"
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise UserError(describe_os_error(error, file)) from error
    with atomic_path(file) as temporary:
        shutil.copyfile(place, temporary)
    return "written" if link == "copy" else "copied"
