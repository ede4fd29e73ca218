"""Archives read with suspicion: zip and tar (plain, gz, bz2, xz) whose members may only be files inside a folder.

Nothing here writes. A member with an absolute name, with ``..``, a link that leads out, a device file, or contents out
of proportion to the archive make the whole archive unacceptable before anything of it is unpacked. Links inside are
read as the file they mean; a link is never made.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from atelier.errors import UserError
from atelier.files import describe_os_error

_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_LARGEST_READ = 1 << 26  # one request; only a forged header asks for more
_LARGEST_MEMBER = 1 << 31
_HOPS = 8
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; beyond it is taken for a bomb.

    Attributes:
        total: bytes of all members.
        ratio: unpacked bytes to a byte of archive, once more than ``free`` bytes come out.
        free: up to this many bytes the ratio does not matter (a black picture shrinks well).
        members: how many files.
    """

    total: int = 200 * 10**9
    ratio: float = 100.0
    free: int = 100 * 10**6
    members: int = 2_000_000


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        index: its place in the archive.
        name: its path inside, with ``/``, checked.
        size: unpacked bytes.
        content: the place of the file that it means: another one for links.
    """

    index: int
    name: str
    size: int
    content: int


def is_archive(name: str) -> bool:
    """Whether a file is an archive by its name."""
    return name.lower().endswith(SUFFIXES)


def list_members(path: Path, limits: Limits) -> list[Member]:
    """All files of an archive.

    Raises:
        UserError: no archive, damaged, encrypted, or not acceptable (see the module).
    """
    room = path.stat().st_size if path.is_file() else 0
    found: dict[int, tuple[str, int]] = {}
    links: dict[int, tuple[str, str]] = {}
    total = 0
    with _opened(path) as archive:
        for index, entry in enumerate(_entries(archive)):
            name = _inside(entry.name, path)
            if entry.link is not None:
                links[index] = (name, _target(entry.name, entry.link, path))
                continue
            if entry.size is None:
                continue
            found[index] = (name, entry.size)
            total += entry.size
            if total > limits.total or len(found) + len(links) > limits.members:
                raise UserError(
                    f"{path} unpacks to more than {limits.total / 1e9:g} GB or {limits.members} files; "
                    "raise --max-gb if that is right"
                )
            if total > limits.free and total > limits.ratio * room:
                raise UserError(
                    f"{path} unpacks to more than {limits.ratio:g} times its size, as archive bombs do; "
                    "raise --max-ratio if that is right"
                )
    # Where a name is stored twice, the later one counts, as for every unpacking program.
    places = {name: index for index, (name, _) in found.items()}
    members = [Member(index, name, found[index][1], index) for name, index in places.items()]
    aims = dict(links.values())
    for index, (name, target) in links.items():
        hops = 0
        while target in aims and target not in places and hops < _HOPS:
            target, hops = aims[target], hops + 1
        if target in places:  # a link to a folder, or to nothing, stands for no file
            content = places[target]
            total += found[content][1]
            members.append(Member(index, name, found[content][1], content))
    if total > limits.total:
        raise UserError(f"{path} unpacks to more than {limits.total / 1e9:g} GB by its links")
    return sorted(members, key=lambda member: member.index)


def read_members(path: Path, members: Iterable[Member]) -> Iterator[tuple[Member, bytes | str]]:
    """The contents of some members of an archive that :func:`list_members` accepted, or why one cannot be read."""
    wanted = sorted(members, key=lambda member: member.content)
    done = 0
    try:
        with _opened(path) as archive:
            entries: list[Any] = archive.infolist() if isinstance(archive, zipfile.ZipFile) else []
            source = iter(archive) if isinstance(archive, tarfile.TarFile) else iter(())
            for member in wanted:
                while not isinstance(archive, zipfile.ZipFile) and len(entries) <= member.content:
                    entries.append(next(source))
                done += 1
                yield member, _content(archive, entries[member.content], member)
    except (UserError, StopIteration, *_BROKEN) as error:
        for member in wanted[done:]:
            yield member, f"{path}: {member.name} cannot be read: the archive is damaged ({error})"


def copy_member(path: Path, member: Member, target: Path) -> None:
    """Write one large member (an archive in an archive) to a file of ours.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with _opened(path) as archive, target.open("wb") as out:
            if isinstance(archive, zipfile.ZipFile):
                stream: IO[bytes] | None = archive.open(archive.infolist()[member.content])
            else:
                stream = archive.extractfile(list(archive)[member.content])
            if stream is None:
                raise ValueError("it is no file")
            left = member.size
            while left > 0 and (block := stream.read(min(left, 1 << 20))):
                try:
                    out.write(block)
                except OSError as error:
                    raise UserError(describe_os_error(error, target)) from error
                left -= len(block)
            if left or stream.read(1):
                raise ValueError("its size is not what the archive says")
    except _BROKEN as error:
        raise UserError(f"{path}: {member.name} cannot be unpacked: {error}") from error


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int | None  # None: a folder
    link: str | None


class _Bounded:
    """A decompressed stream that hands out no more than a sane amount at once.

    tarfile reads the extended header of a member in one piece of the size that its header states.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _LARGEST_READ:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        return self._stream.read(size)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """The archive, by its content; every error of reading becomes one sentence."""
    try:
        with path.open("rb") as raw:
            start = raw.read(512)
            raw.seek(0)
            if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                with zipfile.ZipFile(raw) as archive:
                    yield archive
                return
            if start[:2] == b"\x1f\x8b":
                stream: Any = gzip.GzipFile(fileobj=raw)
            elif start[:6] == b"\xfd7zXZ\0":
                stream = lzma.LZMAFile(raw)  # noqa: SIM115 (ends with the file below it)
            elif start[:3] == b"BZh":
                stream = bz2.BZ2File(raw)
            elif start[257:262] == b"ustar" or tarfile.is_tarfile(path):
                stream = raw
            else:
                raise UserError(f"{path} is no archive that can be read; known: {', '.join(SUFFIXES)}")
            with tarfile.open(fileobj=_Bounded(stream), mode="r:", errorlevel=1) as archive:  # type: ignore[call-overload]
                yield archive
    except _BROKEN as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"cannot read the archive {path}: {reason}; was its download cut short?") from error


def _entries(archive: zipfile.ZipFile | tarfile.TarFile) -> Iterator[_Entry]:
    where = archive.fp.name if isinstance(archive, zipfile.ZipFile) and archive.fp else "the archive"
    if isinstance(archive, tarfile.TarFile):
        for found in archive:
            if found.issym() or found.islnk():
                # A hard link names its file from the top, a symbolic one from its own folder.
                link = found.linkname if found.issym() else _from_top(found.name, found.linkname)
                yield _Entry(found.name, None, link)
            elif found.isreg() or found.isdir():
                yield _Entry(found.name, None if found.isdir() else found.size, None)
            else:
                raise UserError(f"the archive holds a device file or pipe, '{found.name}'; it is refused")
        return
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 1:
            raise UserError(f"{where}: '{info.filename}' is encrypted; unpack it with its password first")
        if kind == stat.S_IFLNK:
            if info.file_size > 4096:
                raise UserError(f"{where}: the link '{info.filename}' is longer than a path can be")
            yield _Entry(info.filename, None, archive.read(info).decode("utf-8", "replace"))
        elif kind in (0, stat.S_IFREG, stat.S_IFDIR):
            yield _Entry(info.filename, None if info.is_dir() else info.file_size, None)
        else:
            raise UserError(f"{where} holds a device file or pipe, '{info.filename}'; it is refused")


def _from_top(name: str, target: str) -> str:
    """A path from the archive's top as seen from the folder of ``name``; one that leads out stays as it is."""
    if posixpath.isabs(target) or ".." in target.split("/"):
        return "/" + target
    return posixpath.relpath(target, posixpath.dirname(name) or ".")


def _inside(name: str, path: Path) -> str:
    """The member's path without ``.`` parts, or an error where it leads out of the folder."""
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in parts or "\0" in plain:
        raise UserError(
            f"{path} holds '{name}', which would be written outside of the folder; the archive is refused"
        )
    return "/".join(parts)


def _target(name: str, link: str, path: Path) -> str:
    plain = link.replace("\\", "/")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(_inside(name, path)), plain))
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or there.split("/")[0] == "..":
        raise UserError(
            f"{path} holds a link '{name}' to '{link}', outside of the folder; the archive is refused"
        )
    return there


def _content(archive: zipfile.ZipFile | tarfile.TarFile, entry: Any, member: Member) -> bytes | str:
    try:
        if member.size > _LARGEST_MEMBER:
            raise ValueError(f"{member.size / 1e9:.1f} GB are too much for one picture")
        if isinstance(archive, zipfile.ZipFile):
            with archive.open(entry) as stream:
                data = stream.read(member.size + 1)
        else:
            found = archive.extractfile(entry)
            data = b"".join(iter(lambda: found.read(1 << 20), b"")) if found is not None else b""
        if len(data) != member.size:
            raise ValueError(f"{len(data)} bytes where the archive says {member.size}")
    except _BROKEN as error:
        return f"{member.name} cannot be read: {error}"
    return data
