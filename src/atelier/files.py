"""Files that are either whole or absent: write beside the target, flush to disk, rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from atelier.errors import UserError


def describe_os_error(error: OSError, path: Path) -> str:
    """A user's sentence for an operating-system error on ``path``."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EACCES: "no permission",
        errno.EPERM: "no permission",
        errno.EROFS: "the file system is read-only",
        errno.ENOENT: "the folder does not exist",
        errno.EFBIG: "the file system allows no file of this size",
    }
    return f"cannot write {path}: {reasons.get(error.errno or 0, error.strerror or str(error))}"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block ends without an error.

    The temporary name keeps the suffix (encoders look at it). On any error nothing is left behind and an older
    ``path`` stays as it was. Operating-system errors become :class:`UserError`.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:80]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; results should be as readable as any other file of the user.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(describe_os_error(error, path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary paths with the final names, in a hidden folder beside them; in the end all appear, or none.

    All ``paths`` lie in one folder; the first is the main file, and it appears last, so that whoever sees it finds the
    others. On any error nothing is left behind and older files stay as they were. Operating-system errors become
    :class:`UserError`.
    """
    folder = paths[0].parent
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{paths[0].stem[:80]}.", dir=folder))
        written = [temporary / path.name for path in paths]
        yield written
        umask = os.umask(0)
        os.umask(umask)
        for path in written:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o666 & ~umask)
        _replace_all(written, paths, temporary)
        _sync_folder(folder)
    except OSError as error:
        raise UserError(describe_os_error(error, paths[0])) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_all(written: Sequence[Path], paths: Sequence[Path], temporary: Path) -> None:
    moved: list[tuple[Path, Path]] = []
    try:
        # The old main file goes first: it must never stand beside companions that are not its own.
        steps = [(path, temporary / f"old.{path.name}") for path in paths if path.exists()]
        for before, after in [*steps, *reversed(list(zip(written, paths, strict=True)))]:
            before.rename(after)
            moved.append((before, after))
    except OSError:
        for before, after in reversed(moved):
            after.rename(before)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some file systems do not allow it, which costs nothing else."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_writable(path: Path) -> None:
    """Make the folder of ``path`` and try a file there, so that long work need not end in an error; leaves no file.

    Raises:
        UserError: :func:`atomic_path` could not write ``path``.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f".{path.stem[:80]}.", suffix=path.suffix, dir=path.parent):
            pass
    except OSError as error:
        raise UserError(describe_os_error(error, path)) from error


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write ``content`` (text as UTF-8) so that ``path`` is either the old or the whole new file."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
