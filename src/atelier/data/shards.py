"""The shard cache: decoded pixels of a source in one file, memory-mapped.

Layout: ``ROOT/NAME-IDENTITY-CONTENT/pixels.bin`` (all pictures one after the other, each at a multiple of 64 bytes)
and ``index.json``. IDENTITY names the source (folder, selection), CONTENT its files' names, sizes and times, so a
changed file asks for another shard and never meets old pixels. A shard is built in a temporary folder, flushed and
renamed: one that can be seen is whole. Two processes that need the same shard take turns on a lock file, and the
second one finds the work done.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from atelier.data.options import CacheOptions
from atelier.data.sources import LISTED, Shape, Source, listed
from atelier.degrade.base import Pixels
from atelier.errors import UserError
from atelier.files import describe_os_error
from atelier.progress import progress

try:
    import fcntl
except ImportError:  # Windows: processes may then build the same shard twice; the first rename counts
    fcntl = None  # type: ignore[assignment]

_VERSION = 1
_ALIGN = 64
_GB = 1e9


@dataclass(frozen=True)
class ShardIndex:
    """What ``index.json`` says: where each picture starts in ``pixels.bin``, its shape and dtype."""

    folder: Path
    offsets: list[int]
    shapes: list[Shape]
    dtypes: list[str]
    size: int

    @property
    def pixels(self) -> Path:
        """The file of pixels."""
        return self.folder / "pixels.bin"


class ShardReader:
    """Pictures of a shard; :meth:`picture` decodes nothing. Can be sent to another process.

    While it lives in the process that opened it, the shard is not removed by others.
    """

    def __init__(self, index: ShardIndex, places: Sequence[str]) -> None:
        self.index, self.places = index, list(places)
        self.shapes = index.shapes
        self._map: Pixels | None = None
        self._hold: BinaryIO | None = index.pixels.open("rb")
        _lock(self._hold, shared=True)
        if not index.pixels.exists():  # removed between opening and locking
            self._hold.close()
            raise FileNotFoundError(index.pixels)

    def picture(self, number: int) -> Pixels:
        """A read-only view ``H x W x C`` of a whole picture, read from disk as far as it is touched."""
        if self._map is None:
            self._map = np.memmap(self.index.pixels, dtype=np.uint8, mode="r")
        shape, dtype, start = (
            self.index.shapes[number],
            np.dtype(self.index.dtypes[number]),
            self.index.offsets[number],
        )
        length = shape[0] * shape[1] * shape[2] * dtype.itemsize
        return self._map[start : start + length].view(dtype).reshape(shape)

    def __getstate__(self) -> dict[str, Any]:
        # Map and lock belong to a process; sending the map would send the pixels.
        return {**self.__dict__, "_map": None, "_hold": None}

    def close(self) -> None:
        """Let go of the files."""
        self._map = None
        if self._hold is not None:
            self._hold.close()
            self._hold = None


class FileReader:
    """The same interface without a cache: every call decodes the file."""

    def __init__(self, source: Source, shapes: Sequence[Shape]) -> None:
        self.source, self.shapes = source, list(shapes)
        self.places = [item.place for item in source.items]

    def picture(self, number: int) -> Pixels:
        """The decoded picture; raises :class:`UserError` naming the file, also where its header told another size."""
        pixels = self.source.read(number)
        if pixels.shape != tuple(self.shapes[number]):
            raise UserError(
                f"{self.places[number]}: decodes to {pixels.shape}, but its header said {self.shapes[number]}; "
                "was it written anew while the run was going on?"
            )
        return pixels

    def close(self) -> None:
        """Nothing is held."""


Reader = ShardReader | FileReader


class ShardCache:
    """All shards below one folder.

    Args:
        options: folder, cap, and whether the cache is used at all.
        quiet: no progress bar.
    """

    def __init__(self, options: CacheOptions, *, quiet: bool = False) -> None:
        self.options, self.quiet = options, quiet
        self.root = options.root

    def lookup(self, source: Source) -> ShardIndex | None:
        """The shard of a source as its files are now, or None."""
        return _read_index(self._folder(source), len(source))

    def open(self, source: Source, shapes: Sequence[Shape]) -> Reader:
        """A reader for a source; builds the shard where it is missing.

        Args:
            source: the pictures.
            shapes: their shapes, to estimate the disk space.

        Raises:
            UserError: a picture cannot be decoded (all such files are listed), the shard would exceed
                ``cache.max_gb`` or the free disk space, or the folder cannot be written.
        """
        if not self.options.enabled:
            return FileReader(source, shapes)
        places = [item.place for item in source.items]
        for _ in range(3):
            index = self.lookup(source) or self._build(source, shapes)
            try:
                return ShardReader(index, places)
            except FileNotFoundError:  # another process replaced it between look and touch
                continue
        raise UserError(f"the shard cache in {self.root} is being changed by another process; try again")

    def _folder(self, source: Source) -> Path:
        slug = re.sub(r"[^A-Za-z0-9]+", "_", Path(source.title).name)[:40].strip("_") or "pictures"
        return self.root / f"{slug}-{source.identity[:12]}-{source.content[:16]}"

    def _build(self, source: Source, shapes: Sequence[Shape]) -> ShardIndex:
        folder = self._folder(source)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / f".{source.identity[:12]}.lock").open("wb") as lock:
                alone = _lock(lock) is True
                index = _read_index(folder, len(source))
                if index is not None:
                    return index
                family = f"*-{source.identity[:12]}-*"
                self._check_space(shapes, ignore=set(self.root.glob(family)))
                with _temporary_folder(self.root, source.identity[:12], alone) as workplace:
                    self._write(source, shapes, workplace)
                    _open_to_others(workplace)
                    self._put(workplace, folder, len(source))
                self._remove_stale(folder, family)
        except OSError as error:
            raise UserError(f"shard cache: {describe_os_error(error, self.root)}; {_REMEDIES}") from error
        index = _read_index(folder, len(source))
        if index is None:
            raise UserError(f"the shard {folder} cannot be read back after it was written; check the disk")
        return index

    def _put(self, workplace: Path, folder: Path, count: int) -> None:
        """Give the finished shard its name, unless another process (without locks) was faster."""
        if folder.exists() and _read_index(folder, count) is None:
            shutil.rmtree(folder)  # torn by something other than us: a shard of ours is whole
        try:
            workplace.rename(folder)
        except OSError:
            if _read_index(folder, count) is None:
                raise

    def _check_space(self, shapes: Sequence[Shape], ignore: set[Path]) -> None:
        """Refuse before the work, not in the middle of it. The estimate takes 8 bits a sample."""
        needed = sum(h * w * c + _ALIGN for h, w, c in shapes)
        present = {path: _folder_size(path) for path in self._shards() if path not in ignore}
        cap = self.options.max_gb * _GB
        if sum(present.values()) + needed > cap:
            largest = sorted(present, key=lambda path: -present[path])[:5]
            raise UserError(
                f"the shard cache would need {needed / _GB:.3g} GB beside the {sum(present.values()) / _GB:.3g} GB "
                f"already in {self.root}, more than cache.max_gb: {self.options.max_gb:g} allows; {_REMEDIES}"
                + "".join(f"\n  {present[path] / _GB:8.3f} GB  {path}" for path in largest)
            )
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise UserError(
                f"the shard cache needs {needed / _GB:.3g} GB, but the disk of {self.root} has {free / _GB:.3g} GB "
                f"free; {_REMEDIES}"
            )

    def _shards(self) -> list[Path]:
        return [path.parent for path in self.root.glob("*/index.json")]

    def _write(self, source: Source, shapes: Sequence[Shape], folder: Path) -> None:
        """Decode everything by threads and write it in order; ``index.json`` comes last."""
        offsets: list[int] = []
        found: list[Shape] = []
        dtypes: list[str] = []
        problems: list[str] = []
        position = 0
        limit = int(self.options.max_gb * _GB)
        with (
            (folder / "pixels.bin").open("wb") as file,
            progress(f"caching {source.title}", len(source), quiet=self.quiet) as bar,
        ):
            for number, pixels in enumerate(_decoded(source)):
                bar.advance()
                if isinstance(pixels, UserError):
                    problems.append(str(pixels))
                elif pixels.shape != tuple(shapes[number]):
                    place = source.items[number].place
                    problems.append(
                        f"{place}: decodes to {pixels.shape}, but its header says {tuple(shapes[number])}"
                    )
                if problems:
                    if len(problems) > LISTED:
                        break
                    continue
                assert not isinstance(pixels, UserError)
                if position + pixels.nbytes > limit:
                    raise UserError(
                        f"the shard of {source.title} grows beyond cache.max_gb: {self.options.max_gb:g}; {_REMEDIES}"
                    )
                offsets.append(position)
                found.append((pixels.shape[0], pixels.shape[1], pixels.shape[2]))
                dtypes.append(pixels.dtype.str)
                file.write(np.ascontiguousarray(pixels).data)
                padding = -pixels.nbytes % _ALIGN
                file.write(b"\0" * padding)
                position += pixels.nbytes + padding
            if problems:
                raise listed(f"{source.title}: pictures that cannot be read:", problems)
            file.flush()
            os.fsync(file.fileno())
        index = {
            "version": _VERSION,
            "source": source.title,
            "size": position,
            "offsets": offsets,
            "shapes": found,
            "dtypes": dtypes,
        }
        with (folder / "index.json").open("w") as text:
            json.dump(index, text)
            text.flush()
            os.fsync(text.fileno())

    def _remove_stale(self, current: Path, family: str) -> None:
        """Drop shards of the same source with older content, unless a process still reads them."""
        for path in self.root.glob(family):
            if path == current:
                continue
            try:
                with (path / "pixels.bin").open("rb") as file:
                    if _lock(file, wait=False) is not True:
                        continue
            except FileNotFoundError:
                pass
            shutil.rmtree(path, ignore_errors=True)


_REMEDIES = (
    "raise cache.max_gb, set cache.folder to another disk, delete shards that are no longer needed, or set "
    "cache.enabled: false to decode files at every step"
)


def _decoded(source: Source) -> Iterator[Pixels | UserError]:
    """All pictures in order, decoded ahead by threads (decoders release the interpreter lock)."""

    def read(number: int) -> Pixels | UserError:
        try:
            return source.read(number)
        except UserError as error:
            return error

    threads = min(16, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[Pixels | UserError]] = deque()
        for number in range(len(source)):
            waiting.append(pool.submit(read, number))
            if len(waiting) > 2 * threads:  # bounds the pictures in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_index(folder: Path, count: int) -> ShardIndex | None:
    """The index of a shard if it is there, readable, and fits its pixels; else None."""
    try:
        content = json.loads((folder / "index.json").read_text())
        if content["version"] != _VERSION or (folder / "pixels.bin").stat().st_size != content["size"]:
            return None
        shapes = [(int(h), int(w), int(c)) for h, w, c in content["shapes"]]
        if not len(shapes) == len(content["offsets"]) == len(content["dtypes"]) == count:
            return None
        return ShardIndex(folder, content["offsets"], shapes, content["dtypes"], content["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _temporary_folder(root: Path, identity: str, alone: bool) -> Iterator[Path]:
    """A folder to build in; gone afterwards unless it was renamed.

    ``alone``: the caller holds the lock of ``identity``. No other builder of it can be alive then, so folders that
    killed ones left behind are removed first.
    """
    for leftover in root.glob(f".building-{identity}-*") if alone else ():
        shutil.rmtree(leftover, ignore_errors=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".building-{identity}-", dir=root))
    try:
        yield workplace
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _open_to_others(folder: Path) -> None:
    """Give a temporary folder, which starts private, the permissions of any other new folder."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)


def _folder_size(folder: Path) -> int:
    """Bytes of the files directly in a folder; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _lock(file: BinaryIO, *, shared: bool = False, wait: bool = True) -> bool | None:
    """Lock an open file until it is closed (the system lets go when its process dies).

    Returns:
        True when it is ours, False when it is another's and we do not wait, None where there are no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
