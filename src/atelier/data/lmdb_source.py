"""Pictures in an LMDB as BasicSR writes it.

Layout: ``NAME.lmdb/data.mdb``, ``lock.mdb`` and ``meta_info.txt`` with lines ``name.png (h,w,c) compression``; the key
is the name without ``.png``, the value the bytes of a PNG file.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atelier.data.meta_info import read_meta_info
from atelier.data.sources import Item, Shape, Source, digest
from atelier.degrade.base import Pixels
from atelier.errors import UserError


class LmdbSource(Source):
    """All pictures that ``meta_info.txt`` names.

    Args:
        folder: the ``.lmdb`` folder.

    Raises:
        UserError: the folder, its ``meta_info.txt`` or the package ``lmdb`` is missing; keys repeat.
    """

    items: Sequence[Item]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.title = str(folder)
        self.identity = digest(["lmdb", str(folder.absolute())])
        data = folder / "data.mdb"
        if not data.is_file():
            raise UserError(f"{folder} is no LMDB folder: data.mdb is missing")
        facts = data.stat()
        stamp = f"{facts.st_size}/{facts.st_mtime_ns}"
        lines = read_meta_info(folder / "meta_info.txt")
        self.items = [Item(_with_suffix(line.name), f"{folder}: {line.name}", stamp) for line in lines]
        self._shapes = [line.shape for line in lines]
        keys = [item.stem for item in self.items]
        if len(set(keys)) != len(keys):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise UserError(f"{folder / 'meta_info.txt'}: keys named twice: {', '.join(twice[:20])}")

    def shape(self, index: int) -> Shape:
        """``(h, w, c)`` as ``meta_info.txt`` states it; decoded from the picture where it does not."""
        stated = self._shapes[index]
        if stated is not None and stated[2]:
            return stated
        height, width, channels = self.read(index).shape
        return height, width, channels

    def read(self, index: int) -> Pixels:
        """The decoded picture; raises :class:`UserError` naming the key."""
        from atelier.images import read_image

        item = self.items[index]
        with _environment(self.folder).begin(buffers=True) as transaction:
            value = transaction.get(item.stem.encode())
            if value is None:
                raise UserError(f"{item.place}: the LMDB has no key '{item.stem}'")
            # The one reader of picture files decodes this too, so LMDB and folder agree in every corner.
            with tempfile.NamedTemporaryFile(suffix=".png") as file:
                file.write(value)
                file.flush()
                try:
                    return read_image(Path(file.name)).pixels
                except UserError as error:
                    raise UserError(f"{item.place}: cannot be decoded as a picture") from error


#: LMDB forbids opening a file twice in one process, so environments are shared by all sources and threads.
_environments: dict[tuple[int, int], Any] = {}
_opening = threading.Lock()


def _environment(folder: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UserError(
            f"reading {folder} needs the package lmdb; install it with: pip install 'atelier[lmdb]'"
        ) from error
    try:
        facts = (folder / "data.mdb").stat()
        with _opening:
            place = (facts.st_dev, facts.st_ino)
            if place not in _environments:
                _environments[place] = lmdb.open(
                    str(folder), readonly=True, lock=False, readahead=False, meminit=False
                )
            return _environments[place]
    except (OSError, lmdb.Error) as error:
        raise UserError(f"cannot open the LMDB {folder}: {error}") from error


def _with_suffix(name: str) -> str:
    return name if "." in name.rpartition("/")[2] else f"{name}.png"
