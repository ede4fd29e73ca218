"""Sources of pictures: what they are called, how large they are, and their pixels."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from atelier.degrade.base import Pixels
from atelier.errors import UserError

Shape = tuple[int, int, int]
LISTED = 20
R = TypeVar("R")


@dataclass(frozen=True)
class Item:
    """One picture of a source.

    Attributes:
        name: path below the source's folder with ``/`` and suffix (``sub/0001.png``); LMDB: the key with ``.png``.
        place: the full path, for messages.
        stamp: size and modification time; another stamp means other content.
        group: which of several folders it came from; pictures pair within their group.
    """

    name: str
    place: str
    stamp: str
    group: int = 0

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        folder, slash, last = self.name.rpartition("/")
        return folder + slash + last.rpartition(".")[0]


class Source(ABC):
    """A fixed list of pictures.

    Attributes:
        items: the pictures, in an order that does not depend on the file system.
        title: where they come from, for messages.
        identity: tells this selection of pictures from others, whatever the files contain at the moment.
    """

    items: Sequence[Item]
    title: str
    identity: str

    @abstractmethod
    def shape(self, index: int) -> Shape:
        """``(H, W, C)`` of a picture from its header; raises :class:`UserError` naming the file."""

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """The decoded picture ``H x W x C``; raises :class:`UserError` naming the file."""

    @property
    def content(self) -> str:
        """A digest of names and stamps: changes when a picture is added, removed or written anew."""
        return digest(f"{item.group}\t{item.name}\t{item.stamp}" for item in self.items)

    def __len__(self) -> int:
        return len(self.items)


class FileSource(Source):
    """Picture files.

    Args:
        files: ``(name, path, group)`` in order.
        title: for messages.
        identity: see :class:`Source`.
    """

    def __init__(self, files: Iterable[tuple[str, Path, int]], title: str, identity: str) -> None:
        self.title, self.identity = title, identity
        self.items = [_item(name, path, group) for name, path, group in files]

    def shape(self, index: int) -> Shape:
        """Height, width and channels from the file's header."""
        from atelier.images import image_shape

        return image_shape(Path(self.items[index].place))

    def read(self, index: int) -> Pixels:
        """The decoded file."""
        from atelier.images import read_image

        return read_image(Path(self.items[index].place)).pixels


class SelectedSource(Source):
    """Some pictures of another source, in another order.

    Args:
        source: where they are.
        order: their indices there.
        identity: see :class:`Source`.
    """

    def __init__(self, source: Source, order: Sequence[int], identity: str) -> None:
        self.title, self.identity = source.title, identity
        self.items = [source.items[index] for index in order]
        self._source, self._order = source, list(order)

    def shape(self, index: int) -> Shape:
        """As the other source says."""
        return self._source.shape(self._order[index])

    def read(self, index: int) -> Pixels:
        """As the other source reads."""
        return self._source.read(self._order[index])


def select(source: Source, order: Sequence[int], *, by: Source) -> Source:
    """The pictures ``order`` of ``source``, chosen to fit ``by``; ``source`` itself where that changes nothing."""
    if list(order) == list(range(len(source))):
        return source
    return SelectedSource(source, order, digest(["selected", source.identity, by.identity]))


def _item(name: str, path: Path, group: int) -> Item:
    try:
        facts = path.stat()
    except OSError:
        # A link that leads nowhere: reading it later names it among all other problems of the folder.
        return Item(name, str(path), "unreadable", group)
    return Item(name, str(path), f"{facts.st_size}/{facts.st_mtime_ns}", group)


def digest(parts: Iterable[str]) -> str:
    """32 hexadecimal digits for a sequence of texts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return state.hexdigest()


def is_lmdb(path: Path) -> bool:
    """Whether a path means an LMDB in BasicSR's layout."""
    return path.suffix == ".lmdb" or (path / "data.mdb").is_file()


def roots_of(dataroot: Path | Sequence[Path]) -> list[Path]:
    """One or several roots as a list."""
    return [dataroot] if isinstance(dataroot, Path) else list(dataroot)


def open_folders(roots: Sequence[Path], key: str) -> Source:
    """The pictures of folders (with subfolders) and single files, or one LMDB.

    Args:
        roots: in the order given; pictures are sorted inside each.
        key: the option, for messages (``datasets.train.dataroot_gt``).

    Raises:
        UserError: a root is missing, or nothing there is a picture.
    """
    if any(is_lmdb(root) for root in roots):
        from atelier.data.lmdb_source import LmdbSource

        if len(roots) > 1:
            raise UserError(f"{key}: an LMDB stands alone, it cannot be listed with other folders; give one")
        return LmdbSource(roots[0])
    files: list[tuple[str, Path, int]] = []
    for group, root in enumerate(roots):
        files += ((name, path, group) for name, path in _pictures_below(root, key))
    return FileSource(
        files, ", ".join(map(str, roots)), digest(["files", *(str(r.absolute()) for r in roots)])
    )


def _pictures_below(root: Path, key: str) -> Iterator[tuple[str, Path]]:
    from atelier.images import IMAGE_SUFFIXES, list_images

    if root.is_file():
        if root.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"{key}: {root} is no picture file ({', '.join(sorted(IMAGE_SUFFIXES))})")
        yield root.name, root
        return
    if not root.exists():
        raise UserError(f"{key}: {root} does not exist")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"{key}: no permission to read the folder {root}")
    paths = list_images(root)
    if not paths:
        raise UserError(
            f"{key}: no pictures in {root} or its subfolders ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    for path in paths:
        yield path.relative_to(root).as_posix(), path


def parallel(function: Callable[[int], R], count: int) -> list[R | UserError]:
    """``[function(0), ..., function(count - 1)]`` by threads; a :class:`UserError` stands in its place."""

    def guarded(index: int) -> R | UserError:
        try:
            return function(index)
        except UserError as error:
            return error

    if count < 64:
        return [guarded(index) for index in range(count)]
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) * 2)) as pool:
        return list(pool.map(guarded, range(count), chunksize=32))


def listed(headline: str, problems: Sequence[str]) -> UserError:
    """One error for many problems: the first ones by line, and how many more there are."""
    lines = [f"  {problem}" for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  ... and {len(problems) - LISTED} more")
    return UserError("\n".join([headline, *lines]))
