"""``atelier data lmdb``: pack the pictures of a folder into an LMDB in BasicSR's layout.

The keys are paths without extension, the values PNG files; ``meta_info.txt`` lists ``name.png (h,w,c) level``. It is
built in a hidden folder beside its place, which a stopped run finds again and continues, and renamed when complete.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier.data.manifest import read_manifest
from atelier.data.pngs import check_level, png_bytes
from atelier.data.sources import FileSource, Shape, listed, open_folders
from atelier.data.workers import work_through
from atelier.errors import UserError
from atelier.files import atomic_write, describe_os_error

_BATCH = 256  # pictures a transaction: what a kill loses at most
_LONGEST_KEY = 511


@dataclass
class LmdbReport:
    """What was (or, in a dry run, would be) done.

    Attributes:
        written: pictures packed now.
        present: pictures that a stopped run had packed already.
        complete: whether the LMDB stands.
        failed: pictures that cannot be read, with the reason; nothing stands before they are mended.
    """

    written: int = 0
    present: int = 0
    complete: bool = False
    failed: list[str] = field(default_factory=list)

    def lines(self, target: Path, dry_run: bool = False) -> list[str]:
        """The report as text."""
        verb = "would be packed" if dry_run else "packed"
        out = [f"{self.written} pictures {verb}, {self.present} there already: {target}"]
        if self.failed:
            out += [f"cannot be read: {len(self.failed)}", *(f"  {entry}" for entry in self.failed)]
            out.append("the LMDB is not complete: mend or remove these pictures and run the command again")
        return out


def write_lmdb(
    source: Path,
    target: Path,
    *,
    level: int = 1,
    workers: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> LmdbReport:
    """Pack every picture below ``source`` into ``target`` (``NAME.lmdb``).

    Args:
        source: folder with pictures and subfolders.
        target: the LMDB's folder; must not be there yet.
        level: PNG compression of 8-bit pictures, 0 to 9; low ones are read faster.
        workers: processes; None: one a core.
        dry_run: only count.
        quiet: no progress bar.

    Raises:
        UserError: ``target`` does not end in .lmdb, is there already, or cannot be written; two pictures share a key; a
            key is too long; the package lmdb is missing.
    """
    check_level(level)
    if target.suffix != ".lmdb":
        raise UserError(f"{target}: the name of an LMDB must end in .lmdb")
    if target.exists():
        raise UserError(f"{target} is there already; remove it or choose another name")
    pictures = open_folders([source], "the folder to pack")
    if not isinstance(pictures, FileSource):
        raise UserError(f"{source} is an LMDB already")
    keys = [item.stem for item in pictures.items]
    _check_keys(pictures, keys)
    if dry_run:
        return LmdbReport(written=len(keys))
    building = target.with_name(f".{target.name}.building")
    shapes = _continue(building, {"content": pictures.content, "level": level})
    report = LmdbReport(present=len(shapes))
    jobs = [(item.place, level) for item, key in zip(pictures.items, keys, strict=True) if key not in shapes]
    waiting = [key for key in keys if key not in shapes]
    store = _Store(building)
    try:
        results = work_through(_encode, jobs, "packing", workers=workers, quiet=quiet)
        for key, result in zip(waiting, results, strict=True):
            if isinstance(result, str):
                report.failed.append(result)
                continue
            store.put(key, *result)
            report.written += 1
        store.flush()
    finally:
        store.close()
    if report.failed:
        return report
    shapes = _known(building)
    lines = [f"{key}.png ({','.join(map(str, shapes[key]))}) {level}\n" for key in keys]
    atomic_write(building / "meta_info.txt", "".join(lines))
    for extra in ("shapes.jsonl", "building.json"):
        (building / extra).unlink()
    try:
        building.rename(target)
    except OSError as error:
        raise UserError(describe_os_error(error, target)) from error
    report.complete = True
    return report


def _check_keys(pictures: FileSource, keys: list[str]) -> None:
    twice = {key for key, count in Counter(keys).items() if count > 1}
    if twice:
        same = [item.place for item, key in zip(pictures.items, keys, strict=True) if key in twice]
        raise listed("pictures with the same name but another suffix share a key; rename them:", same)
    odd = [key for key in keys if len(key.encode("utf-8", "surrogateescape")) > _LONGEST_KEY]
    if odd:
        raise listed(f"names longer than the {_LONGEST_KEY} bytes that an LMDB's key may have:", odd)
    odd = [key for key in keys if "\n" in key or not key.isprintable()]
    if odd:
        raise listed("names that cannot stand in meta_info.txt:", [repr(key) for key in odd])


def _continue(building: Path, settings: dict[str, Any]) -> dict[str, Shape]:
    """What an earlier run of the same pictures and settings has packed; anything else starts afresh."""
    if building.exists() and read_manifest(building / "building.json") != settings:
        shutil.rmtree(building)
    if not building.exists():
        atomic_write(building / "building.json", json.dumps(settings))
    return _known(building)


def _known(building: Path) -> dict[str, Shape]:
    """Shapes of the pictures whose transaction was committed."""
    shapes: dict[str, Shape] = {}
    note = building / "shapes.jsonl"
    for line in note.read_text().splitlines() if note.is_file() else []:
        try:
            key, shape = json.loads(line)
        except ValueError:  # the end of a line that a kill cut off
            continue
        shapes[key] = (shape[0], shape[1], shape[2])
    return shapes


class _Store:
    """The LMDB under construction: transactions of some pictures, and a note of shapes after each."""

    def __init__(self, folder: Path) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise UserError(
                "writing an LMDB needs the package lmdb; install it with: pip install 'atelier[lmdb]'"
            ) from error
        self._lmdb, self._folder = lmdb, folder
        self._waiting: list[tuple[str, bytes, Shape]] = []
        try:
            self._size = max(1 << 28, 2 * (folder / "data.mdb").stat().st_size)
        except OSError:
            self._size = 1 << 28
        try:
            self._environment = lmdb.open(str(folder), map_size=self._size)
        except lmdb.Error as error:
            raise UserError(f"cannot write the LMDB {folder}: {error}") from error

    def put(self, key: str, data: bytes, shape: Shape) -> None:
        self._waiting.append((key, data, shape))
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, data, _ in self._waiting:
                        transaction.put(key.encode(), data)
                break
            except self._lmdb.MapFullError:
                self._size *= 2
                self._environment.set_mapsize(self._size)
            except self._lmdb.Error as error:
                raise UserError(f"cannot write the LMDB {self._folder}: {error}") from error
        try:
            with (self._folder / "shapes.jsonl").open("a") as note:
                # A line that was cut off must not swallow the one after it.
                note.write("".join(f"\n{json.dumps([key, shape])}" for key, _, shape in self._waiting) + "\n")
        except OSError as error:
            raise UserError(describe_os_error(error, self._folder)) from error
        self._waiting = []

    def close(self) -> None:
        self._environment.close()


def _encode(job: tuple[str, int]) -> tuple[bytes, Shape] | str:
    from atelier.images import read_image

    try:
        picture = read_image(job[0])
        height, width, channels = picture.pixels.shape
        return png_bytes(picture.pixels, job[1], picture), (height, width, channels)
    except UserError as error:
        return str(error)
